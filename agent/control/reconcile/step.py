"""One step for one cache: read, decide, act, write the status, one sentence about it.

The controller may end after any action: the next step, of this controller or of another one,
finds what is left to do.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.control.caches import cache_object, cache_state, status_format
from agent.control.decisions import building, cache_decision, outcome, retention
from agent.control.jobs import job_manifest
from agent.control.reconcile import cache_store, cluster, observed
from agent.metrics import cache_metrics
from agent.model import caches, records, times
from agent.model.starts import start_profiles
from agent.store.publish import record_signing

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""After which a report of a start is looked at again where the store did not answer."""

_REMEMBERED = 10_000
"""Objects with remarks about them: beyond, each is said once more."""


class Holders(Protocol):
    """Who still holds what was deleted (agent.control.gc.collector_rounds.Collector)."""

    def ask(self) -> None:
        """Have a round soon."""

    def holders(self, cache_id: str) -> str:
        """A sentence about the holders of a cache's layers; "" where none is known."""


class Signing(Protocol):
    """Signs what is built (agent.control.signing.key_rounds.Signing)."""

    @property
    def document(self) -> str:
        """The public keys, for builders."""

    @property
    def refuses(self) -> bool:
        """Whether nodes refuse what is not signed."""

    def has_signed(self, record: records.CacheRecord) -> bool:
        """Whether the record of a cache has a signature that counts."""

    async def sign(self, wanted: record_signing.Wanted, digest: str, layers: Sequence[str]) -> None:
        """Sign a build; raise PermanentError where it may not be, TemporaryError: later."""


class Tags(Protocol):
    """What registries say of tags (agent.control.tags.tag_rounds.Rounds)."""

    @property
    def written_every(self) -> float:
        """Seconds between two writes of a status that says nothing else but a new time."""

    def answers(self, cache: cache_object.CacheObject) -> Mapping[str, outcome.TagAnswer]:
        """The latest answers about the images of a cache, by their full names."""


