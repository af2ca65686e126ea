"""Deciding for a pod: its annotations, the store's caches and the records of its images.

The rules are pure (agent.matching); the store is read here. Of the caches those are read that may
serve the pod, however many there are. Pods of the same images that start at once read them once.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import tasks
from agent.matching import annotations, away, decisions, rules, runtimes, subjects
from agent.metrics import image_metrics
from agent.model import caches, images, pods, records
from agent.store.index import cache_entries
from agent.store.lookup import catalog

_FRESH_SECONDS = 5.0
_MOST_MEMORIES = 64
_MOST_VIEWS = 512


class Catalog(Protocol):
    """What is read from the store: agent.store.lookup.catalog.Catalog.

    A missing or damaged record is None or left out; TemporaryError: the store does not answer.
    """

    @property
    def note(self) -> str:
        """A sentence about records that are not used because they are not signed; "" for none."""

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image."""


class Near(Catalog, Protocol):
    """What this node has itself: agent.node.near.near_catalog.NearCatalog."""

    async def caches(self) -> Sequence[records.CacheRecord]:
        """All Ready caches that are known here."""


class Store(Catalog, Protocol):
    """The store itself: agent.store.lookup.catalog.Catalog."""

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        """The Ready caches that may serve what is wanted."""

    @property
    def is_silent(self) -> bool:
        """Whether the last question had no answer, so that the next may take long."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What decisions depend on beside the pod and the store.

    `every_runtime` where the uimgacc snapshotter is containerd's default one: then pods of
    all runtime handlers use it. `classes` as in `runtimes.handler_of`. `mounts_volumes` is False
    where pods that use the snapshotter do not start with image volumes.
    """

    platform: images.Platform
    every_runtime: bool = False
    classes: Mapping[str, str] | None = None
    mounts_volumes: bool = True

    def uses_snapshotter(self, handler: str) -> bool:
        """Whether containers of a runtime handler are on the uimgacc snapshotter."""
        if self.every_runtime:
            return handler != runtimes.WITHOUT
        return runtimes.is_twin(handler)

    def serves(self, pod: pods.Pod) -> bool:
        """Whether the containers of a pod are on the uimgacc snapshotter."""
        return self.uses_snapshotter(runtimes.handler_of(pod, self.classes))


