"""The events of a decision, with the reasons and texts of the cloud it belongs to.

Alibaba's texts and types are exactly those of its documentation: a hit is Normal, even
of a part of the images. Details that its text lacks follow as another sentence. Tencent
has an event for a hit only. Where neither cloud has an event (a named cache lacks some of
the images, an image could not be registered), a native event is emitted beside theirs.
UCloud has no events, so its pods get the native ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from agent.matching import annotations, decisions, subjects
from agent.model import caches, pods

_Outcome = decisions.Outcome

RESTRICTED = (
    "The images are in the store, but not for this namespace: the registry is asked,"
    " then their layers come from the store."
)
"""For a pod that may use the images only if the registry allows it to."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the events are made from.

    `cache` is the ID to name: the reported cache, or what the pod pins.
    `building` says that the pinned cache is known and not Ready yet. `why` is the
    reason of the outcome as a sentence, "" where the outcome says it all.
    """

    request: annotations.Request
    outcome: decisions.Outcome
    cache: str = ""
    building: bool = False
    why: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the pod names the cache itself."""
        return self.request.mode is annotations.Mode.EXPLICIT


def events_of(given: Circumstances) -> tuple[decisions.Event, ...]:
    """The events for the pod; none for one that asks for no cache."""
    if given.outcome is _Outcome.NOT_ASKED:
        return ()
    return (*_in_dialect(given), *misspelt(given.request))


def misspelt(request: annotations.Request) -> tuple[decisions.Event, ...]:
    """The warning about an annotation whose value means nothing; none where there is none.

    It is a native annotation, so the event is native for pods of all clouds.
    """
    if not request.misspelt:
        return ()
    return (decisions.Event(reason="InvalidAnnotation", message=request.misspelt, warning=True),)


def outdated(
    pod: pods.Pod, chosen: Sequence[decisions.ImageDecision]
) -> tuple[decisions.Event, ...]:
    """What pods are to know of images whose tag the registry has moved; native for all.

    None for an image that the kubelet pulls each time, nor where the cache is meant to stay as it
    is: its owner has it so.
    """
    return tuple(
        decisions.Event(reason="ImageCacheStale", message=_with(_stale(image), ""))
        for image in chosen
        if image.moved is not None
        and image.moved.policy != _KEPT
        and not subjects.is_always_pulled(pod, image.image)
    )


_KEPT = str(caches.ServeStale(rebuilt=False))


def _stale(image: decisions.ImageDecision) -> str:
    moved = image.moved
    assert moved is not None
    confirmed = (
        f"; the cached one was last confirmed at {moved.confirmed}" if moved.confirmed else ""
    )
    given = (
        "it is pulled as usual" if image.outcome is not _Outcome.HIT else "the cached one is run"
    )
    return (
        f"{image.image[:200]}: the registry has another image under this tag, as of {moved.noticed}"
        f"{confirmed}. Until image cache {image.cache_id} is built again {given}"
        f" (serve-stale: {moved.policy})."
    )


def _in_dialect(given: Circumstances) -> tuple[decisions.Event, ...]:
    match given.request.dialect:
        case caches.Dialect.ALIBABA:
            return _alibaba(given)
        case caches.Dialect.TENCENT:
            return _tencent(given)
        case caches.Dialect.NATIVE | caches.Dialect.UCLOUD:
            return _native(given)


def left_over(chosen: Sequence[decisions.ImageDecision]) -> str:
    """A sentence about the first image that is not a hit, "" where all are."""
    short = [image for image in chosen if image.outcome is not _Outcome.HIT]
    if not short:
        return ""
    more = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
    return f"{short[0].image[:200]}: {short[0].reason}{more}."


def summary(outcome: decisions.Outcome, reported: str, why: str) -> str:
    sentence = {
        _Outcome.HIT: f"All images come from the store, image cache {reported}.",
        _Outcome.PARTIAL: f"Image cache {reported} has a part; the rest is pulled as usual.",
        _Outcome.MISS: "No image cache serves this pod: its images are pulled as usual.",
        _Outcome.NOT_READY: "The image cache that the pod names is not Ready: "
        "its images are pulled as usual.",
        _Outcome.FORBIDDEN: RESTRICTED,
        _Outcome.NOT_ASKED: "",
    }[outcome]
    return f"{sentence} {why}".strip()


def created(dialect: caches.Dialect, cache_id: str) -> decisions.Event:
    """The event for a cache that is created for a pod: its build starts, it is not Ready yet."""
    if dialect is caches.Dialect.ALIBABA:
        message = f"Image cache {cache_id} is auto created"
    else:
        message = f"Image cache {cache_id} is being built for the next pods with these images."
    return decisions.Event(reason="ImageCacheAutoCreated", message=message)


def building(cache_id: str, percent: int) -> decisions.Event:
    """The event for a pod that asked for a cache which is being built; native for all."""
    message = f"Image cache {cache_id} is being built: {percent} %."
    return decisions.Event(reason="ImageCacheBuilding", message=message)


