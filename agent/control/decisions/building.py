"""The build of a cache, from its beginning to its end: pure functions.

A build is identified by the name of its Job, which follows from the object alone.
"""

import dataclasses
import datetime
from collections.abc import Sequence

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import outcome, retention, tag_freshness
from agent.control.jobs import job_manifest, job_state
from agent.kits import units
from agent.model import caches, records, reports, times

_POLL = 1.0
_STOPPING = 2.0
_FORBIDDEN = 60.0
_ENDING = datetime.timedelta(seconds=30)
"""A builder that has reported its failure ends within this time."""
_MATCHING_CLOCKS = datetime.timedelta(minutes=1)

_UNSIGNED = (
    "It is not signed: it was built before the store had a key. Nodes use it until all other caches"
    " are signed. Refresh it, or sign the store (docs/install/upgrade.md)."
)


def stop(
    cache: cache_object.CacheObject, others: Sequence[job_state.Job], seen: outcome.Seen
) -> outcome.Decision:
    """Stop the builds of an older spec first: two builds of one cache could end in either order."""
    sentence = "The spec has changed: the build of the previous one is being stopped."
    event = outcome.Event(reason="BuildStopped", message=sentence)
    return outcome.Decision(
        state=dataclasses.replace(cache.state, phase=_building(seen)),
        sentence=sentence,
        events=(event,) if cache.state.message != sentence else (),
        actions=tuple(
            outcome.Action(outcome.Verb.STOP, job.name) for job in others if not job.deleting
        ),
        again=_STOPPING,
    )


def ready(
    cache: cache_object.CacheObject,
    stored: outcome.Stored,
    *,
    again: float | None = None,
    afterwards: tuple[outcome.Action, ...] = (),
    unsigned: bool = False,
) -> outcome.Decision:
    record = stored.record
    count = len(record.images)
    sentence = (
        f"Ready: {count} image{'s' * (count != 1)}, {units.size(record.size)} in the store,"
        f" built in {units.duration(record.build_seconds)}."
        f"{f' {_UNSIGNED}' if unsigned else ''}"
    )
    state = dataclasses.replace(
        cache.state,
        phase=cache_state.Phase.READY,
        progress=100,
        size=record.size,
        images=tuple(
            cache_state.BuiltImage(image=image.ref, digest=image.target, size=image.size)
            for image in record.images
        ),
    )
    changed = cache.state.phase is not cache_state.Phase.READY
    events = [outcome.Event(reason="Ready", message=sentence)] if changed else []
    if unsigned and cache.state.message != sentence:
        events.append(outcome.Event(reason="NotSigned", message=_UNSIGNED, warning=True))
    return outcome.Decision(
        state=state,
        sentence=sentence,
        afterwards=afterwards,
        events=tuple(events),
        again=again,
    )


def _building(seen: outcome.Seen) -> cache_state.Phase:
    return cache_state.Phase.UPDATING if seen.stored is not None else cache_state.Phase.CREATING


def _waiting(seen: outcome.Seen) -> cache_state.Phase:
    return cache_state.Phase.UPDATING if seen.stored is not None else cache_state.Phase.PENDING


def forbid(cache: cache_object.CacheObject, seen: outcome.Seen) -> outcome.Decision:
    """The pod may not use what the automatic cache names: nothing is built."""
    request = cache.request
    named = "pull secrets" if request and request.pull_secrets else "instances of a registry"
    sentence = (
        f"It is not built, because it names {named} and {seen.origin or 'has no pod'}."
        " The next pod that asks for it causes it to be created again."
    )
    event = outcome.Event(reason="OriginNotVerified", message=sentence, warning=True)
    running = [job for job in seen.jobs.values() if job.active and not job.deleting]
    serving = seen.stored is not None
    return outcome.Decision(
        state=dataclasses.replace(
            cache.state,
            phase=cache_state.Phase.UPDATE_FAILED if serving else cache_state.Phase.FAILED,
            progress=100 if serving else 0,
        ),
        sentence=sentence,
        actions=tuple(outcome.Action(outcome.Verb.STOP, job.name) for job in running),
        events=(event,) if cache.state.message != sentence else (),
        again=_FORBIDDEN,
    )


def is_resting(cache: cache_object.CacheObject, now: datetime.datetime) -> bool:
    """Whether a build of this very spec has failed, and the next is not due yet."""
    retry = cache.state.build.retry
    return job_manifest.failures(cache) > 0 and retry is not None and retry > now


