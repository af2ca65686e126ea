"""Layers that snapshots are recorded with, and that the store calls damaged since.

`store check` may find a layer damaged that this node serves already. So the records of all
recorded layers are read again at a bounded pace, and before each new mount for a container.
The snapshots on a layer that is damaged are given up: containers that run go on, the node agent
finds that the image has lost its snapshot, and has it served again, with the layer that was built
again, or pulled. Doubt changes nothing: a store that does not answer makes no layer damaged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from agent.kits.aio import backoff
from agent.metrics import shared_metrics
from agent.snapshotter import state_db
from agent.snapshotter.lookup import answers

logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""Records that are read in one call of a worker."""
_PAUSE_SECONDS = 1.0
"""Between two such calls, where nothing waits for them."""
_JITTER = 0.25
_FRESH_SECONDS = 5.0
"""For which a record that was read is not read again: a hundred containers start at once."""


class DamagedLayers:
    """Looks for damaged layers among those of a database; `give_up` forgets what stands on one."""

    def __init__(
        self,
        lookup: answers.Lookup,
        database: state_db.Database,
        give_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._lookup = lookup
        self._database = database
        self._give_up = give_up
        self._read_at: dict[str, float] = {}
        self._turn = asyncio.Lock()

    async def run(self, seconds: float) -> None:
        """Look at all recorded layers about every so many seconds, for ever."""
        while True:
            recorded = sorted(self._database.read.diff_ids())
            for first in range(0, len(recorded), _AT_ONCE):
                await self.look(recorded[first : first + _AT_ONCE])
                await asyncio.sleep(_PAUSE_SECONDS)
            left = self._database.read.diff_ids()
            self._read_at = {each: when for each, when in self._read_at.items() if each in left}
            await asyncio.sleep(backoff.spread(seconds, _JITTER))

    async def look(self, diff_ids: Collection[str]) -> None:
        """Give up those layers that are damaged, unless their records have just been read.

        Raises nothing foreseen.
        """
        async with self._turn:
            now = asyncio.get_running_loop().time()
            fresh = now - _FRESH_SECONDS
            due = [each for each in diff_ids if self._read_at.get(each, fresh) <= fresh]
            for first in range(0, len(due), _AT_ONCE):
                part = due[first : first + _AT_ONCE]
                damaged = await self._lookup.damaged(part)
                if damaged is None:
                    return
                self._read_at.update(dict.fromkeys(part, now))
                for diff_id, reason in damaged.items():
                    await self._leave(diff_id, reason)

    async def _leave(self, diff_id: str, reason: str) -> None:
        shared_metrics.record_damaged("layer")
        logger.warning(
            "a layer of snapshots is damaged in the store; create the caches that use it again",
            extra={"layer": diff_id, "reason": reason},
        )
        # It may be recorded again, with the same name, once the store has a sound one.
        self._read_at.pop(diff_id, None)
        await self._give_up(diff_id)
