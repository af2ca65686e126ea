"""The build of a cache, from its beginning to its end: pure functions.

A build is recognised by the name of its Job, which follows from the object alone.
"""

import dataclasses
import datetime
from collections.abc import Sequence

from agent.control import expiring, job_states, jobs, specs, states, steps
from agent.model import builds, caches, records

_POLL = 1.0
_STOPPING = 2.0
_FORBIDDEN = 60.0
_ENDING = datetime.timedelta(seconds=30)
"""For the end of a builder that has said that it failed."""
_MATCHING_CLOCKS = datetime.timedelta(minutes=1)


def stop(
    cache: specs.CacheObject, others: Sequence[job_states.Job], seen: steps.Seen
) -> steps.Decision:
    """Two builds of one cache would end in either order: the old one is over first."""
    sentence = "What it is to hold has changed: the build of what it was is being stopped."
    event = steps.Event(reason="BuildStopped", message=sentence)
    return steps.Decision(
        state=dataclasses.replace(cache.state, phase=_building(seen)),
        sentence=sentence,
        events=(event,) if cache.state.message != sentence else (),
        actions=tuple(
            steps.Action(steps.Verb.STOP, job.name) for job in others if not job.deleting
        ),
        again=_STOPPING,
    )


def ready(
    cache: specs.CacheObject,
    stored: steps.Stored,
    *,
    again: float | None = None,
    afterwards: tuple[steps.Action, ...] = (),
) -> steps.Decision:
    record = stored.record
    count = len(record.images)
    sentence = (
        f"Ready: {count} image{'s' * (count != 1)}, {record.size} bytes in the store,"
        f" built in {record.build_seconds:.1f} s."
    )
    state = dataclasses.replace(
        cache.state,
        phase=states.Phase.READY,
        progress=100,
        size=record.size,
        images=tuple(
            states.BuiltImage(image=image.ref, digest=image.target, size=image.size)
            for image in record.images
        ),
    )
    news = cache.state.phase is not states.Phase.READY
    return steps.Decision(
        state=state,
        sentence=sentence,
        afterwards=afterwards,
        events=(steps.Event(reason="Ready", message=sentence),) if news else (),
        again=again,
    )


def _building(seen: steps.Seen) -> states.Phase:
    return states.Phase.UPDATING if seen.stored is not None else states.Phase.CREATING


def _waiting(seen: steps.Seen) -> states.Phase:
    return states.Phase.UPDATING if seen.stored is not None else states.Phase.PENDING


def forbid(cache: specs.CacheObject, seen: steps.Seen) -> steps.Decision:
    """What an automatic cache names is not for who asked for it: nothing is built."""
    request = cache.request
    named = "pull secrets" if request and request.pull_secrets else "instances of a registry"
    sentence = (
        f"It is not built, because it names {named} and {seen.origin or 'has no pod'}."
        " The next pod that asks has it made anew."
    )
    event = steps.Event(reason="OriginNotVerified", message=sentence, warning=True)
    running = [job for job in seen.jobs.values() if job.active and not job.deleting]
    serving = seen.stored is not None
    return steps.Decision(
        state=dataclasses.replace(
            cache.state,
            phase=states.Phase.UPDATE_FAILED if serving else states.Phase.FAILED,
            progress=100 if serving else 0,
        ),
        sentence=sentence,
        actions=tuple(steps.Action(steps.Verb.STOP, job.name) for job in running),
        events=(event,) if cache.state.message != sentence else (),
        again=_FORBIDDEN,
    )


def rests(cache: specs.CacheObject, now: datetime.datetime) -> bool:
    """Whether a build of this very spec has failed, and the next is not due yet."""
    retry = cache.state.build.retry
    return jobs.failures(cache) > 0 and retry is not None and retry > now


def is_ending(cache: specs.CacheObject, job: job_states.Job, now: datetime.datetime) -> bool:
    """Whether a Job is of a build that has failed by its own report, and may be about to end."""
    retry = cache.state.build.retry
    if job.spec != cache.spec_hash or not jobs.failures(cache) or retry is None:
        return False
    return now < retry + _ENDING


def wait(cache: specs.CacheObject) -> steps.Decision:
    """Leave all as it is, for a moment."""
    return steps.Decision(state=cache.state, sentence=cache.state.message, again=_POLL)


def begin(
    cache: specs.CacheObject,
    request: caches.CacheRequest,
    seen: steps.Seen,
    *,
    platforms: tuple[str, ...],
) -> steps.Decision:
    state = cache.state
    if rests(cache, seen.now) and state.build.retry is not None:
        left = (state.build.retry - seen.now).total_seconds()
        return steps.Decision(state=state, sentence=state.message, again=left)
    if not seen.slot:
        return steps.Decision(
            state=dataclasses.replace(state, phase=_waiting(seen)),
            sentence="It is built as soon as another build has ended.",
        )
    name = jobs.name_of(cache, platforms)
    some = f"{len(request.images)} image{'s' * (len(request.images) != 1)}"
    sentence = f"The build of {some} has begun, by Job {name}."
    return steps.Decision(
        state=dataclasses.replace(
            state,
            phase=_building(seen),
            progress=0,
            started=seen.now,
            images=state.images if state.serving else (),
        ),
        sentence=sentence,
        actions=(steps.Action(steps.Verb.START, name),),
        events=(steps.Event(reason="BuildStarted", message=sentence),),
        again=_POLL,
    )


