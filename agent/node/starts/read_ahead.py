"""Reading ahead what starts are known to read: in the background, and bounded.

Parts of several images take turns, in the order in which each start needs its own. Nothing waits
for this, and it gives up as soon as the store does not answer: what a start needs it then reads
by itself, as it would without.
"""

import asyncio
import collections
import dataclasses
import logging

from agent import errors
from agent.kits.processes import workers
from agent.local import copy_paths
from agent.metrics import start_metrics
from agent.model.starts import start_profiles
from agent.node.health import node_root

logger = logging.getLogger(__name__)

_BATCH = (32 << 20) // start_profiles.UNIT
"""Units of one call: the next image waits no longer for its turn."""

_IMAGES = 64
_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The store, how many bytes are read for one image, and how many requests at a time."""

    store: str
    limit: int
    requests: int


class ReadAhead:
    """Reads ahead; `pool` runs agent.node.starts.start_files, apart from what observes starts."""

    def __init__(self, pool: workers.Caller, node: node_root.Rooted, wanted: Settings) -> None:
        self._pool = pool
        self._node = node
        self._settings = wanted
        self._waiting: collections.OrderedDict[str, collections.deque[tuple[str, int, int]]] = (
            collections.OrderedDict()
        )
        self._added = asyncio.Event()

    def add(self, image: str, profile: start_profiles.Profile) -> None:
        """Have what a profile says read; never waits."""
        if image in self._waiting or len(self._waiting) >= _IMAGES:
            return
        left = self._settings.limit // start_profiles.UNIT
        pieces: collections.deque[tuple[str, int, int]] = collections.deque()
        for piece in profile.pieces:
            if left <= 0:
                break
            length = min(left, piece.length)
            left -= length
            pieces.append((profile.layers[piece.layer], piece.start, length))
        if pieces:
            self._waiting[image] = pieces
            self._added.set()

    async def run(self) -> None:
        """Read ahead for ever."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                await self._read(self._next())

    def _next(self) -> list[tuple[str, int, int]]:
        """The pieces of the next call: one of each image in turn, until it is full."""
        batch: list[tuple[str, int, int]] = []
        left = _BATCH
        while self._waiting and left > 0:
            image, pieces = self._waiting.popitem(last=False)
            layer, start, length = pieces.popleft()
            left -= length
            batch.append((layer, start, length))
            if pieces:
                self._waiting[image] = pieces
        return batch

    async def _read(self, batch: list[tuple[str, int, int]]) -> None:
        unit = start_profiles.UNIT
        copies = copy_paths.of(self._node.root).folder if self._node.root else ""
        wanted = [
            (layer.removeprefix("sha256:"), start * unit, length * unit)
            for layer, start, length in batch
        ]
        try:
            done, failed = await self._pool.call(
                "read_ahead",
                self._settings.store,
                copies,
                wanted,
                self._settings.requests,
                deadline=_SECONDS,
            )
        except (OSError, errors.AgentError) as error:
            self._waiting.clear()
            start_metrics.READ_AHEAD_STOPPED.inc()
            logger.warning("nothing more is read ahead", extra={"reason": str(error)})
            return
        start_metrics.READ_AHEAD_BYTES.inc(done)
        logger.debug("read ahead", extra={"bytes": done, "failed": failed})
