"""The collector of the controller: deletes layers that no cache names and no node holds.

It runs in the leader, one round after the other. Between rounds it remembers only when a
decision was announced, and what the store looked like. After a restart, or a round that failed,
it waits again and reads everything.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from agent import errors
from agent.control.gc import collector_worker, roster
from agent.kits import units
from agent.kits.processes import workers
from agent.metrics import cache_metrics
from agent.store.gc import collection

logger = logging.getLogger(__name__)


class Nodes(Protocol):
    """The nodes of the cluster, as the API server has them now (not a cache of them)."""

    async def list_nodes(self) -> Sequence[roster.Node]:
        """All nodes; raises AgentError where they cannot be listed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    interval: float = 60.0
    """Between rounds, unless one is asked for."""

    settle: float = collection.SETTLE_SECONDS
    """Until builders on all machines see an announced decision."""

    grace: float = 86400.0
    """For a node that is gone from the cluster: its pods may run on."""

    deadline: float = 1800.0
    """For one round in the store."""

    thorough: float = 3600.0
    """After this, read the whole store even where nothing seems to have changed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The result of the last round: for people, and for the message of a deletion."""

    sentence: str = "no round yet"
    newest: int = 0
    waiting: Sequence[int] = ()
    nodes: Sequence[roster.Node] = ()
    acknowledged: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Where:
    """The store: its root folder, and the UID of the cluster that it must belong to."""

    root: str
    cluster: str


class Collector:
    """Collects in the store `where`, by the workers of `pool`."""

    def __init__(
        self,
        where: Where,
        pool: workers.Caller,
        nodes: Nodes,
        *,
        patience: Patience | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._where = where
        self._pool = pool
        self._nodes = nodes
        self._patience = patience or Patience()
        self._wall_clock = wall_clock
        self._announced: dict[str, float] = {}
        self._seen = ""
        self._seen_at = 0.0
        self._indexed_at: float | None = None
        self._asked = asyncio.Event()
        self.state = State()

    def ask(self) -> None:
        """Have a round soon: a cache was deleted, or a node released something."""
        self._asked.set()

    async def run(self) -> None:
        """Do rounds for ever; a failed one is repeated by the next."""
        while True:
            try:
                sentence = await self.round()
            except (errors.AgentError, OSError) as error:
                self._forget()
                cache_metrics.collected("failed")
                sentence = f"Nothing was deleted: {error}"
            if sentence != self.state.sentence:
                logger.info("collected", extra={"outcome": sentence})
            self.state = dataclasses.replace(self.state, sentence=sentence)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._asked.wait()
            self._asked.clear()

    async def round(self) -> str:
        """Read nodes and store, do the next step; returns one sentence about it."""
        nodes = await self._nodes.list_nodes()
        reporting = [
            (node.name, node.acknowledged) for node in nodes if node.acknowledged is not None
        ]
        kind, result = await self._pool.call(
            "collect",
            self._where.root,
            reporting,
            self._orders(nodes),
            {"now": self._wall_clock(), "grace": self._patience.grace},
            deadline=self._patience.deadline,
        )
        if kind != collector_worker.DONE:
            self._forget()
            cache_metrics.collected("busy" if kind == collector_worker.BUSY else "refused")
            return f"Nothing was deleted: {result}"
        return self._note(nodes, result)

    def holders(self, cache_id: str) -> str:
        """What a deleted cache waits for, by the last round; "" for nothing."""
        who = roster.holders(self.state.nodes, cache_id)
        waiting = min(self.state.waiting, default=0)
        silent = [name for name, number in self.state.acknowledged.items() if number < waiting]
        return roster.waiting_sentence(cache_id, who, sorted(silent))

    def _orders(self, nodes: Sequence[roster.Node]) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        patience = self._patience
        return {
            "settled": [
                token for token, since in self._announced.items() if now - since >= patience.settle
            ],
            "held": sorted(roster.held_layers(nodes)),
            "cluster": self._where.cluster,
            "seen": self._seen if now - self._seen_at < patience.thorough else "",
            "index": self._is_index_due(now),
        }

    def _is_index_due(self, now: float) -> bool:
        """An earlier version's command or builder may have published a cache without entries."""
        return self._indexed_at is None or now - self._indexed_at >= self._patience.thorough

    def _forget(self) -> None:
        self._announced.clear()
        self._seen = ""

    def _note(self, nodes: Sequence[roster.Node], result: Mapping[str, Any]) -> str:
        # Only now: what was announced in this round was written before it ended.
        now = asyncio.get_running_loop().time()
        before = self._announced
        self._announced = {token: before.get(token, now) for token in result["announced"]}
        self._seen = result["seen"]
        if not result["unchanged"]:
            self._seen_at = now
        if self._is_index_due(now):
            self._indexed_at = now
        self.state = dataclasses.replace(
            self.state,
            newest=result["newest"],
            waiting=tuple(result["waiting"]),
            nodes=tuple(nodes),
            acknowledged=result["nodes"],
        )
        cache_metrics.collected("done")
        cache_metrics.COLLECTED_LAYERS.inc(result["layers"])
        cache_metrics.COLLECTED_BYTES.inc(result["freed"])
        if not result["complete"]:
            self.ask()
        return _sentence(result)

    def _pause(self) -> float:
        """Seconds until the next round: fewer where a decision settles before."""
        loop = asyncio.get_running_loop()
        due = [since + self._patience.settle - loop.time() for since in self._announced.values()]
        return max(0.0, min([self._patience.interval, *due]))


def _sentence(result: Mapping[str, Any]) -> str:
    parts = []
    if result["layers"]:
        freed = units.size(result["freed"])
        parts.append(f"{result['layers']} layers were deleted, which frees {freed}.")
    if result["announced"]:
        parts.append(f"{len(result['announced'])} decisions are announced.")
    if result["waiting"]:
        first = min(result["waiting"])
        silent = sum(number < first for number in result["nodes"].values())
        parts.append(
            f"{len(result['waiting'])} generations are retired; {silent} of {len(result['nodes'])}"
            f" nodes still hold layers of the first, {first}."
        )
    return " ".join(parts) or "Nothing is to be deleted."
