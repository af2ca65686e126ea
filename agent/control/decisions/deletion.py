"""The end of a cache: its record goes at once, its layers when no node holds them."""

import dataclasses
import datetime

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import outcome, retention

_POLL = 2.0


def delete(
    cache: cache_object.CacheObject,
    seen: outcome.Seen,
    rules: retention.Rules,
    *,
    since: datetime.datetime,
) -> outcome.Decision:
    """Remove the record, then wait for the layers, for a limited time."""
    state = cache.state
    if not cache.finalized:
        return outcome.Decision(state=state, sentence="It is deleted.")
    left = rules.deletion_seconds - (seen.now - since).total_seconds()
    running = [job for job in seen.jobs.values() if job.active]
    stops = tuple(
        outcome.Action(outcome.Verb.STOP, job.name) for job in running if not job.deleting
    )
    removing = () if seen.stored is None or seen.problem else (outcome.Action(outcome.Verb.REMOVE),)
    if seen.problem:
        sentence = f"It is being deleted; the store does not answer: {seen.problem}"
    elif running:
        sentence = "It is being deleted; its build is being stopped."
        removing = ()
    elif removing or seen.going:
        sentence = seen.holders or (
            "It is deleted; its layers are when every node has reported that it holds none of them."
        )
    else:
        sentence = "It is deleted."
        return outcome.Decision(
            state=state, sentence=sentence, actions=(outcome.Action(outcome.Verb.RELEASE),)
        )
    if left <= 0:
        return _given_up(state, sentence, stops + removing)
    return outcome.Decision(
        state=dataclasses.replace(state, message=sentence),
        sentence=sentence,
        actions=(*stops, *removing),
        events=_waits(state, sentence) if seen.holders == sentence else (),
        again=min(_POLL, left),
    )


def _waits(state: cache_state.State, sentence: str) -> tuple[outcome.Event, ...]:
    """An event that it waits: one for nodes that have not answered, one for pods that hold it.

    The names after the colon change as they release it; the status has them.
    """
    if state.message.partition(":")[0] == sentence.partition(":")[0]:
        return ()
    return (outcome.Event(reason="DeletionWaits", message=sentence),)


def _given_up(
    state: cache_state.State, sentence: str, actions: tuple[outcome.Action, ...]
) -> outcome.Decision:
    """Remove the finalizer all the same: it must not block an uninstall for ever."""
    event = outcome.Event(
        reason="DeletionGoesOn", message=f"{sentence} The object is removed now.", warning=True
    )
    return outcome.Decision(
        state=state,
        sentence=sentence,
        actions=(*actions, outcome.Action(outcome.Verb.RELEASE)),
        events=(event,),
    )
