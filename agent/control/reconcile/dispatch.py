"""What the leader does: looks at every cache when anything about it has changed, or is due."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from agent import errors, metrics
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object, cache_state
from agent.control.decisions import outcome, retention
from agent.control.gc import roster
from agent.control.jobs import job_state
from agent.control.reconcile import cluster, observed, work_queue
from agent.model import caches, keys

logger = logging.getLogger(__name__)

_WORKERS = 8
_RELIST = 60.0
_COUNT = 2.0
"""A scrape is seldom more often."""
_PRIMING = 30.0


class Step(Protocol):
    """One step for one cache (agent.control.reconcile.step.Reconciler.step)."""

    async def __call__(self, key: cache_object.Key) -> float | None:
        """Do it; seconds until the next one, None: when something changes."""


class Teller(Protocol):
    """Who hears of news (agent.control.objects.cache_events.CacheEvents)."""

    def emit(self, cache: cache_object.CacheObject, event: outcome.Event) -> None:
        """Take an event."""


class _Meta(msgspec.Struct):
    name: str
    uid: str = ""


class _Named(msgspec.Struct):
    metadata: _Meta


class Leader:
    """Keeps `known`, and steps where it changes."""

    def __init__(
        self,
        client: rest_client.Client,
        api: cluster.Cluster,
        known: observed.Knowledge,
        *,
        namespace: str,
        rules: retention.Rules,
        teller: Teller,
    ) -> None:
        self._client = client
        self._api = api
        self._known = known
        self._namespace = namespace
        self._rules = rules
        self._teller = teller
        self._evicted: set[str] = set()
        self._queue: work_queue.Queue[cache_object.Key] = work_queue.Queue()

    def deliver(self, plural: str, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take in news of the watches (agent.control.objects.watches.Deliver)."""
        gone = kind == "DELETED"
        if plural == "imagecaches":
            self._deliver_cache(body, gone=gone)
        elif plural == "jobs":
            self._deliver_job(body, gone=gone)
        elif not gone:
            job = self._known.put_pod(body)
            key = self._known.key_of(job) if job is not None else None
            if key is not None:
                self._queue.add(key)

    def _deliver_cache(self, body: Mapping[str, Any], *, gone: bool) -> None:
        group = str(body["apiVersion"]).partition("/")[0]
        key = cache_object.Key(group, body["metadata"]["name"])
        if gone:
            self._known.drop_cache(key, body["metadata"]["uid"])
        else:
            before = self._known.caches.get(key)
            if self._known.put_cache(body) is not before:
                self._queue.add(key)

    def _deliver_job(self, body: Mapping[str, Any], *, gone: bool) -> None:
        before = self._known.job(body["metadata"]["name"])
        job = self._known.put_job(body)
        if job == before and not gone:
            return
        if gone:
            self._known.drop_job(job.name)
        self._look_after(job, over=gone or not job.active)

    def _look_after(self, job: job_state.Job, *, over: bool) -> None:
        """Look at whose build it is; where it is over, also at those that wait for its slot."""
        if (key := self._known.key_of(job)) is not None:
            self._queue.add(key)
        if over:
            for waiting in self._known.waiting():
                self._queue.add(waiting)

    async def list_nodes(self) -> Sequence[roster.Node]:
        """See agent.control.gc.collector_rounds.Nodes; the platforms are by the way."""
        found = await cluster.list_nodes(self._client)
        if found.platforms != self._known.platforms:
            logger.info("platforms", extra={"platforms": list(found.platforms)})
            self._known.platforms = found.platforms
            for key in self._known.caches:
                self._queue.add(key)
        return found.nodes

    async def prime(self) -> None:
        """Learn of nodes and builds before the first step: none is begun that is there."""
        while True:
            try:
                await self.list_nodes()
                await self._relist()
            except errors.TemporaryError as error:
                logger.warning("cannot begin yet", extra={"reason": str(error)})
                await asyncio.sleep(min(_PRIMING, error.delay or 1.0))
            else:
                return

    def services(self, step: Step) -> dict[str, Coroutine[Any, Any, None]]:
        """For run_services, when primed."""
        workers = {f"steps {at}": self._queue.run(step) for at in range(_WORKERS)}
        return {**workers, "lists": self._run_lists(), "counts": self._run_counts()}

    async def _run_lists(self) -> None:
        """Make sure now and then that nothing was missed, and that there is not too much."""
        while True:
            await asyncio.sleep(_RELIST)
            try:
                await self._relist()
                await self._relist_caches()
                await self._evict()
            except errors.AgentError as error:
                logger.warning("the lists are not read", extra={"reason": str(error)})

    async def _relist(self) -> None:
        """The builds: a Job that went while no watch was there is active for ever, else."""
        selector = ",".join(f"{key}={value}" for key, value in keys.BUILDER_LABELS.items())
        before = self._known.job_names()
        found = set()
        async for page in self._client.pages(
            rest_client.JOBS, namespace=self._namespace, labels=selector
        ):
            for body in page.items:
                found.add(body["metadata"]["name"])
                self._deliver_job(body, gone=False)
        async for page in self._client.pages(
            rest_client.PODS, namespace=self._namespace, labels=selector
        ):
            for body in page.items:
                self._known.put_pod(body)
        for name in before - found:
            job = self._known.job(name)
            self._known.drop_job(name)
            if job is not None:
                self._look_after(job, over=True)

    async def _relist_caches(self) -> None:
        for group in caches.GROUPS:
            before = {key: cache for key, cache in self._known.caches.items() if key.group == group}
            builds = dict(self._known.building_for(group))
            if not (before or builds):
                continue
            found = set()
            resource = rest_client.Resource(group=group, plural="imagecaches")
            try:
                async for page in self._client.pages(resource, metadata_only=True):
                    for raw in page.raw:
                        meta = msgspec.json.decode(raw, type=_Named).metadata
                        found.add((meta.name, meta.uid))
            except refusals.NotFound:
                found.clear()  # the kind itself is gone
            for key, cache in before.items():
                if (key.name, cache.uid) not in found:
                    self._known.drop_cache(key, cache.uid)
            names = {name for name, _ in found}
            for job, owner in builds.items():
                if owner.name not in names:
                    # Somebody took our finalizer off: nobody wants what it builds.
                    await self._api.stop(job)

    async def _evict(self) -> None:
        surplus = retention.surplus(self._known.caches.values(), self._rules)
        for cache in surplus:
            logger.info("too many automatic caches", extra={"cache": cache.key.name})
            await self._api.expire(cache)
            if cache.uid not in self._evicted:
                self._evicted.add(cache.uid)
                self._teller.emit(cache, _eviction(cache, self._rules))
        self._evicted &= {cache.uid for cache in surplus}

    async def _run_counts(self) -> None:
        """Have the metric say how many caches there are, also while the API server is away."""
        while True:
            self._count()
            await asyncio.sleep(_COUNT)

    def _count(self) -> None:
        count = dict.fromkeys(cache_state.Phase, 0)
        for cache in self._known.caches.values():
            count[cache.state.phase or cache_state.Phase.PENDING] += 1
        for phase, number in count.items():
            metrics.CACHES.labels(phase.value).set(number)


def _eviction(cache: cache_object.CacheObject, rules: retention.Rules) -> outcome.Event:
    used = f"last used at {cache.matched:%Y-%m-%d %H:%M} UTC" if cache.matched else "never used"
    message = (
        f"It is deleted: there are more than {rules.auto_caches} automatic caches (--auto-caches),"
        f" and of those this one was not used for the longest: {used}."
    )
    return outcome.Event(reason="Evicted", message=message)