class Decider:
    """Decides for the pods of one node: by the store, else by what the node has itself (`near`)."""

    def __init__(self, store: Store, node: Node, near: Near | None = None) -> None:
        self._store = store
        self._caches = Caches(store)
        self._near = near
        self._node = node

    async def decide(self, pod: pods.Pod) -> decisions.Decision:
        """What the store does for a pod. Raises TemporaryError where the store does not answer."""
        request = annotations.request_of(pod, self._node.classes)
        handler = runtimes.handler_of(pod, self._node.classes)
        if not self._node.uses_snapshotter(handler):
            mounts = self._node.mounts_volumes
            return rules.decide_foreign(pod, request, handler=handler, mounts_volumes=mounts)
        if pod.volume_images and not self._node.mounts_volumes:
            return rules.decide_unmounted(pod, request)
        if not request.asks:
            return rules.decide(pod, request, (), {})
        if self._store.is_silent and (decision := await self._by_near(pod, request)) is not None:
            # The probe of the store asks again every few seconds.
            return decision
        try:
            return await self._by_store(pod, request)
        except errors.TemporaryError:
            if (decision := await self._by_near(pod, request)) is not None:
                return decision
            image_metrics.image_left("store_unavailable")
            raise

    async def _by_near(
        self, pod: pods.Pod, request: annotations.Request
    ) -> decisions.Decision | None:
        """Decide by what the node has itself; None where it has nothing, or must not use it."""
        if self._near is None:
            return None
        try:
            read = await self._near.caches()
            views = [caches.cache_of(record) for record in read]
            if not views:
                return None
            image_records = await _image_records(self._near, pod, views)
        except errors.AgentError:
            return None
        return away.decided(self._by_caches(pod, request, views, image_records))

    async def _by_store(self, pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
        """Decide by the caches. A verdict against the pod rests on caches just read."""
        started = asyncio.get_running_loop().time()
        decision, read_at = await self._by_found(pod, request)
        if decision.outcome is not decisions.Outcome.HIT and read_at < started:
            decision, _ = await self._by_found(pod, request, not_before=started)
        return _noted(decision, self._store.note)

    async def _by_found(
        self, pod: pods.Pod, request: annotations.Request, *, not_before: float | None = None
    ) -> tuple[decisions.Decision, float]:
        """Decide by the caches with images of the same names, then by those with its layers, too.

        Returns the loop's time at which reading them began as well.
        """
        wanted = _wanted(pod, request)
        found = await self._caches.get(wanted, not_before=not_before)
        image_records = await _image_records(self._store, pod, found.views)
        decision = self._by_caches(pod, request, found.views, image_records)
        bottoms = self._bottoms(pod, image_records)
        if decision.outcome is decisions.Outcome.HIT or found.are_all or not bottoms:
            return decision, found.read_at
        wanted = dataclasses.replace(wanted, layers=bottoms)
        more = await self._caches.get(wanted, not_before=not_before)
        decision = self._by_caches(pod, request, more.views, image_records)
        return decision, min(found.read_at, more.read_at)

    def _bottoms(
        self, pod: pods.Pod, image_records: Mapping[str, records.ImageRecord | None]
    ) -> tuple[str, ...]:
        """The lowest layers of the images that the store has."""
        wanted = [
            subjects.subject_of(image, image_records, self._node.platform) for image in pod.images
        ]
        layers = [subject.layers[0].diff_id for subject in wanted if subject.layers]
        return tuple(dict.fromkeys(layers))

    def _by_caches(
        self,
        pod: pods.Pod,
        request: annotations.Request,
        views: Sequence[caches.Cache],
        image_records: Mapping[str, records.ImageRecord | None],
    ) -> decisions.Decision:
        return rules.decide(pod, request, views, image_records, platform=self._node.platform)


def _wanted(pod: pods.Pod, request: annotations.Request) -> cache_entries.Wanted:
    return cache_entries.Wanted(
        references=subjects.references_to_look_up(pod, ()),
        named=request.cache if request.mode is annotations.Mode.EXPLICIT else "",
        namespace=pod.namespace,
    )


async def _image_records(
    shelf: Catalog, pod: pods.Pod, views: Sequence[caches.Cache]
) -> Mapping[str, records.ImageRecord | None]:
    """The records of a pod's images by their references.

    An image by digest is looked up under the tags that caches have it by; only where it is not
    there, among all images of its repository.
    """
    references = subjects.references_to_look_up(pod, views)
    tags = [each for each in references if not each.digest]
    read = await tasks.together(*(shelf.image(each) for each in tags))
    found = {str(reference): record for reference, record in zip(tags, read, strict=True)}
    held = {
        (reference.name, record.target)
        for reference, record in zip(tags, read, strict=True)
        if record is not None
    }
    others = [each for each in references if each.digest and (each.name, each.digest) not in held]
    read = await tasks.together(*(shelf.image(each) for each in others))
    return found | {str(each): record for each, record in zip(others, read, strict=True)}


def _noted(decision: decisions.Decision, note: str) -> decisions.Decision:
    """A decision that may have gone against the pod because records are not signed says so."""
    if not note or decision.outcome is decisions.Outcome.HIT:
        return decision
    events = tuple(
        dataclasses.replace(event, message=f"{event.message} {note}") for event in decision.events
    )
    return dataclasses.replace(decision, summary=f"{decision.summary} {note}", events=events)


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """Caches, and the loop's time at which their reading began; whether they are all there are."""

    views: tuple[caches.Cache, ...]
    read_at: float
    are_all: bool


@dataclasses.dataclass(slots=True)
class _Memory:
    """What was read last for something wanted; one reader at a time."""

    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    read: Read | None = None


class Caches:
    """The Ready caches for what is wanted, read again when they are older than a few seconds."""

    def __init__(self, store: Store, *, seconds: float = _FRESH_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._known: dict[str, caches.Cache] = {}
        self._memories: dict[cache_entries.Wanted, _Memory] = {}
        self._all = _Memory()
        self._is_indexed = False

    async def get(self, wanted: cache_entries.Wanted, *, not_before: float | None = None) -> Read:
        """The caches for `wanted`, or all where the store has no index.

        Caches that were read before `not_before` are read again. Raises TemporaryError.
        """
        oldest = self._now() - self._seconds if not_before is None else not_before
        while True:
            # Without an index all caches are needed for anything: one reads them for all pods.
            is_shared = not self._is_indexed
            memory = self._all if is_shared else self._memory(wanted)
            async with memory.lock:
                if is_shared and self._is_indexed:
                    continue
                read = memory.read
                if read is None or read.read_at < oldest:
                    read = await self._read(wanted)
                    self._is_indexed = not read.are_all
                    (self._all if read.are_all else self._memory(wanted)).read = read
                return read

    def _memory(self, wanted: cache_entries.Wanted) -> _Memory:
        memory = self._memories.pop(wanted, None) or _Memory()
        self._memories[wanted] = memory
        while len(self._memories) > _MOST_MEMORIES:
            del self._memories[next(iter(self._memories))]
        return memory

    async def _read(self, wanted: cache_entries.Wanted) -> Read:
        started = self._now()
        found = await self._store.caches_for(wanted)
        views = tuple(self._view(record) for record in found.caches)
        # A view of thousands of images costs milliseconds: unchanged ones are kept.
        self._known |= {view.id: view for view in views}
        if found.are_all:
            self._known = {view.id: view for view in views}
        while len(self._known) > max(_MOST_VIEWS, len(views)):
            del self._known[next(iter(self._known))]
        return Read(views, started, found.are_all)

    def _view(self, record: records.CacheRecord) -> caches.Cache:
        known = self._known.get(record.id)
        return known if known is not None and known.record == record else caches.cache_of(record)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
