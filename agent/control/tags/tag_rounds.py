"""Asking registries what the tags of Ready caches stand for, for ever.

Each tag is asked for with one HEAD in an interval, at a time of its own, and not more than so many
a second in all. A registry that does not answer, or asks for a pause, is left alone for a
while by those who ask in the same way: no answer changes nothing, so a cache goes on as it is. With
other credentials, or with TLS, the same registry may answer: what one cache says of it, or how its
account is limited, is nothing for the caches of others.

A tag that is said to have been pushed is asked for at once, before the others.

An answer that changes nothing costs no request to the API server, but for a new time in the status
once in a while; the store has the times of all caches in one file, for people.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import math
import weakref
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from agent import errors
from agent.control.caches import cache_object
from agent.control.decisions import outcome
from agent.control.tags import tag_access, tag_hints, tag_questions
from agent.kits.aio import backoff
from agent.metrics import cache_metrics
from agent.model import images, times

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Of registries that have answered before."""
_UNTRIED_AT_ONCE = 4
"""Beside these, of registries that were never asked: they may hang, and each takes a slot once."""
_DOUBTFUL_AT_ONCE = 2
"""Beside these, of registries that did not answer last: they may hang, and be any number."""
_BATCH_SECONDS = 10.0
"""After which it is looked again which tags there are."""
_LOOK_SECONDS = 5.0
_ASK_SECONDS = 30.0
_FIRST_SECONDS = 10.0
"""For the first question of a registry: of those that hang there may be any number."""
_PAUSES = (30.0, 60.0, 120.0, 300.0, 600.0)
_LONGEST_PAUSE = 3600.0
_JITTER = 0.1
_GATHER_SECONDS = 0.2
"""After a hint, for those that follow: a push is a request for each layer."""
_PUSHED_SECONDS = 5.0
"""Between two questions about a tag that is said to have been pushed again and again."""
_SHARED_SECONDS = 300.0
"""For how long an answer is taken for other caches where there is no interval."""
_STATUS_SECONDS = 1.0
"""For each cache: so the statuses of all of them take one write a second."""

_PUBLISH_SECONDS = 60.0
"""At most, between two times at which the store has when the tags of caches were confirmed."""
_PART = 200
"""Caches that are gone through at a stretch."""

Publish = Callable[[Mapping[str, str]], Awaitable[None]]
"""Takes when the tags of caches were last confirmed (RFC 3339), by their IDs."""


T = TypeVar("T")


_Way = tuple[str, tag_questions.Access]
"""A registry, and what it is asked with."""


class View(Protocol):
    """The caches: agent.control.reconcile.observed.Observed."""

    @property
    def caches(self) -> Mapping[cache_object.Key, cache_object.CacheObject]:
        """By their keys."""

    def queue(self, key: cache_object.Key) -> None:
        """Have a step done for a cache."""


class Accesses(Protocol):
    """Clients by credentials: agent.control.tags.tag_access.Accesses."""

    def client(
        self, access: tag_questions.Access
    ) -> AbstractAsyncContextManager[tuple[tag_access.Registry, str]]:
        """A client and the name of its credentials; raises AgentError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Seconds between two questions about a tag (0: only hints cause any), and those a second."""

    interval: float = 600.0
    rate: float = 20.0
    plain_http: Collection[str] = ()


@dataclasses.dataclass(slots=True)
class _Asked:
    """A question: when it is due, by the loop's clock, its last answer, and whose it is.

    `begun` is when it was last asked, `hinted` when its tag was last said to have been pushed.
    """

    due: float
    answer: outcome.TagAnswer | None = None
    owners: set[cache_object.Key] = dataclasses.field(default_factory=set)
    begun: float = -math.inf
    hinted: float = -math.inf
    under_way: bool = False

    @property
    def is_hinted(self) -> bool:
        """Whether no answer takes the last hint into account."""
        return self.hinted > self.begun


_Known = tuple[cache_object.CacheObject, tuple[tag_questions.Question, ...]]
"""A cache, and the questions about it."""


