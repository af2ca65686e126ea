"""The store as the controller uses it: every call in a worker that can be killed."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from agent import errors
from agent.control.reconcile import outcome
from agent.model import builds, records

_SECONDS = 20.0


class StoreAway(errors.TemporaryError):
    """The store does not answer, or answers nonsense. `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store does not answer: {reason}")
        self.reason = reason


class Pool(Protocol):
    """Killable workers that run agent.control.caches.storage_worker."""

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation; raise AgentError when it does not end, OSError as it did."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What there is of a cache: see agent.control.reconcile.outcome.Seen."""

    stored: outcome.Stored | None
    report: builds.Report | None


class Storage:
    """The store at `root`. All raise StoreAway."""

    def __init__(self, root: str, pool: Pool, *, deadline: float = _SECONDS) -> None:
        self._root = root
        self._pool = pool
        self._deadline = deadline

    async def prepare(self, compression: str) -> str:
        """Make an empty folder a store; its ID."""
        return str(await self._call("prepare", compression))

    async def probe(self) -> None:
        """Raise StoreAway where it does not answer."""
        await self._call("probe")

    async def look(self, cache_id: str, *, job: str, detail: bool) -> Found:
        """What there is of a cache, and of the build of a Job."""
        found = await self._call("look", cache_id, job, detail)
        stored = None
        if found["record"] is not None:
            record = records.decode(found["record"], records.CacheRecord, cache_id)
            stored = outcome.Stored(record=record, platforms=tuple(found["platforms"]))
        return Found(stored, _report(found["report"], job))

    async def is_going(self, cache_id: str) -> bool:
        """Whether layers of a cache that was deleted are still waited for."""
        return bool(await self._call("is_going", cache_id))

    async def begin(self, job: str) -> None:
        """Make the file for a report."""
        await self._call("begin", job)

    async def settle(self, job: str) -> None:
        """Remove the file of a report."""
        await self._call("settle", job)

    async def remove(self, cache_id: str) -> Sequence[str]:
        """Delete the record of a cache; the layers (diff IDs) that it had."""
        return tuple(await self._call("remove", cache_id))

    async def _call(self, operation: str, *arguments: Any) -> Any:
        try:
            return await self._pool.call(operation, self._root, *arguments, deadline=self._deadline)
        except (errors.AgentError, OSError) as error:
            raise StoreAway(str(error)) from error


def _report(data: bytes | None, job: str) -> builds.Report | None:
    """A report that cannot be read says nothing: the Job itself says how it ended."""
    if data is None:
        return None
    try:
        return builds.decode(data, job)
    except records.RecordError:
        return None
