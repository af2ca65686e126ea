"""Decisions for pods that get nothing from the store, whatever is in it."""

from agent.matching import annotations, decisions, events, runtimes, subjects
from agent.model import keys, pods

_Outcome = decisions.Outcome


def not_asked(pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
    """For a pod that asks for no cache."""
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=_Outcome.NOT_ASKED,
        summary="The pod asks for no image cache: its images are pulled as usual.",
        images=_left_alone(pod, _Outcome.NOT_ASKED, "the pod asks for no cache"),
    )


def foreign(pod: pods.Pod, request: annotations.Request, *, handler: str) -> decisions.Decision:
    """For a pod whose runtime `handler` ("": the default one) does not use our snapshotter.

    Whatever the store has, all of it is pulled. Nor is a cache made: it would not be used.
    """
    if not request.asks:
        return not_asked(pod, request)
    example = runtimes.DEFAULT_TWIN if handler == runtimes.WITHOUT else runtimes.twin_of(handler)
    summary = (
        f"The pod's runtime ({handler or 'the default one'}) does not use uimgacc: its images are "
        "pulled as usual. Create it anew with a runtimeClassName that does, such as "
        f"{example}, and the handler of that class in the annotation {keys.RUNTIME_HANDLER}."
    )
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=_Outcome.MISS,
        summary=summary,
        images=_left_alone(pod, _Outcome.MISS, "the pod's runtime does not use uimgacc"),
        events=(events.unusable(request.dialect, summary),),
    )


def _left_alone(
    pod: pods.Pod, outcome: decisions.Outcome, reason: str
) -> tuple[decisions.ImageDecision, ...]:
    """The same for each image, without a look at the store."""
    return tuple(
        decisions.ImageDecision(
            image=image,
            reference=subjects.subject_of(image, {}, None).reference,
            outcome=outcome,
            reason=reason,
        )
        for image in pod.images
    )
