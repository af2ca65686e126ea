"""The next step for one cache: a pure function of the object and of what is observed.

Every step is decided from scratch. Jobs and Secrets have names that follow from the object
alone, so it does not matter which controller created them, nor where that one ended.
"""

import dataclasses
import datetime
from collections.abc import Sequence

import msgspec

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import building, deletion, outcome, retention, tag_freshness
from agent.control.jobs import job_manifest
from agent.model import caches, records, times

_AWAY = 10.0
_MATCHING_CLOCKS = datetime.timedelta(minutes=1)


def platforms_of(cache: cache_object.CacheObject, nodes: Sequence[str]) -> tuple[str, ...]:
    """The platforms to build for: the one that the object names, else those of the nodes."""
    request = cache.request
    if request is not None and request.architecture:
        return (f"linux/{request.architecture}",)
    known = cache.state.build.platforms if cache.state.build.spec == cache.spec_hash else ()
    return tuple(sorted({*nodes, *known}))


def decide(
    cache: cache_object.CacheObject, seen: outcome.Seen, rules: retention.Rules
) -> outcome.Decision:
    """The next step."""
    if cache.deleted is not None:
        return deletion.delete(cache, seen, rules, since=cache.deleted)
    state = dataclasses.replace(
        cache.state,
        cache_id=cache.cache_id,
        generation=cache.generation,
        matched=cache.matched,
        verified=cache.state.verified or (cache.unverified and seen.origin == ""),
    )
    policy = tag_freshness.policy_of(cache, rules)
    if seen.stored is not None:
        tags = tag_freshness.looked_up(cache, seen.stored.record, seen, policy)
        state = dataclasses.replace(state, tags=tags)
    tag_events = tuple(tag_freshness.events(state.tags, cache.state.tags, policy))
    cache = dataclasses.replace(cache, state=state)
    expires = retention.expires(cache, cache, rules, now=seen.now)
    if expires is not None and expires <= seen.now:
        return _expired(cache, expires)
    if cache.request is None:
        step = _unusable(cache)
    elif seen.problem:
        step = _blind(cache, seen)
    else:
        step = _build_or_ready(_adopted(cache, seen), cache.request, seen, rules)
    hold = () if cache.finalized else (outcome.Action(outcome.Verb.HOLD),)
    actions = (*hold, *step.actions, *_adjustment(cache, seen, policy))
    step = dataclasses.replace(step, actions=actions, events=(*tag_events, *step.events))
    step = dataclasses.replace(step, again=_sooner(step, policy, seen.now))
    return dated(cache, step, seen, rules)


def _sooner(
    step: outcome.Decision, policy: caches.ServeStale, now: datetime.datetime
) -> float | None:
    """When the next step is due, also for tags that are to be withheld."""
    due = (step.again, tag_freshness.left(step.state.tags, policy, now))
    return min((each for each in due if each is not None), default=None)


def _adjustment(
    cache: cache_object.CacheObject, seen: outcome.Seen, policy: caches.ServeStale
) -> tuple[outcome.Action, ...]:
    """What to do so that the record says what nodes are to know without a build.

    That is which of them keep the images warm, as the object says, and which tags have moved.
    """
    request, stored = cache.request, seen.stored
    if request is None or stored is None:
        return ()
    record = stored.record
    moved = tag_freshness.for_nodes(cache.state.tags, policy)
    same = (
        record.keep_warm is request.keep_warm
        and record.node_selector == dict(request.node_selector)
        and record.local == (request.local or "")
        and _same_tags(record.moved, moved)
    )
    return () if same else (outcome.Action(outcome.Verb.ADJUST, moved=moved),)


def _same_tags(known: Sequence[records.MovedTag], wanted: Sequence[records.MovedTag]) -> bool:
    """Whether a record says of its tags what it is to say.

    When they were last confirmed is not compared: it does not change once they have moved.
    """
    return [msgspec.structs.replace(each, confirmed="") for each in known] == [
        msgspec.structs.replace(each, confirmed="") for each in wanted
    ]


def dated(
    cache: cache_object.CacheObject,
    step: outcome.Decision,
    seen: outcome.Seen,
    rules: retention.Rules,
) -> outcome.Decision:
    """The decision with the times that follow from the new state."""
    state = step.state
    if state.phase is not cache.state.phase or state.changed is None:
        state = dataclasses.replace(state, changed=seen.now)
    state = dataclasses.replace(state, message=step.sentence)
    after = dataclasses.replace(cache, state=state)
    expires = retention.expires(after, cache, rules, now=seen.now)
    state = dataclasses.replace(state, expires=expires)
    again = step.again
    if state.expires is not None:
        left = max(0.0, (state.expires - seen.now).total_seconds())
        again = left if again is None else min(again, left)
    return dataclasses.replace(step, state=state, again=again)


