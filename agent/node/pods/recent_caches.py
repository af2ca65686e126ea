"""What the store has, as it was a few seconds ago: many pods that start at once ask it once."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from agent.model import caches, images, records

_FRESH_SECONDS = 5.0


class Catalog(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog.

    None and what is left out is not there or damaged; TemporaryError: cannot be told.
    """

    async def caches(self) -> Sequence[records.CacheRecord]:
        """All Ready caches."""

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image."""


class Caches:
    """The Ready caches, read again when they are older than a few seconds.

    A hundred pods that start at once read them once.
    """

    def __init__(self, catalog: Catalog, *, seconds: float = _FRESH_SECONDS) -> None:
        self._catalog = catalog
        self._seconds = seconds
        self._views: tuple[caches.Cache, ...] = ()
        self._known: dict[str, caches.Cache] = {}
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def get(
        self, *, not_before: float | None = None
    ) -> tuple[tuple[caches.Cache, ...], float]:
        """The caches, and the loop's time at which their reading began.

        Those read before `not_before` do not do. Raises TemporaryError.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._seconds if not_before is None else not_before
        async with self._lock:
            if self._read_at is None or self._read_at < oldest:
                started = loop.time()
                found = await self._catalog.caches()
                # A view of thousands of images costs milliseconds: those that stay are kept.
                self._known = {record.id: self._view(record) for record in found}
                self._views, self._read_at = tuple(self._known.values()), started
            return self._views, self._read_at

    def _view(self, record: records.CacheRecord) -> caches.Cache:
        known = self._known.get(record.id)
        return known if known is not None and known.record == record else caches.cache_of(record)
