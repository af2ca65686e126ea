"""The decision for a pod while the store does not answer: by what this node has itself.

Pure. What the node's own records do not have is not known to be missing in the store: it is said
to be not here, and asked for again once the store answers.
"""

import dataclasses

from agent.matching import annotations, decisions

_HIT = decisions.Outcome.HIT

SERVED = "The image store does not answer: served locally, from this node's own copies."


def decided(decision: decisions.Decision) -> decisions.Decision:
    """A decision by the node's own records, with events that say so.

    The events of a hit stay, with another sentence. In place of all others is one that says which
    images are not here. No cache is asked for: the store may have one.
    """
    if decision.outcome in (decisions.Outcome.HIT, decisions.Outcome.NOT_ASKED):
        events = tuple(_with_source(event) for event in decision.events)
        summary = f"{decision.summary} {SERVED}" if decision.outcome is _HIT else decision.summary
        return dataclasses.replace(decision, events=events, summary=summary, auto_create=None)
    absent = [image.image for image in decision.images if image.registrable is None]
    sentence = _sentence(absent)
    here = [image.image for image in decision.images if image.registrable is not None]
    if here:
        sentence = f"{sentence} Served locally: {', '.join(here)}."
    asked = decision.request.mode is not annotations.Mode.RUNTIME
    event = decisions.Event(
        reason="ImageCacheUnavailable",
        message=sentence.encode()[:1024].decode(errors="ignore"),
        warning=True,
    )
    return dataclasses.replace(
        decision,
        summary=sentence,
        events=(event,) if asked else (),
        auto_create=None,
        absent=tuple(absent),
    )


def _with_source(event: decisions.Event) -> decisions.Event:
    return (
        event if event.warning else dataclasses.replace(event, message=f"{event.message} {SERVED}")
    )


def _sentence(absent: list[str]) -> str:
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    have = "have" if more else "has"
    names = f"{absent[0][:200]}{more}" if absent else "the pod's images"
    return (
        f"The image store does not answer, and {names} {have} no complete copy on this node:"
        " what is not present already is pulled from its registry."
    )
