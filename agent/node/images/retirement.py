"""The node's half of deleting safely: let go of what is retired, and say what is held.

Whoever deletes from a store (agent.control) takes the caches, images and chains out
of it first and then publishes a new generation that names the layers. A node that has
seen the generation drops the images that nobody needs, looks at what is left, and
acknowledges the highest generation of which it holds nothing, on its node object.
Files go when all nodes have. So the order here is fixed: read the generation, only
then look. What comes to hold a retired layer after the look is refused by the
snapshotter, which looks for the chain again after each new mount.

Where that cannot be told, because containerd, the snapshotter or the store does not
answer or a record is damaged, nothing is acknowledged: the collector waits.
"""

import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent import errors, metrics
from agent.clients.containerd import rpc
from agent.model import keys, pods, records
from agent.mounts import mount_users
from agent.node.images import holdings, image_snapshots, inventory

logger = logging.getLogger(__name__)

_AT_ONCE = 1000


class CannotTellError(errors.TemporaryError):
    """What this node holds cannot be told now; str() says why."""


class Store(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def generation(self) -> int:
        """The newest generation of deletions, 0 before the first; AgentError: cannot be told."""

    async def retired(self, generation: int) -> records.RetiredRecord | None:
        """What a generation retires; None when its files have all been deleted already."""


class Board(Protocol):
    """Where acknowledgements are read by others: agent.node.health.node_object.Announcer."""

    async def annotations_before(self) -> Mapping[str, str]:
        """The annotations that the node had before this agent."""

    def annotate(self, **annotations: str | None) -> None:
        """Write annotations; never waits."""


class NoBoard:
    """Without a cluster nobody waits for this node: what is retired is dropped all the same."""

    async def annotations_before(self) -> Mapping[str, str]:
        """None."""
        return {}

    def annotate(self, **annotations: str | None) -> None:
        """Nothing: /status has it."""


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of deletions."""

    generation: int = 0
    acknowledged: int = 0
    held: Sequence[str] = ()
    sentence: str = "not looked yet"


class Retirer:
    """Looks every `interval` seconds whether something was retired.

    `root` gives the snapshotter's root folder, "" before that is known; `on_node` the
    pods of this node, None before they are known.
    """

    def __init__(
        self,
        store: Store,
        client: rpc.Client,
        known: image_snapshots.Chains,
        stock: inventory.Inventory,
        board: Board,
        *,
        root: Callable[[], str],
        on_node: Callable[[], Sequence[pods.Pod] | None],
        interval: float = 30.0,
        look_at_mounts: Callable[[str], mount_users.Layers] = mount_users.of,
    ) -> None:
        self._store = store
        self._client = client
        self._chains = known
        self._stock = stock
        self._board = board
        self._root = root
        self._on_node = on_node
        self._interval = interval
        self._look_at_mounts = look_at_mounts
        self.state = State()

    async def run(self) -> None:
        """Look for ever. Before anything else the node says what it has acknowledged."""
        await self.begin()
        while True:
            try:
                sentence = await self.look()
            except errors.AgentError as error:
                sentence = f"Nothing new is acknowledged: {error}"
            if sentence != self.state.sentence:
                logger.info("looked at what is retired", extra={"outcome": sentence})
            self.state.sentence = sentence
            await asyncio.sleep(self._interval)

    async def begin(self) -> None:
        """Take over what the last agent of this node acknowledged, else nothing.

        That stays true while no agent runs: what was let go cannot come back, as the
        snapshotter serves nothing that is retired.
        """
        before = (await self._board.annotations_before()).get(keys.GENERATION, "")
        self._acknowledge(int(before) if before.isascii() and before.isdigit() else 0, ())

    async def look(self) -> str:
        """Let go of what is retired and acknowledge what is gone; one sentence about it."""
        newest = await self._store.generation()
        self.state.generation = newest
        metrics.GENERATION.labels("seen").set(newest)
        if newest < self.state.acknowledged:
            # Another store, or one from a backup: its generations are others.
            self._acknowledge(0, ())
        if newest == self.state.acknowledged:
            return f"Nothing is held of generation {newest} and before."
        stock = await self._take_stock()
        if stock.is_empty:
            self._acknowledge(newest, ())
            return f"Nothing is held of generation {newest} and before."
        return await self._let_go(newest, stock)

    async def _let_go(self, newest: int, stock: holdings.Stock) -> str:
        proven, left = self.state.acknowledged, list[holdings.Held]()
        dropped = 0
        for number in range(proven + 1, min(newest, proven + _AT_ONCE) + 1):
            record = await self._store.retired(number)
            if record is not None:
                retired = holdings.Retired.of(record)
                here = await self._served(holdings.candidates(stock, retired))
                if here and (gone := await self._drop(here)):
                    dropped += gone
                    stock = await self._take_stock()
                    here = await self._served(holdings.candidates(stock, retired))
                left += holdings.held(stock, retired, here, snapshotter=self._chains.snapshotter)
            if not left:
                proven = number
        self._acknowledge(proven, holdings.shown(left))
        sentence = f"Nothing is held of generation {proven} and before; {newest} is the newest."
        if left:
            layers = len({entry.diff_id for entry in left})
            sentence = f"{sentence} {layers} layers are held: {left[0].sentence}."
        return f"{sentence} {dropped} images were dropped." if dropped else sentence

    async def _take_stock(self) -> holdings.Stock:
        """What this node has now.

        Mounts are looked at after snapshots, and both after the generation was read.
        """
        root = self._root()
        if not root:
            raise CannotTellError("the snapshotter is not known yet")
        on_node = self._on_node()
        if on_node is None:
            raise CannotTellError("the pods of this node are not known yet")
        snapshots = await self._client.snapshots(self._chains.snapshotter)
        containers = await self._client.containers()
        images = await self._stock.all()
        loop = asyncio.get_running_loop()
        layers = await loop.run_in_executor(None, self._look_at_mounts, f"{root}/layers")
        return holdings.Stock(
            snapshots=snapshots,
            layers=layers,
            present=images,
            containers=containers,
            on_node=on_node,
        )

    async def _served(self, candidates: frozenset[str]) -> frozenset[str]:
        """Those that are served from the store: they take no inode of the local disk."""
        found = set()
        for chain in candidates:
            try:
                if not await self._client.usage(self._chains.snapshotter, chain):
                    found.add(chain)
            except rpc.NotFoundError:
                continue
        return frozenset(found)

    async def _drop(self, here: frozenset[str]) -> int:
        """Remove the images that nobody needs, and have what they stood on collected."""
        # Nothing is registered meanwhile: what a pod has just asked for is needed.
        async with self._chains.gate.alone():
            stock = await self._take_stock()
            going = holdings.droppable(stock, here, snapshotter=self._chains.snapshotter)
            for record in (record for image in going for record in image.records):
                await self._client.delete_image(record.name)
            if going:
                await self._chains.collect()
        if going:
            logger.info(
                "images of deleted caches are dropped",
                extra={"images": [image.records[0].name for image in going]},
            )
        return len(going)

    def _acknowledge(self, generation: int, held: Sequence[str]) -> None:
        self.state.acknowledged, self.state.held = generation, held
        metrics.GENERATION.labels("acknowledged").set(generation)
        self._board.annotate(
            **{
                keys.GENERATION: str(generation),
                keys.HELD: json.dumps(list(held)) if held else None,
            }
        )
