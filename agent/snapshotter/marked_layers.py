"""Layers of which the agent has read wrong bytes from the store, while it made local copies.

The agent marks them in its folder of copies. This node does not serve them for an hour: the
snapshots that stand on them are given up, and look-ups refuse them (`lookup`). What runs on
them runs on. A copy that is there is right, whatever the store has.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator

from agent.local import copy_paths, disk
from agent.metrics import snapshotter_metrics

logger = logging.getLogger(__name__)


class MarkedLayers:
    """Looks for marks in the folder of copies; `give_up` forgets what stands on a layer."""

    def __init__(
        self, where: copy_paths.CopyPaths, give_up: Callable[[str], Awaitable[None]]
    ) -> None:
        self._where = where
        self._give_up = give_up
        self._seen: dict[str, float] = {}

    async def run(self, pause: float) -> None:
        """Look regularly, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Give up the layers that were marked since the last look."""
        marked = dict(self._marked())
        for name, marked_at in marked.items():
            if self._seen.get(name) != marked_at:
                snapshotter_metrics.CORRUPT_LAYERS.inc()
                logger.error(
                    "bytes of a layer are not what was built: its images are pulled;"
                    " run `uimgacc store check`",
                    extra={"layer": f"sha256:{name}"},
                )
                await self._give_up(f"sha256:{name}")
        self._seen = marked

    def _marked(self) -> Iterator[tuple[str, float]]:
        """Names and times of the marks that count. Reads a local folder of few files."""
        oldest = time.time() - disk.MARKED_SECONDS
        try:
            entries = os.listdir(self._where.marks)
        except OSError:
            return
        for name in entries:
            try:
                marked_at = os.stat(self._where.mark(name)).st_mtime
            except OSError:
                continue
            if marked_at > oldest and not os.path.exists(self._where.layer(name)):
                yield name, marked_at
