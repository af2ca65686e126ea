"""Having images present on the node before any pod asks for them.

Caches (spec.keepWarm) and the node's setting name them (agent.matching.warmth). They are made
ready one after the other, as for a pod, but after all pods: the next one waits while a pod waits
for its images. What fails is tried again; neither a pod nor the node's readiness waits for it.

Making an image ready reads a few records. Its bytes are read when its layers are copied, so when
many nodes start at once, each of them offers its images for copying at a time of its own within
some minutes.

An image that is not wanted any more is no longer looked after: it goes as other unused images go.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.matching import warmth
from agent.metrics import image_metrics
from agent.model import caches, images, records
from agent.node.images import registration_plan
from agent.store.index import cache_entries
from agent.store.lookup import catalog

logger = logging.getLogger(__name__)

_FIRST_SECONDS = 3.0
"""Within which nodes that start together begin: one node's records are few."""
_YIELD_SECONDS = 0.2
_YIELD_STEPS = 150
"""So often an image gives way to pods at most: on a busy node, some pod always waits."""
_ABLE_SECONDS = 1.0
"""Pause between two looks at whether the node can serve images."""


class Store(Protocol):
    """What is read from the store: agent.store.lookup.catalog.Catalog. TemporaryError: away."""

    async def warm_caches(self) -> Sequence[records.CacheRecord]:
        """The Ready caches that nodes keep warm."""

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        """The Ready caches that have what is wanted."""

    async def caches_time(self) -> int:
        """When a cache was added, changed or removed last."""

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image."""


class Provider(Protocol):
    """Has one image present: agent.node.images.provide.Provider."""

    async def provide(
        self, reference: images.Reference, record: records.ImageRecord, *, each: bool = False
    ) -> registration_plan.Registration | None:
        """Register it; None where it is not for this platform; AgentError where that fails."""

    async def provide_layers(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        """Have its layers ready for the kubelet's pull of it; as `provide`."""

    async def withdraw(self, reference: images.Reference) -> None:
        """Take back the tag of an image that was registered. Raises AgentError."""


class Node(Protocol):
    """This node, as the agent knows it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its Node object; none without a cluster."""

    @property
    def serves(self) -> bool:
        """Whether it can serve images now."""

    @property
    def is_busy(self) -> bool:
        """Whether a pod waits for its images."""

    def foreign_images(self) -> Collection[str]:
        """The images of pods whose runtime does not use the snapshotter, normalised.

        They are not registered: such a pod could not start from what is in the store.
        """

    async def wait_known(self) -> None:
        """Wait until the cluster knows what this node acknowledges: nothing is served before."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Images that the node's setting names, and how they are looked after; in seconds.

    `register_private` as in prepare.Preparer. `look` is the pause between two looks at what is
    wanted, `ensure` that after which an image is made ready again: the kubelet may have removed
    it. Within `spread` after it is ready, an image is offered for copying.
    """

    named: Sequence[str] = ()
    register_private: bool = False
    spread: float = 120.0
    look: float = 60.0
    ensure: float = 300.0