def _expired(cache: cache_object.CacheObject, expires: datetime.datetime) -> outcome.Decision:
    sentence = f"It is deleted: it was to be kept until {expires:%Y-%m-%d %H:%M} UTC."
    return outcome.Decision(
        state=cache.state,
        sentence=sentence,
        actions=(outcome.Action(outcome.Verb.EXPIRE),),
        events=(outcome.Event(reason="Expired", message=sentence),),
    )


def _unusable(cache: cache_object.CacheObject) -> outcome.Decision:
    """The spec is invalid: what was built of the last valid one goes on serving."""
    phase = cache_state.Phase.UPDATE_FAILED if cache.state.serving else cache_state.Phase.FAILED
    sentence = f"The manifest cannot be used: {cache.problem}"
    changed = cache.state.message != sentence
    event = outcome.Event(reason="InvalidSpec", message=sentence, warning=True)
    return outcome.Decision(
        state=dataclasses.replace(cache.state, phase=phase),
        sentence=sentence,
        events=(event,) if changed else (),
    )


def _blind(cache: cache_object.CacheObject, seen: outcome.Seen) -> outcome.Decision:
    """Without the store nothing is decided: what is Ready stays so, with its message."""
    phase = cache.state.phase or cache_state.Phase.PENDING
    sentence = f"The store does not answer: {seen.problem}"
    return outcome.Decision(
        state=dataclasses.replace(cache.state, phase=phase),
        sentence=cache.state.message if cache.state.serving else sentence,
        again=_AWAY,
    )


def _adopted(cache: cache_object.CacheObject, seen: outcome.Seen) -> cache_object.CacheObject:
    """The cache with the record in the store counted as its build, where the status lacks it.

    So nothing is built again after a controller that ended before it wrote the status, or
    after a status that was lost.
    """
    state, request = cache.state, cache.request
    if seen.stored is None or request is None:
        return cache
    if seen.unsigned and job_manifest.failures(cache):
        return cache  # its signature may have been refused
    if job_manifest.name_of(cache, platforms_of(cache, seen.platforms)) in seen.jobs:
        return cache  # its Job is followed instead
    record = seen.stored.record
    created = times.parse(record.created)
    if created is None or created == state.build.time or not _holds(record, request):
        return cache
    since = state.started
    if state.build.spec and (since is None or created < since - _MATCHING_CLOCKS):
        return cache
    platforms = seen.stored.platforms
    for job in seen.jobs.values():
        if job.spec == cache.spec_hash:
            platforms = tuple(sorted({*platforms, *job.platforms}))
    build = cache_state.Build(spec=cache.spec_hash, platforms=platforms, time=created)
    return dataclasses.replace(cache, state=dataclasses.replace(state, build=build))


def _holds(record: records.CacheRecord, request: caches.CacheRequest) -> bool:
    return (
        {image.ref for image in record.images} == {str(image) for image in request.images}
        # An automatic one may have grown with its images.
        and (
            record.capacity == request.capacity
            or (request.auto and record.capacity > request.capacity)
        )
        and record.namespaces == request.namespaces
    )


def _build_or_ready(
    cache: cache_object.CacheObject,
    request: caches.CacheRequest,
    seen: outcome.Seen,
    rules: retention.Rules,
) -> outcome.Decision:
    platforms = platforms_of(cache, seen.platforms)
    build = cache.state.build
    due = retention.refresh_due(cache, rules)
    name = job_manifest.name_of(cache, platforms)
    stale = bool(cache.state.tags.moved) and tag_freshness.policy_of(cache, rules).rebuilt
    fresh = (
        seen.stored is not None
        and build.spec == cache.spec_hash
        and set(platforms) <= set(build.platforms)
        and (due is None or due > seen.now)
        and not stale
        # A build that has begun is followed to its end: what it publishes is to be signed.
        and name not in seen.jobs
    )
    others = [
        job
        for job in seen.jobs.values()
        if job.active
        and job.name != name
        # The one that has just built the present record is about to end by itself.
        and not (fresh and job.spec == build.spec)
    ]
    if others and all(building.is_ending(cache, job, seen.now) for job in others):
        return building.wait(cache)
    if others:
        return building.stop(cache, others, seen)
    if fresh and seen.stored is not None:
        left = (due - seen.now).total_seconds() if due is not None else None
        return building.ready(cache, seen.stored, again=left, unsigned=seen.unsigned)
    if cache.unverified:
        return building.forbid(cache, seen)
    job = seen.jobs.get(name)
    if job is None:
        return building.begin(cache, request, seen, platforms=platforms)
    return building.follow(cache, seen, job, rules)
