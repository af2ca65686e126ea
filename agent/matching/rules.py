"""The decision for a pod: which cache serves it, what may be done ahead, and why.

Pure: what the store holds comes in as values, what to do goes out as a value. A
cache that cannot be used never stops a pod: all it costs is an ordinary pull.

Permission: a cache built with pull secrets serves only the namespaces that it
names. An image may be registered ahead (which spares the registry's question who
is pulling) only where a cache that serves the pod's namespace has exactly this
target of this repository. Layers need no permission: containerd asks for them
only after the registry has given it the manifest.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from agent.matching import (
    annotations,
    cache_selection,
    coverage,
    decisions,
    events,
    exclusions,
    subjects,
)
from agent.model import caches, images, pods, records

_Outcome = decisions.Outcome


def decide(
    pod: pods.Pod,
    request: annotations.Request,
    cache_views: Sequence[caches.Cache],
    image_records: Mapping[str, records.ImageRecord | None],
    *,
    platform: images.Platform | None = None,
    unfinished: Collection[str] = (),
) -> decisions.Decision:
    """Decide what the store does for a pod that asks as `request` says. Never raises.

    `cache_views` are the Ready caches, `image_records` what was found for
    `subjects.references_to_look_up`, `unfinished` the IDs of caches known to be in
    the making. Without a platform the first one of each image is taken.
    """
    if not request.asks:
        return exclusions.not_asked(pod, request)
    wanted = [subjects.subject_of(image, image_records, platform) for image in pod.images]
    selection = cache_selection.select(pod, request, cache_views, wanted, unfinished=unfinished)
    needed = {layer.diff_id for subject in wanted for layer in subject.layers or ()}
    stored = frozenset().union(*(cache.layers & needed for cache in cache_views))
    chosen = tuple(_image(subject, selection, stored) for subject in wanted)
    outcome = _overall(chosen)
    used = outcome in (_Outcome.HIT, _Outcome.PARTIAL)
    reported = selection.pool[0].id if used else ""
    why = selection.why or _left_over(chosen)
    existing = {*unfinished, *(cache.id for cache in cache_views)}
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=outcome,
        summary=_summary(outcome, reported, why),
        reported=reported,
        images=chosen,
        candidates=selection.candidates,
        events=events.events_of(
            events.Circumstances(
                request=request,
                outcome=outcome,
                cache=reported or request.cache,
                building=request.cache in unfinished,
                why=why,
            )
        ),
        auto_create=_auto_create(pod, request, selection, wanted, existing=existing),
    )


def _image(
    subject: subjects.Subject, selection: cache_selection.Selection, stored: frozenset[str]
) -> decisions.ImageDecision:
    base = decisions.ImageDecision(
        image=subject.image,
        reference=subject.reference,
        outcome=_Outcome.MISS,
        reason=subject.problem or "no cache has it",
    )
    if subject.layers is not None:
        # Of an image whose layers are not known nothing is mounted ahead: which ones it
        # shares shows when containerd has its manifest, and then they are mounted on demand.
        usable = coverage.usable(subject.layers, stored)
        base = dataclasses.replace(
            base,
            coverage=coverage.cover([subject.layers], stored),
            layers=tuple(dict.fromkeys(layer.diff_id for layer in usable)),
        )
    if selection.barred is not None:
        return dataclasses.replace(base, outcome=selection.barred, reason=selection.why)
    if subject.wanted is None:
        return base
    return (
        _hit(subject, selection, base)
        or _partial(subject, subject.wanted, selection, base)
        or _miss(subject, subject.wanted, selection, base)
    )


def _hit(
    subject: subjects.Subject, selection: cache_selection.Selection, base: decisions.ImageDecision
) -> decisions.ImageDecision | None:
    if subject.reference is None or subject.record is None:
        return None
    if base.coverage is None or not base.coverage.full:
        return None
    for cache in selection.pool:
        if cache.has_target(subject.reference, subject.record.target):
            return dataclasses.replace(
                base,
                outcome=_Outcome.HIT,
                reason=f"{cache.id} has it",
                cache_id=cache.id,
                registrable=subject.record,
            )
    return None


def _partial(
    subject: subjects.Subject,
    wanted: images.Reference,
    selection: cache_selection.Selection,
    base: decisions.ImageDecision,
) -> decisions.ImageDecision | None:
    for part in (_part_exact, _part_near):
        for cache in selection.pool:
            reason = part(subject, wanted, cache)
            if reason:
                return dataclasses.replace(
                    base,
                    outcome=_Outcome.PARTIAL,
                    reason=f"{cache.id} has {reason}",
                    cache_id=cache.id,
                )
    return None


def _part_exact(subject: subjects.Subject, wanted: images.Reference, cache: caches.Cache) -> str:
    """What of an image is in a cache that has it but not so that it could be registered."""
    held = cache.image(wanted)
    if held is None:
        return "its layers under another name" if subject.within(cache) else ""
    if subject.record is None:
        return "its layers, but the store has no record of it"
    if held.target != subject.record.target:
        return "it as the tag was before a later build"
    return "it, but not all layers that its record names"


def _part_near(subject: subjects.Subject, wanted: images.Reference, cache: caches.Cache) -> str:
    others = cache.of_repository(wanted)
    if others:
        return f"another version of it: {others[0].ref}"
    if subject.layers and coverage.usable(subject.layers, cache.layers):
        return "some of its layers"
    return ""


def _miss(
    subject: subjects.Subject,
    wanted: images.Reference,
    selection: cache_selection.Selection,
    base: decisions.ImageDecision,
) -> decisions.ImageDecision:
    for cache in selection.foreign:
        if cache.image(wanted) is not None or subject.within(cache):
            return dataclasses.replace(
                base,
                outcome=_Outcome.FORBIDDEN,
                reason=f"{cache.id} has it, but does not serve this namespace",
            )
    if selection.why:
        return dataclasses.replace(base, reason=selection.why)
    if len(selection.pool) == 1:
        return dataclasses.replace(base, reason=f"{selection.pool[0].id} does not have it")
    return base


def _overall(chosen: Sequence[decisions.ImageDecision]) -> decisions.Outcome:
    outcomes = {image.outcome for image in chosen}
    if outcomes == {_Outcome.HIT}:
        return _Outcome.HIT
    if outcomes & {_Outcome.HIT, _Outcome.PARTIAL}:
        return _Outcome.PARTIAL
    for outcome in (_Outcome.NOT_READY, _Outcome.FORBIDDEN):
        if outcome in outcomes:
            return outcome
    return _Outcome.MISS


def _left_over(chosen: Sequence[decisions.ImageDecision]) -> str:
    """A sentence about the first image that is not a hit, "" where all are."""
    short = [image for image in chosen if image.outcome is not _Outcome.HIT]
    if not short:
        return ""
    more = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
    return f"{short[0].image[:200]}: {short[0].reason}{more}."


def _summary(outcome: decisions.Outcome, reported: str, why: str) -> str:
    sentence = {
        _Outcome.HIT: f"All images come from the store, image cache {reported}.",
        _Outcome.PARTIAL: f"Image cache {reported} has a part; the rest is pulled as usual.",
        _Outcome.MISS: "No image cache serves this pod: its images are pulled as usual.",
        _Outcome.NOT_READY: "The image cache that the pod names is not Ready: "
        "its images are pulled as usual.",
        _Outcome.FORBIDDEN: events.RESTRICTED,
        _Outcome.NOT_ASKED: "",
    }[outcome]
    return f"{sentence} {why}".strip()


def _auto_create(
    pod: pods.Pod,
    request: annotations.Request,
    selection: cache_selection.Selection,
    wanted: Sequence[subjects.Subject],
    *,
    existing: Collection[str],
) -> decisions.AutoCreate | None:
    """The cache to create where an automatic request matched none, None where not wanted.

    Some layers in common, such as those of a distribution, are no match. What another
    namespace's secrets opened is worth trying only with secrets of our own, or with
    instances of a registry that opens without.
    """
    matched = any(each.full or each.near for each in selection.candidates if each.rank)
    if not request.auto_create or matched:
        return None
    instances = caches.acr_instances_of(pod.annotations)[: caches.MAX_SECRETS]
    if not (pod.pull_secrets or instances) and any(
        subject.wanted is not None and cache.image(subject.wanted) is not None
        for subject in wanted
        for cache in selection.foreign
    ):
        return None
    references = [subject.wanted for subject in wanted if subject.wanted is not None]
    names = tuple(sorted(set(references), key=str))
    if not 1 <= len(names) <= caches.MAX_IMAGES:
        return None
    secrets = tuple(
        sorted({caches.SecretName(pod.namespace, secret) for secret in pod.pull_secrets})
    )
    wish = caches.CacheRequest(
        name="",
        images=names,
        dialect=request.dialect,
        pull_secrets=secrets,
        serves=(pod.namespace,) if instances else (),
        size_gib=caches.SIZE_AUTO,
        auto=True,
        acr_instances=instances,
    )
    cache_id = wish.cache_id
    if cache_id in existing:
        return None
    return decisions.AutoCreate(
        request=dataclasses.replace(wish, name=caches.name_of_auto_cache(cache_id)),
        cache_id=cache_id,
        event=events.created(request.dialect, cache_id),
    )