class Events(Protocol):
    """Where events of a cache go (agent.control.reconcile.cache_events.CacheEvents)."""

    def emit(self, cache: cache_object.CacheObject, event: outcome.Event) -> None:
        """Take an event; it is written later."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a step reads and writes with."""

    api: cluster.Cluster
    store: cache_store.CacheStore
    holders: Holders
    events: Events
    signing: Signing | None = None
    tags: Tags | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What builds have in common, and the rules."""

    template: job_manifest.Template
    rules: retention.Rules


class Reconciler:
    """Does steps for the caches in `view`."""

    def __init__(
        self,
        view: observed.Observed,
        tools: Tools,
        settings: Settings,
        *,
        clock: times.Clock = times.now,
    ) -> None:
        self._view = view
        self._tools = tools
        self._settings = settings
        self._clock = clock
        self._remarked: dict[str, str] = {}
        """What was said about objects, by their UID."""

    async def step(self, key: cache_object.Key) -> float | None:
        """Do what is next for a cache; seconds until the next step, None: when it changes."""
        cache = self._view.caches.get(key)
        if cache is None:
            return None
        try:
            with self._view.stepping(key):
                again = await self._step(cache)
                return await self._take_start(self._view.caches.get(key), again)
        except errors.AgentError:
            # It gives way to others, until a step of its own succeeds again.
            self._view.note_waiting(key, waits=False)
            raise

    async def _step(self, cache: cache_object.CacheObject) -> float | None:
        key = cache.key
        rules = self._settings.rules
        seen = await self._look(cache)
        decision = cache_decision.decide(cache, seen, rules)
        # Nothing is awaited since the slots were counted: this build has its own from now on.
        begun = {each.subject for each in decision.actions if each.verb is outcome.Verb.START}
        self._view.starting |= dict.fromkeys(begun, cache)
        self._view.note_waiting(key, waits=decision.waits)
        try:
            cache = await self._act_all(cache, decision.actions, seen)
            written = await self._write(cache, decision)
        except cluster.CannotStart as error:
            known = dataclasses.replace(cache.state, verified=decision.state.verified)
            cache = dataclasses.replace(cache, state=known)
            decision = building.cannot_begin(cache, str(error), seen=seen, rules=rules)
            decision = cache_decision.dated(cache, decision, seen, rules)
            written = await self._write(cache, decision)
        except cluster.ObjectGone:
            return None  # deleted meanwhile; the watch delivers that in a moment
        finally:
            for job in begun:
                self._view.starting.pop(job, None)
                if self._view.job(job) is None:
                    self._view.queue_waiting()  # it did not begin: its slot is free
        for event in (*decision.events, *self._remarks(cache)):
            self._tools.events.emit(cache, event)
        await self._act_all(written, decision.afterwards, seen)
        if decision.sentence != cache.state.message:
            logger.info("reconciled", extra={"cache": key.name, "outcome": decision.sentence})
        return decision.again

    def _remarks(self, cache: cache_object.CacheObject) -> Sequence[outcome.Event]:
        """A warning about what a manifest says in vain, once for each wording of it."""
        message = " ".join(cache.request.warnings if cache.request is not None else ())
        if self._remarked.get(cache.uid, "") == message:
            return ()
        if len(self._remarked) >= _REMEMBERED:
            self._remarked.clear()
        self._remarked[cache.uid] = message
        return [outcome.Event(reason="Ignored", message=message, warning=True)] if message else ()

    async def _take_start(
        self, cache: cache_object.CacheObject | None, again: float | None
    ) -> float | None:
        """Take over a node's report of a start, if there is one; when the next step is due.

        No step fails for it: it stays where it is for as long as the store does not answer.
        """
        if cache is None or not cache.start_report or cache.deleted is not None:
            return again
        try:
            new = await self._tools.store.take_start(cache.cache_id, cache.start_report)
            cache_metrics.profile_taken("stored" if new else "known")
        except start_profiles.ProfileError as error:
            cache_metrics.profile_taken("refused")
            logger.warning(
                "a start profile is refused",
                extra={"cache": cache.key.name, "reason": error.reason},
            )
        except cache_store.StoreAway:
            return _START_SECONDS if again is None else min(again, _START_SECONDS)
        with contextlib.suppress(cluster.ObjectGone):
            self._view.put_cache(await self._tools.api.clear_start(cache))
        return again

    async def _look(self, cache: cache_object.CacheObject) -> outcome.Seen:
        platforms = cache_decision.platforms_of(cache, self._view.platforms)
        name = job_manifest.name_of(cache, platforms) if cache.request is not None else ""
        job = self._view.job(name)
        if job is not None and job.failed and not job.explained:
            self._view.explain_job(name, await self._tools.api.reason_of(name))
        if job is not None and job.succeeded and not job.attested and self._tools.signing:
            for body in await self._tools.api.pods_of(name):
                self._view.put_pod(body)
        unverified = cache.unverified and cache.deleted is None
        jobs = self._view.jobs_of(cache.cache_id)
        seen = outcome.Seen(
            now=self._clock().replace(microsecond=0),
            jobs=jobs,
            platforms=self._view.platforms,
            origin=await self._tools.api.origin_problem(cache) if unverified else None,
            tags=tags.answers(cache) if (tags := self._tools.tags) else {},
            tags_written_every=tags.written_every if tags else 0.0,
        )
        try:
            return await self._look_in_store(cache, seen, job=name if name in jobs else "")
        except cache_store.StoreAway as error:
            return dataclasses.replace(seen, problem=error.reason)

    async def _look_in_store(
        self, cache: cache_object.CacheObject, seen: outcome.Seen, *, job: str
    ) -> outcome.Seen:
        store = self._tools.store
        content = await store.look(
            cache.cache_id, job=job, detail=cache.state.build.spec != cache.spec_hash
        )
        going, holders = False, ""
        stored = content.stored
        unsigned = stored is not None and self._is_unsigned(stored.record)
        if unsigned and self._refuses and cache.deleted is None:
            stored, unsigned = None, False
        if cache.deleted is not None and content.stored is None:
            going = await store.is_going(cache.cache_id)
            holders = self._tools.holders.holders(cache.cache_id)
        turn = self._view.turn_of(cache.key)
        return dataclasses.replace(
            seen,
            stored=stored,
            going=going,
            report=content.report,
            holders=holders,
            slot=turn.now,
            not_before=turn.not_before,
            signs=self._tools.signing is not None,
            unsigned=unsigned,
        )

    def _is_unsigned(self, record: records.CacheRecord) -> bool:
        signing = self._tools.signing
        return signing is not None and not signing.has_signed(record)

    @property
    def _refuses(self) -> bool:
        """Whether nodes use no cache that is not signed."""
        return self._tools.signing is not None and self._tools.signing.refuses

    async def _write(
        self, cache: cache_object.CacheObject, decision: outcome.Decision
    ) -> cache_object.CacheObject:
        """Write those parts of the status that have changed, if any."""
        if cache.key not in self._view.caches:
            return cache
        patch = status_format.patch_of(decision.state, cache.dialect, cache.status)
        if not patch:
            return cache
        before, after = cache.state.phase, decision.state.phase
        written = self._view.put_cache(await self._tools.api.write_status(cache, patch))
        if after is not None and before is not after and after in _COUNTED:
            cache_metrics.built(_COUNTED[after])
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
        api = self._tools.api
        match action.verb:
            case outcome.Verb.HOLD:
                return self._view.put_cache(await api.hold(cache))
            case outcome.Verb.START:
                await self._start(cache, seen)
            case outcome.Verb.STOP:
                await api.stop(action.subject)
            case outcome.Verb.SIGN:
                await self._sign(cache, action.subject, seen)
            case outcome.Verb.SETTLE:
                await self._settle(cache, action.subject)
            case outcome.Verb.ADJUST:
                assert cache.request is not None
                await self._tools.store.adjust(cache.request, action.moved)
            case outcome.Verb.REMOVE:
                await self._tools.store.remove(cache.cache_id)
                self._tools.holders.ask()
            case outcome.Verb.RELEASE:
                await api.release(cache)
                self._view.drop_cache(cache.key, cache.uid)
            case outcome.Verb.EXPIRE:
                await api.expire(cache)
        return cache

    async def _start(self, cache: cache_object.CacheObject, seen: outcome.Seen) -> None:
        request = cache.request
        assert request is not None
        secrets = await self._tools.api.pull_secrets(request.pull_secrets)
        body = job_manifest.manifest(
            cache,
            request,
            cache_decision.platforms_of(cache, seen.platforms),
            template=self._settings.template,
            trusted_keys=self._tools.signing.document if self._tools.signing else "",
            growth=self._growth(cache, request),
        )
        await self._tools.store.begin(body["metadata"]["name"])
        self._view.put_job(await self._tools.api.start(body, secrets))

    def _growth(
        self, cache: cache_object.CacheObject, request: caches.CacheRequest
    ) -> job_manifest.Growth | None:
        """By how much an automatic cache may grow with its images; None for others."""
        if not request.auto:
            return None
        rules = self._settings.rules
        most = retention.most_of(cache, self._view.caches.values(), rules)
        return job_manifest.Growth(factor=rules.auto_factor, most=most)

    async def _sign(self, cache: cache_object.CacheObject, name: str, seen: outcome.Seen) -> None:
        """Sign what a Job has built; raise CannotStart where that is refused."""
        job, result = self._view.job(name), seen.report.result if seen.report else None
        request = cache.request
        if self._tools.signing is None or job is None or request is None:
            return
        layers = result.layers if result is not None else []
        wanted = record_signing.Wanted(
            cache_id=cache.cache_id,
            images=[str(image) for image in request.images],
            namespaces=request.namespaces,
        )
        try:
            await self._tools.signing.sign(wanted, job.attested, layers)
        except errors.PermanentError as error:
            raise cluster.CannotStart(str(error)) from error

    async def _settle(self, cache: cache_object.CacheObject, job: str) -> None:
        """Remove the Secret and the report of a Job; no step fails for it.

        What is left behind goes with the Job, or is swept.
        """
        try:
            if cache.request is not None and cache.request.pull_secrets:
                await self._tools.api.forget_secret(job)
            await self._tools.store.settle(job)
        except errors.AgentError as error:
            logger.info("left behind", extra={"job": job, "reason": str(error)})


_COUNTED: Mapping[cache_state.Phase, cache_metrics.BuildResult] = {
    cache_state.Phase.READY: "ready",
    cache_state.Phase.FAILED: "failed",
    cache_state.Phase.UPDATE_FAILED: "failed",
}
