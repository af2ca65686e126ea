"""What the leader does for all caches together, beside the steps for each of them.

Before the first step it lists nodes and builds. Every minute it lists caches and builds, in
case that a watch has missed a deletion, and deletes automatic caches beyond their limits. It takes
back when caches are said to have been used in the future: a node with a wrong clock, or one that
was taken over, would keep them for ever, and no node may set that time back.
"""

import asyncio
import contextlib
import datetime
import logging

from agent import errors
from agent.clients.kube import refusals
from agent.control.caches import cache_state
from agent.control.decisions import outcome, retention
from agent.control.gc import node_list
from agent.control.reconcile import cluster, observed, step
from agent.metrics import cache_metrics
from agent.model import caches, times

logger = logging.getLogger(__name__)

_RELIST = 60.0
_COUNT = 2.0
"""A scrape is seldom more often."""
_LONGEST_PAUSE = 30.0
_AHEAD = datetime.timedelta(hours=1)
_AT_ONCE = 100


class Upkeep:
    """Keeps `view` complete, and automatic caches within `rules`."""

    def __init__(
        self,
        api: cluster.Cluster,
        view: observed.Observed,
        nodes: node_list.Nodes,
        events: step.Events,
        rules: retention.Rules,
        *,
        clock: times.Clock = times.now,
    ) -> None:
        self._api = api
        self._view = view
        self._nodes = nodes
        self._events = events
        self._rules = rules
        self._clock = clock
        self._evicted: set[str] = set()

    async def prime(self) -> None:
        """List nodes and builds before the first step, so that no build is begun twice."""
        while True:
            try:
                await self._nodes.list_nodes()
                await self._relist_builds()
            except errors.TemporaryError as error:
                logger.warning("cannot begin yet", extra={"reason": str(error)})
                await asyncio.sleep(min(_LONGEST_PAUSE, error.delay or 1.0))
            else:
                return

    async def run(self) -> None:
        """Do it for ever."""
        while True:
            await asyncio.sleep(_RELIST)
            try:
                await self._relist_builds()
                await self._relist_caches()
                await self._take_back()
                await self._delete_surplus()
            except errors.AgentError as error:
                logger.warning("the lists are not read", extra={"reason": str(error)})

    async def run_counts(self) -> None:
        """Keep the metric of caches by phase up to date, also while the API server is away."""
        while True:
            self._count()
            await asyncio.sleep(_COUNT)

    async def _relist_builds(self) -> None:
        """A Job that was deleted unseen would count as active for ever."""
        before = self._view.job_names()
        listed = set()
        async for body in self._api.list_jobs():
            listed.add(body["metadata"]["name"])
            self._view.deliver_job(body)
        async for body in self._api.list_builder_pods():
            self._view.put_pod(body)
        for name in before - listed:
            self._view.end_job(name)

    async def _relist_caches(self) -> None:
        for group in caches.GROUPS:
            before = {key: cache for key, cache in self._view.caches.items() if key.group == group}
            builds = dict(self._view.building_for(group))
            if not (before or builds):
                continue
            uids = await self._api.cache_uids(group)
            for key, cache in before.items():
                if uids.get(key.name) != cache.uid:
                    self._view.drop_cache(key, cache.uid)
            for job, owner in builds.items():
                if owner.name not in uids:
                    # The finalizer was removed by hand: what is built has no owner any more.
                    await self._api.stop(job)

    async def _take_back(self) -> None:
        """Caches that were used in the future were used now; a bounded number at once."""
        now = self._clock()
        ahead = [
            cache
            for cache in self._view.caches.values()
            if cache.matched is not None and cache.matched > now + _AHEAD
        ]
        for cache in ahead[:_AT_ONCE]:
            # What has changed meanwhile is looked at again after a minute.
            with contextlib.suppress(refusals.Conflict, cluster.ObjectGone):
                self._view.put_cache(await self._api.set_matched(cache, now))
                extra = {"cache": cache.key.name, "said": f"{cache.matched:%Y-%m-%d %H:%M} UTC"}
                logger.warning("a node says that a cache was used in the future", extra=extra)

    async def _delete_surplus(self) -> None:
        surplus = retention.surplus(self._view.caches.values(), self._rules)
        for each in surplus:
            cache = each.cache
            extra = {"cache": cache.key.name, "reason": each.limit}
            logger.info("too many automatic caches", extra=extra)
            await self._api.expire(cache)
            if cache.uid not in self._evicted:
                self._evicted.add(cache.uid)
                self._events.emit(cache, _eviction(each))
        self._evicted &= {each.cache.uid for each in surplus}

    def _count(self) -> None:
        count = dict.fromkeys(cache_state.Phase, 0)
        for cache in self._view.caches.values():
            count[cache.state.phase or cache_state.Phase.PENDING] += 1
        for phase, number in count.items():
            cache_metrics.CACHES.labels(phase.value).set(number)


def _eviction(surplus: retention.Surplus) -> outcome.Event:
    cache = surplus.cache
    used = f"last used at {cache.matched:%Y-%m-%d %H:%M} UTC" if cache.matched else "never used"
    why = (
        "this one could not be built"
        if retention.is_failure(cache)
        else f"of those of namespace {cache.tenant} this one was not used for the longest: {used}"
    )
    return outcome.Event(reason="Evicted", message=f"It is deleted: {surplus.limit}, and {why}.")