def follow(
    cache: specs.CacheObject, seen: steps.Seen, job: job_states.Job, rules: expiring.Rules
) -> steps.Decision:
    """The wanted build is there: running, done or failed."""
    report = seen.report
    result = report.result if report is not None else None
    settle = (steps.Action(steps.Verb.SETTLE, job.name),)
    if result is not None and result.cache is not None:
        return _built(cache, steps.Stored(record=result.cache), job, settle)
    if job.succeeded:
        if seen.stored is not None and _built_by(job, seen.stored.record):
            return _built(cache, seen.stored, job, settle)
        reason = "the build says it is done, but the store has no such cache"
        return _failed(cache, reason, job.name, seen=seen, rules=rules)
    if job.failed or result is not None:
        reason = result.reason if result is not None and result.reason else job.reason
        return _failed(cache, reason, job.name, seen=seen, rules=rules)
    if job.deleting:
        return steps.Decision(
            state=dataclasses.replace(cache.state, phase=_building(seen)),
            sentence=f"Job {job.name} is being deleted; it is made anew when it is gone.",
            again=_STOPPING,
        )
    return _running(cache, seen, job)


def _running(cache: specs.CacheObject, seen: steps.Seen, job: job_states.Job) -> steps.Decision:
    report = seen.report or builds.Report()
    state = dataclasses.replace(
        cache.state,
        phase=_building(seen),
        progress=report.percent,
        started=cache.state.started or job.created or seen.now,
    )
    told = {event.name for event in cache.state.events if not event.warning}
    begun = state.started or seen.now
    for image in report.images:
        pulled = f"Success pull image {image}"
        if image not in told or not any(
            event.name == image and event.at >= begun for event in state.events
        ):
            state = states.happened(
                state, states.Happening(name=image, message=pulled, at=seen.now)
            )
    step = report.step or "the builder's pod is being started"
    before = f" Before, {job.setback}." if job.setback else ""
    return steps.Decision(
        state=state,
        sentence=f"It is being built: {job.reason or step}.{before}",
        # Its Secret may be missing yet: whoever made it ended too soon.
        actions=(steps.Action(steps.Verb.START, job.name),) if job.suspended else (),
        again=_POLL,
    )


def _built_by(job: job_states.Job, record: records.CacheRecord) -> bool:
    created = specs.moment(record.created)
    return created is not None and (
        job.created is None or created >= job.created - _MATCHING_CLOCKS
    )


def _built(
    cache: specs.CacheObject,
    stored: steps.Stored,
    job: job_states.Job,
    afterwards: tuple[steps.Action, ...],
) -> steps.Decision:
    record = stored.record
    state = cache.state
    at = specs.moment(record.created)
    told = {(event.name, event.at) for event in state.events}
    for image in record.images:
        begun = state.started or at
        if at and not any(name == image.ref and begun and when >= begun for name, when in told):
            message = f"Success pull image {image.ref}"
            state = states.happened(state, states.Happening(name=image.ref, message=message, at=at))
    build = states.Build(spec=cache.spec_hash, platforms=job.platforms, time=at)
    done = dataclasses.replace(cache, state=dataclasses.replace(state, build=build))
    step = ready(done, stored, afterwards=afterwards)
    news = steps.Event(reason="Ready", message=step.sentence)
    return dataclasses.replace(step, events=(news,))


def cannot_begin(
    cache: specs.CacheObject, reason: str, *, seen: steps.Seen, rules: expiring.Rules
) -> steps.Decision:
    """A build that could not even begin counts as one that failed."""
    return _failed(cache, reason, "", seen=seen, rules=rules)


def _failed(
    cache: specs.CacheObject,
    reason: str,
    job: str,
    *,
    seen: steps.Seen,
    rules: expiring.Rules,
) -> steps.Decision:
    count = jobs.failures(cache) + 1
    delay = expiring.retry_after(count, rules)
    retry = seen.now + datetime.timedelta(seconds=delay)
    reason = reason.rstrip(".")
    sentence = (
        f"The build failed: {reason}. It is tried again at {retry:%H:%M:%S} UTC (failure {count})."
    )
    serving = seen.stored is not None
    state = dataclasses.replace(
        cache.state,
        phase=states.Phase.UPDATE_FAILED if serving else states.Phase.FAILED,
        progress=100 if serving else 0,
        build=dataclasses.replace(
            cache.state.build, failures=count, failed=cache.spec_hash, retry=retry
        ),
    )
    happening = states.Happening(
        name=job or cache.cache_id, message=reason, at=seen.now, warning=True
    )
    return steps.Decision(
        state=states.happened(state, happening),
        sentence=sentence,
        afterwards=(steps.Action(steps.Verb.SETTLE, job),) if job else (),
        events=(steps.Event(reason="BuildFailed", message=sentence, warning=True),),
        again=delay,
    )