def is_ending(cache: cache_object.CacheObject, job: job_state.Job, now: datetime.datetime) -> bool:
    """Whether a Job belongs to a build that has reported its failure, and is about to end."""
    retry = cache.state.build.retry
    if job.spec != cache.spec_hash or not job_manifest.failures(cache) or retry is None:
        return False
    return now < retry + _ENDING


def wait(cache: cache_object.CacheObject) -> outcome.Decision:
    """Change nothing for a moment."""
    return outcome.Decision(state=cache.state, sentence=cache.state.message, again=_POLL)


def begin(
    cache: cache_object.CacheObject,
    request: caches.CacheRequest,
    seen: outcome.Seen,
    *,
    platforms: tuple[str, ...],
) -> outcome.Decision:
    state = cache.state
    if is_resting(cache, seen.now) and state.build.retry is not None:
        left = (state.build.retry - seen.now).total_seconds()
        return outcome.Decision(state=state, sentence=state.message, again=left)
    if not seen.slot:
        return _await_turn(cache, seen)
    name = job_manifest.name_of(cache, platforms)
    some = f"{len(request.images)} image{'s' * (len(request.images) != 1)}"
    sentence = f"The build of {some} has begun, by Job {name}."
    return outcome.Decision(
        state=dataclasses.replace(
            state,
            phase=_building(seen),
            progress=0,
            started=seen.now,
            images=state.images if state.serving else (),
        ),
        sentence=sentence,
        actions=(outcome.Action(outcome.Verb.START, name),),
        events=(outcome.Event(reason="BuildStarted", message=sentence),),
        again=_POLL,
    )


def _await_turn(cache: cache_object.CacheObject, seen: outcome.Seen) -> outcome.Decision:
    state = dataclasses.replace(cache.state, phase=_waiting(seen))
    sentence = "It waits for a free slot: it is built when it is the turn of its namespace."
    again = None
    if seen.not_before is not None:
        again = max(_POLL, (seen.not_before - seen.now).total_seconds())
        sentence = f"It waits, because several builds for namespace {cache.tenant} have failed."
        if job_manifest.failures(cache):
            # Why it failed itself is of more use.
            state, sentence = cache.state, cache.state.message
    return outcome.Decision(state=state, sentence=sentence, again=again, waits=True)


def follow(
    cache: cache_object.CacheObject, seen: outcome.Seen, job: job_state.Job, rules: retention.Rules
) -> outcome.Decision:
    """The next step where the wanted build exists: running, done or failed."""
    report = seen.report
    result = report.result if report is not None else None
    if result is not None and result.cache is not None:
        return _ended(cache, outcome.Stored(record=result.cache), seen, job, rules)
    if job.succeeded:
        if seen.stored is not None and _built_by(job, seen.stored.record):
            return _ended(cache, seen.stored, seen, job, rules)
        reason = "the build reports that it is done, but the store does not have the cache"
        return _failed(cache, reason, job.name, seen=seen, rules=rules)
    if job.failed or result is not None:
        reason = result.reason if result is not None and result.reason else job.reason
        return _failed(cache, reason, job.name, seen=seen, rules=rules)
    if job.deleting:
        return outcome.Decision(
            state=dataclasses.replace(cache.state, phase=_building(seen)),
            sentence=f"Job {job.name} is being deleted; it is created again when it is gone.",
            again=_STOPPING,
        )
    return _running(cache, seen, job)


def _ended(
    cache: cache_object.CacheObject,
    stored: outcome.Stored,
    seen: outcome.Seen,
    job: job_state.Job,
    rules: retention.Rules,
) -> outcome.Decision:
    """The next step after a build: what its pod vouches for is signed, then the cache is Ready."""
    if seen.signs and not job.attested and job.succeeded:
        reason = "the builder's pod is gone, or is of another version: it vouches for nothing"
        return _failed(cache, reason, job.name, seen=seen, rules=rules)
    if seen.signs and not job.attested:
        sentence = "It is built; it is signed when the builder's pod has ended."
        building = (cache_state.Phase.CREATING, cache_state.Phase.UPDATING)
        phase = cache.state.phase if cache.state.phase in building else _building(seen)
        state = dataclasses.replace(cache.state, phase=phase, progress=99)
        return outcome.Decision(state=state, sentence=sentence, again=_POLL)
    settle = (outcome.Action(outcome.Verb.SETTLE, job.name),)
    step = _built(cache, stored, job, settle)
    step = _with_tags(step, cache, stored.record, seen, rules)
    if not seen.signs:
        return step
    return dataclasses.replace(step, actions=(outcome.Action(outcome.Verb.SIGN, job.name),))


