"""The node's half of deleting safely: release what is retired, and report what is held.

The controller (agent.control) first removes caches, images and chains from the store and
then publishes a new generation that names the retired layers. A node that has seen the
generation removes the images that nothing needs, checks what is left, and acknowledges
on its node object the highest generation of which it holds nothing. Files are deleted
when all nodes have acknowledged. So the order here is fixed: read the generation, and
only then check. The snapshotter refuses a retired layer after that check, because it
looks up the chain again after each new mount.

Where containerd, the snapshotter or the store does not answer, or a record is damaged,
nothing is acknowledged, and the collector waits.
"""

import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import backoff, threads
from agent.local import copy_marks
from agent.metrics import node_metrics
from agent.model import keys, pods, records
from agent.mounts import mount_users
from agent.node.health import node_root
from agent.node.images import containerd_images, holdings

logger = logging.getLogger(__name__)

_MOST_OUTLIVED = 100
"""Generations that are looked after once acknowledged; images of older ones go as others do."""
_AT_ONCE = 1000
_LONGEST_SPREAD = 600.0


class UnknownHoldingsError(errors.TemporaryError):
    """What this node holds is not known now; str() says why."""


class Store(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def generation(self) -> int:
        """The newest generation of deletions, 0 before the first; AgentError: not known now."""

    async def generation_spread(self) -> float:
        """The seconds within which nodes look at it; AgentError: not known now."""

    async def store(self) -> records.StoreRecord:
        """What the store is; AgentError: not known now."""

    async def retired(self, generation: int) -> records.RetiredRecord | None:
        """What a generation retires; None when its files have all been deleted already."""


class Board(Protocol):
    """Where the controller reads acknowledgements: agent.node.health.node_object.Announcer."""

    async def annotations_before(self) -> Mapping[str, str]:
        """The annotations that the node had before this agent."""

    def annotate(self, **annotations: str | None) -> None:
        """Write annotations; never waits."""


class Node(node_root.Rooted, Protocol):
    """This node, as the agent knows it."""

    def on_node(self) -> Sequence[pods.Pod] | None:
        """The pods bound to this node, None before they are known."""


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of deletions."""

    generation: int = 0
    acknowledged: int = 0
    held: Sequence[str] = ()
    sentence: str = "not checked yet"


class Retirer:
    """Checks every `interval` seconds whether something was retired."""

    def __init__(
        self,
        store: Store,
        containerd: containerd_images.ContainerdImages,
        board: Board,
        node: Node,
        *,
        interval: float = 30.0,
        layers_at: Callable[[str], mount_users.Layers] = mount_users.with_copies,
    ) -> None:
        self._store = store
        self._client = containerd.client
        self._chains = containerd.chains
        self._inventory = containerd.inventory
        self._board = board
        self._node = node
        self._interval = interval
        self._layers_at = layers_at
        self._outlived: dict[int, holdings.Retired] = {}
        """Generations that were acknowledged while containers ran on copies of their layers."""
        self._seen = 0
        """The newest generation for which this node's moment has come."""
        self.state = State()

    async def run(self) -> None:
        """Check for ever. Before anything else the node says what it has acknowledged."""
        await self.begin()
        while True:
            try:
                sentence = await self.look()
            except errors.AgentError as error:
                sentence = f"Nothing new is acknowledged: {error}"
            if sentence != self.state.sentence:
                logger.info("checked retired layers", extra={"outcome": sentence})
            self.state.sentence = sentence
            await asyncio.sleep(self._interval)

    async def begin(self) -> None:
        """Acknowledge again what the last agent of this node did, or nothing.

        That stays true while no agent runs: what was released cannot come back, as the
        snapshotter serves nothing that is retired.
        """
        before = (await self._board.annotations_before()).get(keys.GENERATION, "")
        self._acknowledge(int(before) if before.isascii() and before.isdigit() else 0, ())

    async def look(self) -> str:
        """Release what is retired and acknowledge what is gone; one sentence about it."""
        if self._outlived:
            await self._drop_outlived()
        newest = await self._store.generation()
        if newest > max(self._seen, self.state.acknowledged):
            self._seen = newest = await self._at_own_moment(newest)
        self.state.generation = newest
        node_metrics.GENERATION.labels("seen").set(newest)
        if newest < self.state.acknowledged:
            # Another store, or one from a backup: its generations are others.
            self._acknowledge(0, ())
        if newest == self.state.acknowledged:
            return f"Nothing is held of generation {newest} and before."
        stock = await self._take_stock()
        if stock.is_empty:
            self._acknowledge(newest, ())
            return f"Nothing is held of generation {newest} and before."
        return await self._release(newest, stock)

    async def _at_own_moment(self, newest: int) -> int:
        """Wait for this node's moment; the newest generation then, which is done as well."""
        spread = min(await self._store.generation_spread(), _LONGEST_SPREAD)
        if spread <= 0:
            return newest
        await asyncio.sleep(backoff.within(spread))
        return await self._store.generation()

    async def _release(self, newest: int, stock: holdings.Stock) -> str:
        proven, left = self.state.acknowledged, list[holdings.Held]()
        dropped = 0
        for number in range(proven + 1, min(newest, proven + _AT_ONCE) + 1):
            record = await self._store.retired(number)
            if record is not None:
                retired = holdings.Retired.of(record)
                here = await self._chains.served(holdings.candidates(stock, retired))
                if here and (gone := await self._drop(here)) is not None:
                    dropped += gone
                    stock = await self._take_stock()
                    here = await self._chains.served(holdings.candidates(stock, retired))
                if outliving := holdings.outliving(stock, retired):
                    self._note_outlived(retired)
                    await self._keep_copies(outliving)
                    stock = await self._take_stock()
                left += holdings.held(
                    stock,
                    retired,
                    here,
                    snapshotter=self._chains.snapshotter,
                    outliving=outliving,
                )
            if not left:
                proven = number
        store_id = (await self._store.store()).id if left else ""
        self._acknowledge(proven, left, store_id)
        sentence = f"Nothing is held of generation {proven} and before; {newest} is the newest."
        if left:
            layers = len({entry.diff_id for entry in left})
            sentence = f"{sentence} {layers} layers are held: {left[0].sentence}."
        return f"{sentence} {dropped} images were dropped." if dropped else sentence

    def _note_outlived(self, retired: holdings.Retired) -> None:
        self._outlived[retired.generation] = retired
        while len(self._outlived) > _MOST_OUTLIVED:
            del self._outlived[min(self._outlived)]

    async def _drop_outlived(self) -> None:
        """Remove images of what was acknowledged, once their last containers have ended.

        The store has nothing of them by then, and nothing else would ask for them again.
        """
        for number, retired in list(self._outlived.items()):
            here = await self._chains.served(holdings.candidates(await self._take_stock(), retired))
            if not here or await self._drop(here) is not None:
                left = holdings.candidates(await self._take_stock(), retired)
                if not await self._chains.served(left):
                    del self._outlived[number]

    async def _take_stock(self) -> holdings.Stock:
        """What this node has now.

        Mounts are read after snapshots, and both after the generation.
        """
        root = self._node.root
        if not root:
            raise UnknownHoldingsError("the snapshotter is not known yet")
        on_node = self._node.on_node()
        if on_node is None:
            raise UnknownHoldingsError("the pods of this node are not known yet")
        snapshots = await self._client.snapshots(self._chains.snapshotter)
        containers = await self._client.containers()
        if others := await self._chains.elsewhere(containers):
            raise UnknownHoldingsError(
                f"{len(others)} containers still read the store by the snapshotter that this node"
                " had before: wait for their end, or delete their pods"
            )
        images = await self._inventory.all()
        layers = await threads.run("mounts", self._layers_at, f"{root}/layers")
        return holdings.Stock(
            snapshots=snapshots,
            layers=layers,
            present=images,
            containers=containers,
            on_node=on_node,
        )

    async def _keep_copies(self, diff_ids: Sequence[str]) -> None:
        """Have copies kept for what runs on them. What is mounted is looked at again after that."""
        try:
            await threads.run("copies", copy_marks.keep, self._node.root, diff_ids)
        except OSError as error:
            reason = f"copies of deleted layers cannot be marked: {error}"
            raise UnknownHoldingsError(reason) from error

    async def _drop(self, here: frozenset[str]) -> int | None:
        """Remove the images that nothing needs, and have their snapshots collected.

        The same for layers that wait for a pull. Returns how many images; None: all is in use.
        """
        # Nothing is registered meanwhile: an image that a pod has just asked for is needed.
        async with self._chains.gate.alone():
            stock = await self._take_stock()
            going = holdings.droppable(stock, here, snapshotter=self._chains.snapshotter)
            for record in (record for image in going for record in image.records):
                await self._client.delete_image(record.name)
            unused = holdings.unused(stock, here, snapshotter=self._chains.snapshotter)
            for chain in unused:
                await self._chains.end_lease_for_pull(chain)
            if not (going or unused):
                return None
            await self._chains.collect()
        if going:
            logger.info(
                "removed images of deleted caches",
                extra={"images": [image.records[0].name for image in going]},
            )
        return len(going)

    def _acknowledge(
        self, generation: int, left: Sequence[holdings.Held], store_id: str = ""
    ) -> None:
        """Say what is held: in full on this node, in tags to all who can read nodes."""
        self.state.acknowledged = generation
        self.state.held = holdings.shown(entry.sentence for entry in left)
        held = holdings.shown(entry.entry(store_id) for entry in left)
        node_metrics.GENERATION.labels("acknowledged").set(generation)
        self._board.annotate(
            **{
                keys.GENERATION: str(generation),
                keys.HELD: json.dumps(held) if held else None,
            }
        )
