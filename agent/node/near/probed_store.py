"""What the probe asks: does the store answer, and how many images could be had without it?"""

import asyncio
import pathlib
from typing import Protocol

from agent.kits.aio import threads
from agent.local import mirror
from agent.metrics import copy_metrics
from agent.model import records
from agent.mounts import mountpoints

_SOON, _LATER = 5.0, 60.0
"""For which a count is good, until all are complete, and then. Some may never be: they have no
room, or their pods have ended."""
_REST = 500
"""Times as long as the last count took, at most `_LATER`: with hundreds of images that is long."""


class Store(Protocol):
    """The store itself: agent.store.lookup.catalog.Catalog."""

    async def store(self) -> records.StoreRecord:
        """What the folder is; AgentError when it is no store, or does not answer."""


class ProbedStore:
    """The store, and what a node that `has_copies` has of it."""

    def __init__(self, store: Store, *, has_copies: bool) -> None:
        self._store = store
        self._has_copies = has_copies
        self._count_at = float("-inf")
        self._count = 0

    async def store(self) -> records.StoreRecord:
        """What the folder is; AgentError when it is no store, or does not answer."""
        return await self._store.store()

    async def local_images(self, root: str) -> int:
        """How many images this node serves without it; `root` is the snapshotter's folder."""
        now = asyncio.get_running_loop().time()
        if root and self._has_copies and now >= self._count_at:
            here = mirror.Mirror(pathlib.Path(root) / mountpoints.COPIES)
            self._count, known = await threads.run("complete images", _count, here)
            ended = asyncio.get_running_loop().time()
            rest = min(_LATER, max(_SOON, (ended - now) * _REST))
            self._count_at = ended + (_LATER if self._count == known > 0 else rest)
            copy_metrics.LOCAL_IMAGES.set(self._count)
        return self._count


def _count(here: mirror.Mirror) -> tuple[int, int]:
    """The images of which everything is here, and all whose records are."""
    return len(here.complete()), len(here.images())
