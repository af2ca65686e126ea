"""Deciding for a pod: its annotations, the store's caches and the records of its images.

The rules are pure (agent.matching); the store is read here. Many pods that start at once
read the caches once.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors, metrics
from agent.kits.aio import tasks
from agent.matching import annotations, away, decisions, rules, runtimes, subjects
from agent.model import caches, images, pods, records

_FRESH_SECONDS = 5.0


class Catalog(Protocol):
    """What is read from the store: agent.store.lookup.catalog.Catalog.

    A missing or damaged record is None or left out; TemporaryError: the store does not answer.
    """

    @property
    def note(self) -> str:
        """A sentence about records that are not used because they are not signed; "" for none."""

    async def caches(self) -> Sequence[records.CacheRecord]:
        """All Ready caches."""

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image."""


class Store(Catalog, Protocol):
    """The store itself: agent.store.lookup.catalog.Catalog."""

    @property
    def is_silent(self) -> bool:
        """Whether the last question had no answer, so that the next may take long."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What decisions depend on beside the pod and the store.

    `every_runtime` where the uimgacc snapshotter is containerd's default one: then pods of
    all runtime handlers use it. `classes` as in `runtimes.handler_of`.
    """

    platform: images.Platform
    every_runtime: bool = False
    classes: Mapping[str, str] | None = None

    def uses_snapshotter(self, handler: str) -> bool:
        """Whether containers of a runtime handler are on the uimgacc snapshotter."""
        if self.every_runtime:
            return handler != runtimes.WITHOUT
        return runtimes.is_twin(handler)


class Decider:
    """Decides for the pods of one node: by the store, else by what the node has itself (`near`)."""

    def __init__(self, catalog: Store, node: Node, near: Catalog | None = None) -> None:
        self._catalog = catalog
        self._caches = Caches(catalog)
        self._near = near
        self._node = node

    async def decide(self, pod: pods.Pod) -> decisions.Decision:
        """What the store does for a pod. Raises TemporaryError where the store does not answer."""
        request = annotations.request_of(pod, self._node.classes)
        handler = runtimes.handler_of(pod, self._node.classes)
        if not self._node.uses_snapshotter(handler):
            return rules.decide_foreign(pod, request, handler=handler)
        if not request.asks:
            return rules.decide(pod, request, (), {})
        if self._catalog.is_silent and (decision := await self._by_near(pod, request)) is not None:
            # The probe of the store asks again every few seconds.
            return decision
        try:
            return await self._by_store(pod, request)
        except errors.TemporaryError:
            if (decision := await self._by_near(pod, request)) is not None:
                return decision
            metrics.image_left("store_unavailable")
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
            decision = await self._by_caches(self._near, pod, request, views) if views else None
        except errors.AgentError:
            return None
        return None if decision is None else away.decided(decision)

    async def _by_store(self, pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
        """Decide by the caches. A verdict against the pod rests on caches just read."""
        started = asyncio.get_running_loop().time()
        views, read_at = await self._caches.get()
        decision = await self._by_caches(self._catalog, pod, request, views)
        if decision.outcome is not decisions.Outcome.HIT and read_at < started:
            views, _ = await self._caches.get(not_before=started)
            decision = await self._by_caches(self._catalog, pod, request, views)
        return _noted(decision, self._catalog.note)

    async def _by_caches(
        self,
        catalog: Catalog,
        pod: pods.Pod,
        request: annotations.Request,
        views: Sequence[caches.Cache],
    ) -> decisions.Decision:
        references = subjects.references_to_look_up(pod, views)
        read = await tasks.together(*(catalog.image(each) for each in references))
        image_records = {
            str(reference): record for reference, record in zip(references, read, strict=True)
        }
        return rules.decide(pod, request, views, image_records, platform=self._node.platform)


def _noted(decision: decisions.Decision, note: str) -> decisions.Decision:
    """A decision that may have gone against the pod because records are not signed says so."""
    if not note or decision.outcome is decisions.Outcome.HIT:
        return decision
    events = tuple(
        dataclasses.replace(event, message=f"{event.message} {note}") for event in decision.events
    )
    return dataclasses.replace(decision, summary=f"{decision.summary} {note}", events=events)


class Caches:
    """The Ready caches, read again when they are older than a few seconds."""

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

        Caches that were read before `not_before` are read again. Raises TemporaryError.
        """
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._seconds if not_before is None else not_before
        async with self._lock:
            if self._read_at is None or self._read_at < oldest:
                started = loop.time()
                read = await self._catalog.caches()
                # A view of thousands of images costs milliseconds: unchanged ones are kept.
                self._known = {record.id: self._view(record) for record in read}
                self._views, self._read_at = tuple(self._known.values()), started
            return self._views, self._read_at

    def _view(self, record: records.CacheRecord) -> caches.Cache:
        known = self._known.get(record.id)
        return known if known is not None and known.record == record else caches.cache_of(record)
