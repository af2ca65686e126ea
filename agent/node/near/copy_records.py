"""Layers' records, of the store and of the local copies.

A copy is of the store's layer if both have the same record. The same layer in another store may
have other bytes, and one must never be put behind a mount of the other.
"""

import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from agent import errors
from agent.kits.processes import workers
from agent.local import copy_paths
from agent.model import digests, records
from agent.node.near import layer_copy
from agent.store import decoding

_FRESH_SECONDS = 600.0
_ALL_SECONDS = 3600.0
"""After which all copies' records are compared with the store's where it has no new generation of
deletions: the records go after that is there."""


class Store(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def store(self) -> records.StoreRecord:
        """What the store is; AgentError: not known now."""

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a layer; None when it is not there, or damaged. TemporaryError: not now."""

    async def generation(self) -> int:
        """The newest generation of deletions. Raises AgentError."""


class Records:
    """Reads records, and keeps those of the store for some minutes."""

    def __init__(self, store: Store, pool: workers.Caller) -> None:
        self._store = store
        self._pool = pool
        self._known: dict[str, tuple[records.LayerRecord | None, float]] = {}
        self._checked_at = time.monotonic()
        self._seen: tuple[str, int] | None = None
        self._seen_until = 0.0
        self._deleted: frozenset[str] = frozenset()

    async def of_store(self, name: str) -> records.LayerRecord | None:
        """The record of a layer without what only builders need; TemporaryError: not known now."""
        fresh = time.monotonic() - _FRESH_SECONDS
        known, read_at = self._known.get(name, (None, fresh))
        if read_at > fresh:
            return known
        record = await self._store.layer(digests.DiffID(f"sha256:{name}"))
        if record is not None:
            record = msgspec.structs.replace(record, implied=[], implied_packed="")
        self._known = {key: each for key, each in self._known.items() if each[1] > fresh}
        self._known[name] = (record, time.monotonic())
        return record

    def read(self, name: str) -> records.LayerRecord | None:
        """What `of_store` has just returned."""
        return self._known.get(name, (None, 0.0))[0]

    async def of_copy(self, where: copy_paths.CopyPaths, name: str) -> records.LayerRecord | None:
        """The record that a copy was verified by; None where it has none."""
        data = await self._pool.call(
            "read_record", where.folder, name, deadline=layer_copy.DISK_SECONDS
        )
        try:
            return decoding.layer(data, f"sha256:{name}")
        except records.RecordError:
            return None

    async def same(self, where: copy_paths.CopyPaths, name: str) -> records.LayerRecord | None:
        """The record that the store's layer and its copy have both; None where they differ."""
        own, other = await self.of_copy(where, name), await self.of_store(name)
        return own if own and other and _content(own) == _content(other) else None

    async def deleted(self, where: copy_paths.CopyPaths, copies: Iterable[str]) -> frozenset[str]:
        """The copies whose layers the store has no more; as of some minutes ago.

        Where the store does not answer, nothing is known to be deleted.
        """
        if time.monotonic() < self._checked_at + _FRESH_SECONDS:
            return self._deleted
        self._checked_at = time.monotonic()
        gone = set()
        try:
            seen = await self._identity()
            if seen == self._seen and time.monotonic() < self._seen_until:
                return self._deleted
            for name in copies:
                self._known.pop(name, None)
                if await self.same(where, name) is None:
                    gone.add(name)
            # A folder on which the store is not mounted has no layers either.
            if (await self._identity())[0] == seen[0]:
                self._deleted = frozenset(gone)
                self._seen, self._seen_until = seen, time.monotonic() + _ALL_SECONDS
        except errors.AgentError:
            self._deleted, self._seen = frozenset(), None
        return self._deleted

    async def _identity(self) -> tuple[str, int]:
        """Which store it is, and what it has deleted: while both stay, so do its layers."""
        return (await self._store.store()).id, await self._store.generation()


def _content(record: records.LayerRecord) -> tuple[int, str]:
    return record.size, record.sha256