Readiness = Literal["registered", "laid_out", "missing"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image as /status shows it; `cache` is "" where the node's setting names it.

    It is `missing` until it is ready; `reason` then says why.
    """

    image: str
    cache: str
    state: Readiness
    reason: str


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of warm images."""

    images: Sequence[Image] = ()
    sentence: str = "No image is to be kept warm."


@dataclasses.dataclass(slots=True)
class _Kept:
    """What is known of one image. Times are of the monotonic clock."""

    wanted: warmth.WarmImage
    state: Readiness = "missing"
    reason: str = "its turn has not come"
    due: float = 0.0
    offered: float | None = None
    layers: tuple[str, ...] = ()


class WarmImages:
    """Keeps the images of one node warm."""

    def __init__(self, store: Store, provider: Provider, node: Node, settings: Settings) -> None:
        self._store = store
        self._provider = provider
        self._node = node
        self._settings = settings
        self._warm: tuple[caches.Cache, ...] = ()
        self._views: tuple[caches.Cache, ...] = ()
        self._references: frozenset[images.Reference | None] = frozenset()
        self._read_at: int | None = None
        self._kept: dict[str, _Kept] = {}
        self.state = State()

    def layers(self) -> Mapping[str, caches.LocalMode]:
        """Layers to copy, by diff ID: see the Wishes of local copies. None while a pod waits."""
        now = time.monotonic()
        if self._node.is_busy:
            return {}
        return {
            layer: kept.wanted.local or "before-start"
            for kept in self._kept.values()
            if kept.offered is not None and kept.offered <= now
            for layer in kept.layers
        }

    async def run(self) -> None:
        """Keep them warm for ever."""
        await self._node.wait_known()
        await asyncio.sleep(backoff.within(min(_FIRST_SECONDS, self._settings.spread)))
        while True:
            is_able = self._node.serves
            if is_able:
                await self._look_and_report()
            pause = self._settings.look if is_able else _ABLE_SECONDS
            await asyncio.sleep(backoff.spread(pause, 0.2))

    async def _look_and_report(self) -> None:
        try:
            sentence = await self.look()
        except errors.AgentError as error:
            sentence = f"It is not known which images to keep warm: {error}"
        if sentence != self.state.sentence:
            logger.info("looked at warm images", extra={"outcome": sentence})
        self.state.sentence = sentence

    async def look(self) -> str:
        """Make ready what is wanted and is not; one sentence about it. Raises TemporaryError."""
        is_new = (read_at := await self._store.caches_time()) != self._read_at
        if is_new:
            read = await self._store.warm_caches()
            self._warm, self._read_at = tuple(map(caches.cache_of, read)), read_at
        wanted = warmth.wanted(self._warm, self._node.labels, self._settings.named)
        references = frozenset(image.reference for image in wanted if not image.problem)
        if is_new or references != self._references:
            # Not before they are read: a look that fails is made again.
            self._read_at = None
            self._views = await self._having(references)
            self._references, self._read_at = references, read_at
        self._kept = {image.name: self._known(image) for image in wanted}
        for kept in self._kept.values() if is_new else ():
            reference = kept.wanted.reference
            if reference is not None and warmth.is_withheld(self._views, reference):
                kept.due = 0.0
        for kept in list(self._kept.values()):
            if kept.due <= time.monotonic():
                await self._wait_for_pods()
                await self._make(kept)
            self._note()
        self._note()
        return _sentence(self.state.images)

    async def _having(
        self, references: Collection[images.Reference | None]
    ) -> tuple[caches.Cache, ...]:
        """The caches that have images of these repositories, warm or not."""
        named = sorted((each for each in references if each is not None), key=str)
        if not named:
            return ()
        found = await self._store.caches_for(cache_entries.Wanted(references=tuple(named)))
        return tuple(map(caches.cache_of, found.caches))

    def _known(self, image: warmth.WarmImage) -> _Kept:
        kept = self._kept.get(image.name)
        if kept is None or kept.wanted.problem != image.problem:
            return _Kept(image)
        kept.wanted = image
        return kept

    async def _wait_for_pods(self) -> None:
        """Give way to pods, but not for ever."""
        for _ in range(_YIELD_STEPS):
            if not self._node.is_busy:
                return
            await asyncio.sleep(_YIELD_SECONDS)

    async def _make(self, kept: _Kept) -> None:
        """Make one image ready, or note why it is not."""
        try:
            reason = await self._try(kept)
            pause = self._settings.ensure
        except errors.AgentError as error:
            reason = str(error)
            is_for_now = isinstance(error, errors.TemporaryError)
            pause = 0.0 if is_for_now else self._settings.ensure
        kept.due = time.monotonic() + pause
        if reason:
            kept.state, kept.layers, kept.offered = "missing", (), None
        if reason and reason != kept.reason:
            logger.info("an image is not warm", extra={"image": kept.wanted.name, "reason": reason})
        kept.reason = reason

    async def _try(self, kept: _Kept) -> str:
        """Make an image ready; why it cannot be, "" where it is. Raises AgentError."""
        reference = kept.wanted.reference
        if kept.wanted.problem or reference is None:
            return kept.wanted.problem
        if kept.wanted.name in self._node.foreign_images():
            return "a pod whose runtime does not use uimgacc has this image on this node"
        record = await self._store.image(reference)
        if record is None or not warmth.is_held(self._views, reference, record.target):
            if not warmth.is_withheld(self._views, reference):
                return "no cache of the store has it"
            await self._provider.withdraw(reference)
            return "the registry has moved its tag: it is pulled until its cache is built again"
        is_open = warmth.is_open(self._views, reference, record.target)
        is_registered = is_open or self._settings.register_private
        if is_registered:
            # Nothing waits for it, and it may be wanted as a volume.
            made = await self._provider.provide(reference, record, each=True)
        else:
            made = await self._provider.provide_layers(reference, record)
        if made is None:
            return "the store has it for other platforms only"
        kept.state = "registered" if is_registered else "laid_out"
        kept.layers = tuple(dict.fromkeys(layer.diff_id for layer in made.layers))
        if kept.offered is None:
            kept.offered = time.monotonic() + backoff.within(self._settings.spread)
            logger.info("an image is warm", extra={"image": kept.wanted.name})
        return ""

    def _note(self) -> None:
        self.state.images = [
            Image(
                image=name,
                cache=kept.wanted.cache_id,
                state=kept.state,
                reason=kept.reason if kept.state == "missing" else "",
            )
            for name, kept in self._kept.items()
        ]
        missing = sum(image.state == "missing" for image in self.state.images)
        image_metrics.warm(ready=len(self.state.images) - missing, missing=missing)


def _sentence(shown: Sequence[Image]) -> str:
    if not shown:
        return State().sentence
    missing = [image for image in shown if image.state == "missing"]
    ready = f"{len(shown) - len(missing)} of {len(shown)} images are warm"
    return f"{ready}; {missing[0].image}: {missing[0].reason}." if missing else f"{ready}."
