"""A selection of objects, followed for ever: one list, then a watch that is resumed.

A watch goes on from the last version that it knows, bookmarks included. After 410 the
objects are listed again, and the differences are changes. While the API server is
away everything stays known. Only versions are compared, no clocks.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from agent import errors
from agent.clients.kube import refusals, selection
from agent.kits.aio import backoff

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# Half of each is random: when a server comes back, not all nodes come back to it at once.
DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_JITTER = 0.5
_SHORT_SECONDS = 1.0
# A kind that is not installed is asked for again after so long.
_ABSENT_SECONDS = 20.0
# "Too large resource version": the server's data is older than the last version seen here, for
# instance after its database was restored from a backup.
_TIMEOUT = 504
_ANY = "0"


class Source(Protocol[Item]):
    """What is followed: agent.clients.kube.selection.Selection."""

    def list(self, *, not_older_than: str) -> AsyncGenerator[selection.Part[Item]]:
        """All objects, at least as new as a version, in parts."""

    def watch(self, version: str) -> AsyncGenerator[selection.Change[Item]]:
        """The changes since a version."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update(Generic[Item]):
    """An object as it is now; `item` is None when it is gone."""

    key: str
    uid: str
    item: Item | None


class Reflector(Generic[Item]):
    """Follows a source. Never raises for what the API server does.

    `subject` names the objects in logs. `problem` is a sentence, "" while all is well.
    With `optional`, the kind may not be installed yet: that is no problem.
    """

    def __init__(
        self,
        source: Source[Item],
        *,
        subject: str,
        delays: Sequence[float] = DELAYS,
        optional: bool = False,
    ) -> None:
        self._source = source
        self._subject = subject
        self._delays = delays
        self._optional = optional
        self._uids: dict[str, str] = {}
        self._version = ""
        self._at_least = _ANY
        self._listed = asyncio.Event()
        self.problem = ""

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""
        return self._listed.is_set()

    async def wait_synced(self) -> None:
        """Until the first list is complete."""
        await self._listed.wait()

    async def changes(self) -> AsyncGenerator[Update[Item]]:
        """Every object, then every change, for ever. Close the iterator."""
        self._uids.clear()
        self._version = ""
        pauses = backoff.Backoff(self._delays, jitter=_JITTER)
        while True:
            before = self._version
            try:
                async with contextlib.aclosing(self._step()) as updates:
                    async for update in updates:
                        yield update
            except refusals.NotFound as error:
                self._failed(error)
                await pauses.wait(_ABSENT_SECONDS if self._optional else None)
            except errors.AgentError as error:
                # A connection that lives, however short, is no reason to wait longer each time.
                if self._version != before:
                    pauses.reset()
                self._failed(error)
                await pauses.wait(getattr(error, "delay", None))
            else:
                pauses.reset()

    async def _step(self) -> AsyncGenerator[Update[Item]]:
        """List if that is needed, then one watch to its end."""
        loop = asyncio.get_running_loop()
        if not self._version:
            async with contextlib.aclosing(self._list()) as updates:
                async for update in updates:
                    yield update
            self._listed.set()
        started, before = loop.time(), self._version
        async with contextlib.aclosing(self._source.watch(self._version)) as watch:
            async for change in watch:
                self._worked()
                self._version = change.version
                if change.gone:
                    for update in self._gone(change.key):
                        yield update
                elif change.entry is not None:
                    for update in self._seen(change.key, change.entry):
                        yield update
        if self._version == before and loop.time() - started < _SHORT_SECONDS:
            # A server that ends each watch at once would be asked without a pause.
            raise refusals.Unavailable("the API server ended a watch at once")

    async def _list(self) -> AsyncGenerator[Update[Item]]:
        """Every object, part by part, then what is gone."""
        listed: set[str] = set()
        version = ""
        async with contextlib.aclosing(self._source.list(not_older_than=self._at_least)) as parts:
            async for part in parts:
                version = part.version
                listed |= part.entries.keys()
                for update in self._all_seen(part.entries):
                    yield update
        for key in [key for key in self._uids if key not in listed]:
            for update in self._gone(key):
                yield update
        self._version = version

    def _all_seen(self, entries: Mapping[str, selection.Entry[Item]]) -> Iterator[Update[Item]]:
        for key, entry in entries.items():
            yield from self._seen(key, entry)

    def _seen(self, key: str, entry: selection.Entry[Item]) -> Iterator[Update[Item]]:
        if not key or entry.item is None:
            return
        if self._uids.get(key, entry.uid) != entry.uid:
            # Another object of the same name.
            yield from self._gone(key)
        self._uids[key] = entry.uid
        yield Update(key=key, uid=entry.uid, item=entry.item)

    def _gone(self, key: str) -> Iterator[Update[Item]]:
        uid = self._uids.pop(key, None)
        if uid is not None:
            yield Update(key=key, uid=uid, item=None)

    def _failed(self, error: errors.AgentError) -> None:
        """Note what is wrong, and from where to go on."""
        if isinstance(error, refusals.Gone):
            # Routine: the server has dropped the changes since the last one that was selected.
            logger.info("listing again", extra={"what": self._subject, "reason": str(error)})
            self._at_least = self._version or self._at_least
            self._version = ""
            return
        if isinstance(error, refusals.NotFound) and self._optional:
            # Also after a removal: what is installed later begins with a list.
            self._version, self._at_least = "", _ANY
            return
        refusal = error.refusal if isinstance(error, refusals.Unavailable) else None
        if refusal is not None and refusal.status == _TIMEOUT:
            self._version = self._at_least = ""
        if not self.problem:
            logger.warning(
                "the API server is away", extra={"what": self._subject, "reason": str(error)}
            )
        self.problem = f"{error} ({len(self._uids)} {self._subject} stay known)"

    def _worked(self) -> None:
        if self.problem:
            logger.info("the API server is back", extra={"what": self._subject})
            self.problem = ""
