"""Layers' records, of the store and of the local copies.

A copy is of the store's layer if both have the same record. The same layer in another store may
have other bytes, and one must never be put behind a mount of the other.
"""

import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from agent import errors
from agent.local import copy_paths
from agent.model import digests, records
from agent.node.near import layer_copy
from agent.store import decoding

_FRESH_SECONDS = 600.0


class Store(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def store(self) -> records.StoreRecord:
        """What the store is; AgentError: not known now."""

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a layer; None when it is not there, or damaged. TemporaryError: not now."""


class Records:
    """Reads records, and keeps those of the store for some minutes."""

    def __init__(self, store: Store, pool: layer_copy.Caller) -> None:
        self._store = store
        self._pool = pool
        self._known: dict[str, tuple[records.LayerRecord | None, float]] = {}
        self._checked_at = time.monotonic()
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
            before = await self._store.store()
            for name in copies:
                self._known.pop(name, None)
                if await self.same(where, name) is None:
                    gone.add(name)
            # A folder on which the store is not mounted has no layers either.
            if (await self._store.store()).id == before.id:
                self._deleted = frozenset(gone)
        except errors.AgentError:
            self._deleted = frozenset()
        return self._deleted


def _content(record: records.LayerRecord) -> tuple[int, str]:
    return record.size, record.sha256