def unusable(dialect: caches.Dialect, why: str) -> decisions.Event:
    """The warning for a pod that can use no cache, whatever the store has; `why` as a sentence."""
    message = _with("Missed image cache.", why) if dialect is caches.Dialect.ALIBABA else why
    return decisions.Event(reason="ImageCacheMissed", message=message, warning=True)


def incomplete(
    decision: decisions.Decision, *, registered: Sequence[str], failed: Mapping[str, str]
) -> tuple[decisions.Event, ...]:
    """The events where only some images could be registered; `failed` has the reasons.

    A cloud's own event for a hit stays, as for a part of the images. The native one would
    say that all images come from the store.
    """
    reasons = "; ".join(f"{image} ({reason})" for image, reason in failed.items())
    message = (
        f"Present from image cache {decision.reported}: {', '.join(registered)}. "
        f"Not registered, pulled as usual unless a retry succeeds: {reasons}."
    )
    event = decisions.Event(reason="ImageCachePartial", message=_with(message, ""), warning=True)
    if decision.request.dialect in (caches.Dialect.ALIBABA, caches.Dialect.TENCENT):
        return (*decision.events, event)
    stale = outdated(decision.pod, decision.images)
    return (event, *stale, *misspelt(decision.request))


def _alibaba(given: Circumstances) -> tuple[decisions.Event, ...]:
    if given.outcome not in (_Outcome.HIT, _Outcome.PARTIAL):
        return (_alibaba_without(given),)
    hit = decisions.Event(
        reason="SuccessfulHitImageCache",
        message=f"Successfully hit image cache {given.cache}.",
    )
    if given.pinned and given.outcome is _Outcome.PARTIAL:
        return (hit, _native_event(given, warning=True))
    return (hit,)


def _alibaba_without(given: Circumstances) -> decisions.Event:
    if given.outcome is _Outcome.NOT_READY and given.building:
        return decisions.Event(
            reason="ImageCacheNotComplete",
            message=f"The production for specified image cache {given.cache} is not yet complete.",
        )
    if given.outcome is _Outcome.NOT_READY:
        return decisions.Event(
            reason="ImageCacheNotFound",
            message=f"The specified image cache {given.cache} does not exist.",
            warning=True,
        )
    why = given.why if given.pinned else ""
    if given.outcome is _Outcome.FORBIDDEN:
        why = _with(RESTRICTED, why)
    return decisions.Event(
        reason="ImageCacheMissed", message=_with("Missed image cache.", why), warning=True
    )


def _tencent(given: Circumstances) -> tuple[decisions.Event, ...]:
    used = given.outcome in (_Outcome.HIT, _Outcome.PARTIAL)
    wrong_pin = given.pinned and given.outcome is not _Outcome.HIT
    events = []
    if used:
        events.append(
            decisions.Event(reason="ImageCacheUsed", message=f"Image cache {given.cache} used.")
        )
    if wrong_pin:
        events.append(_native_event(given, warning=True))
    return tuple(events)


def _native(given: Circumstances) -> tuple[decisions.Event, ...]:
    used = given.outcome in (_Outcome.HIT, _Outcome.PARTIAL)
    if given.request.mode is annotations.Mode.RUNTIME and not used:
        # The admission policy may have chosen the runtime; the pod's owner asked for nothing.
        return ()
    asked = given.request.mode in (annotations.Mode.EXPLICIT, annotations.Mode.AUTOMATIC)
    warning = asked and (not used or (given.pinned and given.outcome is _Outcome.PARTIAL))
    return (_native_event(given, warning=warning),)


def _native_event(given: Circumstances, *, warning: bool) -> decisions.Event:
    match given.outcome:
        case _Outcome.HIT:
            reason, message = (
                "ImageCacheHit",
                f"All images come from the store, image cache {given.cache}.",
            )
        case _Outcome.PARTIAL:
            reason, message = (
                "ImageCachePartial",
                f"Image cache {given.cache} has a part; the rest is pulled as usual.",
            )
        case _Outcome.NOT_READY if given.building:
            reason, message = (
                "ImageCacheNotReady",
                f"Image cache {given.cache} is still being built; the images are pulled as usual.",
            )
        case _Outcome.NOT_READY:
            reason, message = (
                "ImageCacheNotReady",
                f"Image cache {given.cache} does not exist or is not Ready; "
                "the images are pulled as usual.",
            )
        case _Outcome.FORBIDDEN:
            reason, message = "ImageCacheRestricted", RESTRICTED
        case _:
            reason, message = (
                "ImageCacheMissed",
                "No image cache serves this pod; its images are pulled as usual.",
            )
    # For a named cache that is not Ready, the message says everything.
    why = "" if given.outcome is _Outcome.NOT_READY else given.why
    return decisions.Event(reason=reason, message=_with(message, why), warning=warning)


def _with(message: str, why: str) -> str:
    # The API server refuses an event whose message is longer than 1024 bytes.
    text = f"{message} {why}" if why else message
    return text.encode()[:1024].decode(errors="ignore")
