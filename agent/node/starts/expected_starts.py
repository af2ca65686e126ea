"""Images that are about to start: read ahead what is known of them, and observe the rest.

`expect` is called when an image is made ready for a pod. It never waits, and nothing waits for what
follows: a start goes its way whether it is observed or not.
"""

import asyncio
import collections
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from agent import errors
from agent.metrics import start_metrics
from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.node.images import registration_plan
from agent.node.starts import profile_book, start_watch

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

_OBSERVED = 4
"""Starts that are observed at the same time."""
_WAITING = 64
_AGAIN_SECONDS = 5.0
"""For which an image that was read ahead is not read ahead again: a crowd of pods has one image."""
_REMEMBERED = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """An image that is about to start; `cache` is the object (API group, name) that it is from."""

    record: records.ImageRecord
    made: records.PlatformImage
    cache: tuple[str, str] | None


class Reading(Protocol):
    """Reads ahead: agent.node.starts.read_ahead.ReadAhead."""

    def add(self, image: str, profile: start_profiles.Profile) -> None:
        """Have what a profile says read; never waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """How an image started, as text; `is_stored` says whether the store knows that by now."""

    start: Start
    text: str
    is_stored: Callable[[], Awaitable[bool]]


class Sink(Protocol):
    """Where observed starts go: to the controller, or nowhere."""

    def offer(self, observed: Observed) -> None:
        """Take one for sending; never waits."""


class NoSink:
    """The Sink of a machine without a cluster: what it has observed it keeps, and uses itself."""

    def offer(self, observed: Observed) -> None:
        """Do nothing."""


class ExpectedStarts:
    """Takes images that are about to start, any number side by side."""

    def __init__(
        self,
        book: profile_book.Book,
        reading: Reading,
        watch: start_watch.StartWatch,
        sink: Sink,
        *,
        platform: images.Platform,
    ) -> None:
        self._book = book
        self._reading = reading
        self._watch = watch
        self._sink = sink
        self._platform = platform
        self._waiting: collections.deque[Start] = collections.deque(maxlen=_WAITING)
        self._observed: set[str] = set()
        self._read_at: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._expected = asyncio.Event()

    def expect(self, record: records.ImageRecord, cache: tuple[str, str] | None) -> None:
        """An image is being made ready for a pod that is about to start."""
        made = registration_plan.for_platform(record, self._platform)
        if made is None or not made.layers:
            return
        now = asyncio.get_running_loop().time()
        if now < self._read_at.get(made.manifest, -_AGAIN_SECONDS) + _AGAIN_SECONDS:
            return
        _remember(self._read_at, made.manifest, now)
        self._waiting.append(Start(record, made, cache))
        self._expected.set()

    async def run(self) -> None:
        """Follow starts for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._expected.wait()
                self._expected.clear()
                while self._waiting:
                    start = self._waiting.popleft()
                    group.create_task(self._follow(start), name=f"start of {start.record.ref}")

    async def _follow(self, start: Start) -> None:
        try:
            known = await self._book.find(
                start.record, start.made, functools.partial(self._files_of, start)
            )
            start_metrics.profile_used(known.source)
            if known.profile is not None:
                self._reading.add(start.made.manifest, known.profile)
            if self._may_observe(start.made.manifest, known):
                self._observed.add(start.made.manifest)
                try:
                    await self._observe(start, known)
                finally:
                    self._observed.discard(start.made.manifest)
        except (OSError, errors.AgentError) as error:
            start_metrics.profile_recorded("failed")
            logger.info(
                "a start is not observed",
                extra={"image": start.record.ref, "reason": str(error)},
            )

    def _may_observe(self, manifest: str, known: profile_book.Known) -> bool:
        """Some starts are at a time: those without a profile, and once those with one."""
        is_known = known.observed is not None and manifest in self._seen
        is_known = is_known or manifest in self._observed
        return not is_known and len(self._observed) < _OBSERVED

    async def _observe(self, start: Start, known: profile_book.Known) -> None:
        layers = await self._files_of(start)
        foreseen = start_watch.foreseen_by(known.profile) if known.profile is not None else None
        seen = await self._watch.observe(layers, foreseen)
        if seen.started and foreseen is not None and known.observed is not None:
            _remember(self._seen, start.made.manifest, None)
            _count(seen, foreseen)
        if not known.own and not (known.observed or frozenset()).issuperset(layers):
            await self._record(start, seen)

    async def _files_of(self, start: Start) -> list[str]:
        """The layer files that an image is mounted from, each once."""
        chain = [layer.chain_id for layer in start.made.layers]
        return list(dict.fromkeys(await self._watch.files_of(chain)))

    async def _record(self, start: Start, seen: start_watch.Observation) -> None:
        """Keep and send what was observed of a first start."""
        if not seen.started or not seen.cold:
            start_metrics.profile_recorded("not_cold" if seen.started else "not_started")
            return
        profile, text = profile_codec.encode_looks(seen.of_profile())
        if not profile.pieces:
            # All of it has gone from memory between two looks: the next start says more.
            start_metrics.profile_recorded("not_cold")
            return
        # What was just learnt has not been read ahead for anybody.
        self._read_at.pop(start.made.manifest, None)
        await self._book.keep(start.record, start.made, profile)
        start_metrics.profile_recorded("recorded")
        logger.info(
            "observed how an image starts",
            extra={
                "image": start.record.ref,
                "bytes": profile.size,
                "pieces": len(profile.pieces),
                "layers": len(profile.layers),
            },
        )
        is_stored = functools.partial(
            self._book.is_stored, start.record, start.made, profile.layers
        )
        self._sink.offer(Observed(start, text, is_stored))


def _count(seen: start_watch.Observation, foreseen: start_watch.Bits) -> None:
    """Count how much of what a start has read its profile had foreseen."""
    unit = start_profiles.UNIT
    for layer in seen.cold:
        expected = foreseen.get(layer, 0)
        read = seen.read(layer)
        start_metrics.start_bytes((read & expected).bit_count() * unit, foreseen=True)
        start_metrics.start_bytes((read & ~expected).bit_count() * unit, foreseen=False)


def _remember(names: collections.OrderedDict[str, Value], name: str, value: Value) -> None:
    names[name] = value
    names.move_to_end(name)
    while len(names) > _REMEMBERED:
        names.popitem(last=False)