def _running(
    cache: cache_object.CacheObject, seen: outcome.Seen, job: job_state.Job
) -> outcome.Decision:
    report = seen.report or reports.Report()
    state = dataclasses.replace(
        cache.state,
        phase=_building(seen),
        progress=report.percent,
        started=cache.state.started or job.created or seen.now,
    )
    reported = {event.name for event in cache.state.events if not event.warning}
    begun = state.started or seen.now
    for image in report.images:
        pulled = f"Success pull image {image}"
        if image not in reported or not any(
            event.name == image and event.at >= begun for event in state.events
        ):
            state = cache_state.happened(
                state, cache_state.Happening(name=image, message=pulled, at=seen.now)
            )
    step = report.step or "the builder's pod is being started"
    before = f" Before, {job.setback}." if job.setback else ""
    return outcome.Decision(
        state=state,
        sentence=f"It is being built: {job.reason or step}.{before}",
        # Its Secret may be missing: the controller that created the Job ended too soon.
        actions=(outcome.Action(outcome.Verb.START, job.name),) if job.suspended else (),
        again=_POLL,
    )


def _built_by(job: job_state.Job, record: records.CacheRecord) -> bool:
    created = times.parse(record.created)
    return created is not None and (
        job.created is None or created >= job.created - _MATCHING_CLOCKS
    )


def _built(
    cache: cache_object.CacheObject,
    stored: outcome.Stored,
    job: job_state.Job,
    afterwards: tuple[outcome.Action, ...],
) -> outcome.Decision:
    record = stored.record
    state = cache.state
    at = times.parse(record.created)
    reported = {(event.name, event.at) for event in state.events}
    for image in record.images:
        begun = state.started or at
        if at and not any(name == image.ref and begun and when >= begun for name, when in reported):
            message = f"Success pull image {image.ref}"
            state = cache_state.happened(
                state, cache_state.Happening(name=image.ref, message=message, at=at)
            )
    build = cache_state.Build(spec=cache.spec_hash, platforms=job.platforms, time=at)
    done = dataclasses.replace(cache, state=dataclasses.replace(state, build=build))
    step = ready(done, stored, afterwards=afterwards)
    event = outcome.Event(reason="Ready", message=step.sentence)
    return dataclasses.replace(step, events=(event,))


def _with_tags(
    step: outcome.Decision,
    cache: cache_object.CacheObject,
    record: records.CacheRecord,
    seen: outcome.Seen,
    rules: retention.Rules,
) -> outcome.Decision:
    """The decision with what is known of the tags of the new build.

    No step follows that would look at them. A tag that was pushed meanwhile has moved again.
    """
    policy = tag_freshness.policy_of(cache, rules)
    tags = tag_freshness.looked_up(cache, record, seen, policy)
    return dataclasses.replace(
        step,
        state=dataclasses.replace(step.state, tags=tags),
        events=(*tag_freshness.events(tags, cache.state.tags, policy), *step.events),
        again=_POLL if tags.moved and policy.rebuilt else step.again,
    )


def cannot_begin(
    cache: cache_object.CacheObject, reason: str, *, seen: outcome.Seen, rules: retention.Rules
) -> outcome.Decision:
    """A build that could not begin counts as one that failed."""
    return _failed(cache, reason, "", seen=seen, rules=rules)


def _failed(
    cache: cache_object.CacheObject,
    reason: str,
    job: str,
    *,
    seen: outcome.Seen,
    rules: retention.Rules,
) -> outcome.Decision:
    count = job_manifest.failures(cache) + 1
    delay = retention.retry_after(count, rules)
    retry = seen.now + datetime.timedelta(seconds=delay)
    reason = reason.rstrip(".")
    sentence = (
        f"The build failed: {reason}. It is tried again at {retry:%H:%M:%S} UTC (failure {count})."
    )
    serving = seen.stored is not None
    state = dataclasses.replace(
        cache.state,
        phase=cache_state.Phase.UPDATE_FAILED if serving else cache_state.Phase.FAILED,
        progress=100 if serving else 0,
        build=dataclasses.replace(
            cache.state.build, failures=count, failed=cache.spec_hash, retry=retry
        ),
    )
    happening = cache_state.Happening(
        name=job or cache.cache_id, message=reason, at=seen.now, warning=True
    )
    return outcome.Decision(
        state=cache_state.happened(state, happening),
        sentence=sentence,
        afterwards=(outcome.Action(outcome.Verb.SETTLE, job),) if job else (),
        events=(outcome.Event(reason="BuildFailed", message=sentence, warning=True),),
        again=delay,
    )
