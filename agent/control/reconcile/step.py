"""One step for one cache: look, decide, act, write the status, one sentence about it.

Each act may be the last one: whatever is left is found by the next step, of this
controller or of another one.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors, metrics
from agent.control.caches import cache_object, cache_state, status_format
from agent.control.decisions import building, cache_decision, outcome, retention
from agent.control.jobs import job_manifest
from agent.control.objects import cache_events
from agent.control.reconcile import cache_store, cluster, observed
from agent.model import times

logger = logging.getLogger(__name__)


class Holders(Protocol):
    """Who still holds what was deleted (agent.control.gc.collector_rounds.Collector)."""

    def ask(self) -> None:
        """Have a round soon."""

    def holders(self, cache_id: str, layers: Sequence[str] = ()) -> str:
        """A sentence about who holds a cache's layers; "" where nobody is known to."""


class Reconciler:
    """Does steps for the caches in `known`."""

    def __init__(
        self,
        *,
        known: observed.Knowledge,
        api: cluster.Cluster,
        store: cache_store.Storage,
        holders: Holders,
        teller: cache_events.CacheEvents,
        template: job_manifest.Template,
        rules: retention.Rules,
        parallel: int,
        wall_clock: times.Clock = times.now,
    ) -> None:
        self._known = known
        self._api = api
        self._store = store
        self._holders = holders
        self._teller = teller
        self._template = template
        self._rules = rules
        self._parallel = parallel
        self._wall_clock = wall_clock
        self._starting: set[str] = set()

    async def step(self, key: cache_object.Key) -> float | None:
        """Do what is next for a cache; seconds until the next look, None: when it changes."""
        cache = self._known.caches.get(key)
        if cache is None:
            return None
        seen = await self._look(cache)
        decision = cache_decision.decide(cache, seen, self._rules)
        # Nothing is awaited since the slots were counted: this build has its own from now on.
        begun = {each.subject for each in decision.actions if each.verb is outcome.Verb.START}
        self._starting |= begun
        try:
            cache = await self._act_all(cache, decision.actions, seen)
            written = await self._write(cache, decision)
        except cluster.CannotStart as error:
            known = dataclasses.replace(cache.state, verified=decision.state.verified)
            cache = dataclasses.replace(cache, state=known)
            decision = building.cannot_begin(cache, str(error), seen=seen, rules=self._rules)
            decision = cache_decision.dated(cache, decision, seen, self._rules)
            written = await self._write(cache, decision)
        except cluster.ObjectGone:
            return None  # while we looked; the watch says so in a moment
        finally:
            self._starting -= begun
        for event in decision.events:
            self._teller.emit(cache, event)
        await self._act_all(written, decision.afterwards, seen)
        if decision.sentence != cache.state.message:
            logger.info("reconciled", extra={"cache": key.name, "outcome": decision.sentence})
        return decision.again

    async def _look(self, cache: cache_object.CacheObject) -> outcome.Seen:
        platforms = cache_decision.platforms_of(cache, self._known.platforms)
        name = job_manifest.name_of(cache, platforms) if cache.request is not None else ""
        job = self._known.job(name)
        if job is not None and job.failed and not job.explained:
            self._known.explain_job(name, await self._api.reason_of(name))
        asked = cache.unverified and cache.deleted is None
        mine = self._known.jobs_of(cache.cache_id)
        seen = outcome.Seen(
            now=self._wall_clock().replace(microsecond=0),
            jobs=mine,
            platforms=self._known.platforms,
            origin=await self._api.origin_problem(cache) if asked else None,
        )
        going, holders = False, ""
        try:
            found = await self._store.look(
                cache.cache_id,
                job=name if name in mine else "",
                detail=cache.state.build.spec != cache.spec_hash,
            )
            if cache.deleted is not None and found.stored is None:
                going = await self._store.is_going(cache.cache_id)
                holders = self._holders.holders(cache.cache_id)
        except cache_store.StoreAway as error:
            return dataclasses.replace(seen, problem=error.reason)
        return dataclasses.replace(
            seen,
            stored=found.stored,
            going=going,
            report=found.report,
            holders=holders,
            slot=self._known.building(self._starting) < self._parallel,
        )

    async def _write(
        self, cache: cache_object.CacheObject, decision: outcome.Decision
    ) -> cache_object.CacheObject:
        """Write what of the status has changed; nothing where nothing has."""
        if cache.key not in self._known.caches:
            return cache
        patch = status_format.patch_of(decision.state, cache.dialect, cache.status)
        if not patch:
            return cache
        before, after = cache.state.phase, decision.state.phase
        written = self._known.put_cache(await self._api.write_status(cache, patch))
        if after is not None and before is not after and after in _COUNTED:
            metrics.built(_COUNTED[after])
        return written

    async def _act_all(
        self, cache: cache_object.CacheObject, actions: Sequence[outcome.Action], seen: outcome.Seen
    ) -> cache_object.CacheObject:
        for action in actions:
            cache = await self._act(cache, action, seen)
        return cache

    async def _act(
        self, cache: cache_object.CacheObject, action: outcome.Action, seen: outcome.Seen
    ) -> cache_object.CacheObject:
        match action.verb:
            case outcome.Verb.HOLD:
                return self._known.put_cache(await self._api.hold(cache))
            case outcome.Verb.START:
                await self._start(cache, seen)
            case outcome.Verb.STOP:
                await self._api.stop(action.subject)
            case outcome.Verb.SETTLE:
                await self._settle(cache, action.subject)
            case outcome.Verb.REMOVE:
                await self._store.remove(cache.cache_id)
                self._holders.ask()
            case outcome.Verb.RELEASE:
                await self._api.release(cache)
                self._known.drop_cache(cache.key, cache.uid)
            case outcome.Verb.EXPIRE:
                await self._api.expire(cache)
        return cache

    async def _start(self, cache: cache_object.CacheObject, seen: outcome.Seen) -> None:
        request = cache.request
        assert request is not None
        secrets = await self._api.pull_secrets(request.pull_secrets)
        body = job_manifest.manifest(
            cache,
            request,
            cache_decision.platforms_of(cache, seen.platforms),
            template=self._template,
        )
        await self._store.begin(body["metadata"]["name"])
        self._known.put_job(await self._api.start(body, secrets))

    async def _settle(self, cache: cache_object.CacheObject, job: str) -> None:
        """What is left behind here goes with the Job, or is swept: no step fails for it."""
        try:
            if cache.request is not None and cache.request.pull_secrets:
                await self._api.forget_secret(job)
            await self._store.settle(job)
        except errors.AgentError as error:
            logger.info("left behind", extra={"job": job, "reason": str(error)})


_COUNTED: Mapping[cache_state.Phase, metrics.BuildResult] = {
    cache_state.Phase.READY: "ready",
    cache_state.Phase.FAILED: "failed",
    cache_state.Phase.UPDATE_FAILED: "failed",
}