@dataclasses.dataclass(slots=True)
class _Pause:
    """Until when a registry is left alone, by the loop's clock."""

    backoff: backoff.Backoff
    until: float = 0.0


class Rounds:
    """Asks, remembers the answers, and has steps done for the caches whose status they change."""

    def __init__(
        self,
        view: View,
        accesses: Accesses,
        settings: Settings,
        *,
        hints: tag_hints.Hints | None = None,
        publish: Publish | None = None,
        clock: times.Clock = times.now,
    ) -> None:
        self._view = view
        self._accesses = accesses
        self._settings = settings
        self._interval = settings.interval or math.inf
        self._hints = hints
        self._publish = publish
        self._clock = clock
        self._asked: dict[tag_questions.Question, _Asked] = {}
        self._of: dict[cache_object.Key, _Known] = {}
        self._shared: dict[tuple[images.Reference, str], tuple[float, outcome.TagAnswer]] = {}
        self._under_way: weakref.WeakValueDictionary[tuple[images.Reference, str], asyncio.Lock]
        self._under_way = weakref.WeakValueDictionary()
        self._pauses: dict[_Way, _Pause] = {}
        self._free_at = 0.0
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._untried = asyncio.Semaphore(_UNTRIED_AT_ONCE)
        self._doubtful = asyncio.Semaphore(_DOUBTFUL_AT_ONCE)
        self._answered: set[_Way] = set()

    @property
    def written_every(self) -> float:
        """Seconds between two writes of a status that says nothing else but a new time."""
        return max(self._settings.interval, _STATUS_SECONDS * len(self._of))

    def answers(self, cache: cache_object.CacheObject) -> dict[str, outcome.TagAnswer]:
        """The latest answers about the images of a cache, by their full names."""
        _, questions = self._of.get(cache.key, (cache, ()))
        found = {}
        for question in questions:
            asked = self._asked.get(question)
            if asked is not None and asked.answer is not None:
                found[str(question.reference)] = asked.answer
        return found

    async def run(self) -> None:
        """Ask for ever."""
        if not self._settings.interval and self._hints is None:
            await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        published = -math.inf
        async with asyncio.TaskGroup() as group:
            while True:
                await self._collect()
                self._take_hints()
                is_all = await self._ask_some(group)
                due = published + min(self._interval, _PUBLISH_SECONDS)
                if self._publish is not None and loop.time() >= due:
                    await self._publish_times(self._publish)
                    published = loop.time()
                await self._rest(_LOOK_SECONDS if is_all else 0.0)

    async def _rest(self, seconds: float) -> None:
        """Sleep; a hint ends that a moment later."""
        if self._hints is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hints.wait()
                await asyncio.sleep(_GATHER_SECONDS)

    def _take_hints(self) -> None:
        """Have the tags asked for soon that are said to have been pushed."""
        hints = self._hints.take() if self._hints is not None else frozenset()
        if not hints:
            return
        now = asyncio.get_running_loop().time()
        for question, asked in self._asked.items():
            reference = question.reference
            if tag_hints.Hint(reference.repository, reference.tag) in hints:
                asked.hinted = now
                if not asked.under_way:
                    asked.due = min(asked.due, max(now, asked.begun + _PUSHED_SECONDS))

    async def _publish_times(self, publish: Publish) -> None:
        """Have the store say when the tags of each cache were last confirmed."""
        confirmed = {}
        async for cache, _ in _in_parts(self._of.values()):
            moment = tag_questions.confirmed_of(cache, self.answers(cache))
            if moment is not None:
                confirmed[cache.cache_id] = times.stamp(moment)
        try:
            await publish(confirmed)
        except errors.AgentError as error:
            logger.info("the times of tags are not written", extra={"reason": str(error)})

    async def _collect(self) -> None:
        """Take in which tags there are; those of caches that are gone are forgotten."""
        loop = asyncio.get_running_loop()
        of: dict[cache_object.Key, _Known] = {}
        owners: dict[tag_questions.Question, set[cache_object.Key]] = {}
        async for key, cache in _in_parts(self._view.caches.items()):
            known = self._of.get(key)
            if known is None or known[0] is not cache:
                known = cache, tag_questions.questions_of(cache, self._settings.plain_http)
            if known[1]:
                of[key] = known
            for question in known[1]:
                owners.setdefault(question, set()).add(key)
                if question not in self._asked:
                    self._asked[question] = _Asked(loop.time() + self._first_pause(cache))
        self._of = of
        self._asked = {each: asked for each, asked in self._asked.items() if each in owners}
        for question, asked in self._asked.items():
            asked.owners = owners[question]
        ways = set(map(_way, self._asked))
        self._pauses = {way: pause for way, pause in self._pauses.items() if way in ways}
        self._answered &= ways
        oldest = loop.time() - 2 * self._shared_seconds
        self._shared = {key: each for key, each in self._shared.items() if each[0] > oldest}
        first = min((asked.due for asked in self._asked.values()), default=loop.time())
        cache_metrics.TAGS.set(len(self._asked))
        cache_metrics.TAGS_OVERDUE.set(max(0.0, loop.time() - first))

    def _first_pause(self, cache: cache_object.CacheObject) -> float:
        """Until the first question of this controller: not all at once after its start."""
        interval, confirmed = self._interval, cache.state.tags.confirmed
        if interval == math.inf:
            return interval
        if confirmed is None:
            return backoff.within(interval)
        left = interval - (self._clock() - confirmed).total_seconds()
        if not 0 < left <= interval:
            return backoff.within(interval / 10)
        return min(interval, backoff.spread(left, _JITTER))

    async def _ask_some(self, group: asyncio.TaskGroup) -> bool:
        """Ask what is due, the longest due first, for a limited time; whether that is all.

        Does not wait for the answers: a registry that hangs holds up its slot alone.
        """
        started = asyncio.get_running_loop().time()
        for question in sorted(self._due(started), key=self._order):
            way = _way(question)
            if self._is_paused(way):
                continue
            slots = self._slots_of(way)
            if slots is not self._slots and slots.locked():
                continue
            await slots.acquire()
            asked = self._asked[question]
            asked.due, asked.under_way = math.inf, True
            asking = self._ask(question, asked, slots)
            group.create_task(asking, name=f"tag {question.reference}")
            if asyncio.get_running_loop().time() > started + _BATCH_SECONDS:
                return False
        return True

    def _slots_of(self, way: _Way) -> asyncio.Semaphore:
        """Those that a question takes one of: registries that answer wait for no other."""
        if way in self._pauses:
            return self._doubtful
        return self._slots if way in self._answered else self._untried

    def _due(self, now: float) -> Iterator[tag_questions.Question]:
        return (each for each, asked in self._asked.items() if asked.due <= now)

    def _order(self, question: tag_questions.Question) -> tuple[bool, float]:
        asked = self._asked[question]
        return not asked.is_hinted, asked.due

    @property
    def _shared_seconds(self) -> float:
        """For how long an answer is taken for others who ask the same with the same credentials."""
        return self._interval / 2 if self._interval < math.inf else _SHARED_SECONDS

    def _is_paused(self, way: _Way) -> bool:
        pause = self._pauses.get(way)
        return pause is not None and pause.until > asyncio.get_running_loop().time()

    async def _wait_for_turn(self) -> None:
        """Keep the rate: the next request is not sent before its time."""
        loop = asyncio.get_running_loop()
        turn = max(loop.time(), self._free_at)
        self._free_at = turn + 1.0 / self._settings.rate
        await asyncio.sleep(turn - loop.time())

    async def _ask(
        self, question: tag_questions.Question, asked: _Asked, slots: asyncio.Semaphore
    ) -> None:
        """Ask one question, or take the answer that another one with these credentials had.

        It is not due until that ends, and `slots` is one longer then.
        """
        loop, way = asyncio.get_running_loop(), _way(question)
        begun = loop.time()
        try:
            answer = await self._answer(question, asked)
        except (errors.TemporaryError, TimeoutError) as error:
            self._pause(way, error)
            asked.due = self._pauses[way].until + backoff.within(_LOOK_SECONDS)
            cache_metrics.tag_looked_up("unanswered")
            return
        finally:
            asked.under_way = False
            slots.release()
        if answer is None:
            asked.due = loop.time() + backoff.within(_LOOK_SECONDS)
            return
        asked.answer, asked.begun = answer, begun
        asked.due = loop.time() + backoff.spread(self._interval, _JITTER)
        if asked.is_hinted:
            asked.due = begun + _PUSHED_SECONDS
        for key in asked.owners:
            cache = self._view.caches.get(key)
            if cache is not None and tag_questions.differs(
                cache, self.answers(cache), written_every=self.written_every
            ):
                self._view.queue(key)

    async def _answer(
        self, question: tag_questions.Question, asked: _Asked
    ) -> outcome.TagAnswer | None:
        """The answer; None where the registry is to be left alone meanwhile.

        Raises TemporaryError and TimeoutError.
        """
        reference = question.reference
        now = asyncio.get_running_loop().time()
        try:
            async with (
                self._accesses.client(question.access) as (registry, name),
                self._under_way.setdefault((reference, name), asyncio.Lock()),
            ):
                at, answer = self._shared.get((reference, name), (0.0, None))
                recent = now - self._shared_seconds < at and asked.hinted <= at
                if answer is not None and recent:
                    return answer
                await self._wait_for_turn()
                if self._is_paused(_way(question)):
                    return None
                # The turn before it may take longer.
                sent = asyncio.get_running_loop().time()
                is_known = _way(question) in self._answered
                async with asyncio.timeout(_ASK_SECONDS if is_known else _FIRST_SECONDS):
                    answer = await self._asked_of(registry, question, asked)
                self._shared[reference, name] = sent, answer
                return answer
        except errors.PermanentError as error:
            self._answered.add(_way(question))
            cache_metrics.tag_looked_up("refused")
            return outcome.TagAnswer(at=self._now(), problem=str(error)[:300])

    async def _asked_of(
        self, registry: tag_access.Registry, question: tag_questions.Question, asked: _Asked
    ) -> outcome.TagAnswer:
        """What a registry says. That a tag has moved is believed once the manifest is verified."""
        at = self._now()
        digest = await registry.digest(question.reference)
        self._pauses.pop(_way(question), None)
        self._answered.add(_way(question))
        if digest in self._cached(question, asked):
            cache_metrics.tag_looked_up("same")
            return outcome.TagAnswer(at=at, digest=digest)
        digest = (await registry.manifest(question.reference)).digest
        cache_metrics.tag_looked_up("same" if digest in self._cached(question, asked) else "moved")
        return outcome.TagAnswer(at=at, digest=digest)

    def _cached(self, question: tag_questions.Question, asked: _Asked) -> set[str]:
        """What the tag was in the caches that it is asked for, or had moved to already."""
        name = str(question.reference)
        found = set()
        for key in asked.owners:
            cache = self._view.caches.get(key)
            if cache is not None:
                found |= {each.digest for each in cache.state.images if each.image == name}
        answer = asked.answer
        return found | ({answer.digest} if answer is not None and answer.digest else set())

    def _now(self) -> datetime.datetime:
        return self._clock().replace(microsecond=0)

    def _pause(self, way: _Way, error: Exception) -> None:
        """Leave a registry alone for as long as it asks for, and longer each time."""
        pause = self._pauses.setdefault(way, _Pause(backoff.Backoff(_PAUSES)))
        now = asyncio.get_running_loop().time()
        if pause.until > now:
            return  # another question of the same moment has failed as well
        asked = error.delay if isinstance(error, errors.TemporaryError) else None
        seconds = min(_LONGEST_PAUSE, pause.backoff.take(asked))
        pause.until = now + seconds
        logger.info(
            "a registry does not say what its tags are",
            extra={"registry": way[0], "reason": str(error), "again": round(seconds)},
        )


def _way(question: tag_questions.Question) -> _Way:
    return question.reference.registry, question.access


async def _in_parts(items: Iterable[T]) -> AsyncIterator[T]:
    """The items as they are now; others have their turn between some of them."""
    for at, item in enumerate(tuple(items), 1):
        yield item
        if at % _PART == 0:
            await asyncio.sleep(0)
