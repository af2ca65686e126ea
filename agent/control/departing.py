"""The end of a cache: its record goes at once, its layers when no node holds them."""

import dataclasses
import datetime

from agent.control import expiring, specs, states, steps

_POLL = 2.0


def delete(
    cache: specs.CacheObject, seen: steps.Seen, rules: expiring.Rules, *, since: datetime.datetime
) -> steps.Decision:
    """Take the record away; then wait for the layers, but not for ever."""
    state = cache.state
    if not cache.finalized:
        return steps.Decision(state=state, sentence="It is deleted.")
    left = rules.deletion_seconds - (seen.now - since).total_seconds()
    running = [job for job in seen.jobs.values() if job.active]
    stops = tuple(steps.Action(steps.Verb.STOP, job.name) for job in running if not job.deleting)
    removing = () if seen.stored is None or seen.problem else (steps.Action(steps.Verb.REMOVE),)
    if seen.problem:
        sentence = f"It is being deleted; the store does not answer: {seen.problem}"
    elif running:
        sentence = "It is being deleted; its build is being stopped."
        removing = ()
    elif removing or seen.going:
        sentence = seen.holders or (
            "It is deleted; its layers go when every node has said that it holds none of them."
        )
    else:
        sentence = "It is deleted."
        return steps.Decision(
            state=state, sentence=sentence, actions=(steps.Action(steps.Verb.RELEASE),)
        )
    if left <= 0:
        return _given_up(state, sentence, stops + removing)
    return steps.Decision(
        state=dataclasses.replace(state, message=sentence),
        sentence=sentence,
        actions=(*stops, *removing),
        events=_waits(state, sentence) if seen.holders == sentence else (),
        again=min(_POLL, left),
    )


def _waits(state: states.State, sentence: str) -> tuple[steps.Event, ...]:
    """News that it waits: once for nodes that have not answered, once for pods that hold it.

    The names, which follow a colon, change as they let go: those are in the status.
    """
    if state.message.partition(":")[0] == sentence.partition(":")[0]:
        return ()
    return (steps.Event(reason="DeletionWaits", message=sentence),)


def _given_up(
    state: states.State, sentence: str, actions: tuple[steps.Action, ...]
) -> steps.Decision:
    """No finalizer holds up an uninstall: what is left in the store goes later, or by hand."""
    event = steps.Event(
        reason="DeletionGoesOn", message=f"{sentence} The object goes now.", warning=True
    )
    return steps.Decision(
        state=state,
        sentence=sentence,
        actions=(*actions, steps.Action(steps.Verb.RELEASE)),
        events=(event,),
    )
