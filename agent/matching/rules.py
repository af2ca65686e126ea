"""The decision for a pod: which cache serves it, which images may be registered, and why.

Pure: the content of the store comes in as values, the decision goes out as a value. A
cache that cannot be used never stops a pod: its images are pulled as usual.

Permission: a cache built with pull secrets serves only the namespaces that it
names. An image may be made ready before the kubelet asks only where a cache that
serves the pod's namespace has exactly this target of this repository. The image
itself may be registered (so that the registry does not check the pull) only where
such a cache serves all namespaces: any pod of the node can start it then. Of other
images the layers are laid out for the kubelet's pull.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from agent.matching import (
    annotations,
    cache_selection,
    decisions,
    events,
    runtimes,
    subjects,
    warmth,
)
from agent.model import caches, images, keys, pods, records

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

    `cache_views` are the Ready caches, `image_records` the records for
    `subjects.references_to_look_up`, `unfinished` the IDs of caches known to be
    under construction. Without a platform the first one of each image is taken.
    """
    if not request.asks:
        return _not_asked(pod, request)
    wanted = [subjects.subject_of(image, image_records, platform) for image in pod.images]
    selection = cache_selection.select(pod, request, cache_views, wanted, unfinished=unfinished)
    needed = {layer.diff_id for subject in wanted for layer in subject.layers or ()}
    stored = frozenset().union(*(cache.layers & needed for cache in cache_views))
    chosen = tuple(
        _marked(_image(subject, selection, stored), cache_views, request) for subject in wanted
    )
    outcome = _overall(chosen)
    used = outcome in (_Outcome.HIT, _Outcome.PARTIAL)
    reported = selection.pool[0].id if used else ""
    why = selection.why or events.left_over(chosen)
    existing = {*unfinished, *(cache.id for cache in cache_views)}
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=outcome,
        summary=events.summary(outcome, reported, why),
        reported=reported,
        images=chosen,
        candidates=selection.candidates,
        events=(
            *events.events_of(
                events.Circumstances(
                    request=request,
                    outcome=outcome,
                    cache=reported or request.cache,
                    building=request.cache in unfinished,
                    why=why,
                )
            ),
            *events.outdated(pod, chosen),
        ),
        auto_create=_auto_create(pod, request, selection, wanted, existing=existing),
    )


def _marked(
    image: decisions.ImageDecision,
    cache_views: Sequence[caches.Cache],
    request: annotations.Request,
) -> decisions.ImageDecision:
    """The same, with when to copy its layers, and private where no cache that serves all
    namespaces has the image as well."""
    record, reference = image.registrable, image.reference
    having = [cache for cache in cache_views if reference and cache.image(reference) is not None]
    local = request.local or caches.strongest(cache.local for cache in having)
    image = dataclasses.replace(image, local=local)
    if record is None or reference is None:
        return image
    is_open = warmth.is_open(cache_views, reference, record.target)
    return dataclasses.replace(image, is_private=not is_open)


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
        # The layers of an image without a record are not known here: containerd asks the
        # snapshotter for them one by one, once it has the manifest.
        usable = subjects.usable(subject.layers, stored)
        base = dataclasses.replace(
            base,
            coverage=subjects.cover([subject.layers], stored),
            layers=tuple(dict.fromkeys(layer.diff_id for layer in usable)),
        )
    if selection.barred is not None:
        return dataclasses.replace(base, outcome=selection.barred, reason=selection.why)
    if subject.wanted is None:
        return base
    return (
        _hit(subject, selection, base)
        or _partial(subject, subject.wanted, selection, base, (_part_exact, _part_version))
        or _forbidden(subject, subject.wanted, selection, base)
        # Behind it: which layers an image has is not said to those who may not have it.
        or _partial(subject, subject.wanted, selection, base, (_part_layers,))
        or _miss(selection, base)
    )


def _hit(
    subject: subjects.Subject, selection: cache_selection.Selection, base: decisions.ImageDecision
) -> decisions.ImageDecision | None:
    if subject.reference is None or subject.record is None:
        return None
    if base.coverage is None or not base.coverage.full:
        return None
    for cache in selection.pool:
        if cache.withholds(subject.reference):
            continue
        if cache.has_target(subject.reference, subject.record.target):
            moved = cache.moved(subject.reference)
            return dataclasses.replace(
                base,
                outcome=_Outcome.HIT,
                reason=f"{cache.id} has it" + (_AS_IT_WAS if moved is not None else ""),
                cache_id=cache.id,
                registrable=subject.record,
                moved=moved,
            )
    return None


_AS_IT_WAS = " as it was before the registry moved the tag"


def _partial(
    subject: subjects.Subject,
    wanted: images.Reference,
    selection: cache_selection.Selection,
    base: decisions.ImageDecision,
    parts: Sequence[Callable[[subjects.Subject, images.Reference, caches.Cache], str]],
) -> decisions.ImageDecision | None:
    for part in parts:
        for cache in selection.pool:
            reason = part(subject, wanted, cache)
            if reason:
                return dataclasses.replace(
                    base,
                    outcome=_Outcome.PARTIAL,
                    reason=f"{cache.id} has {reason}",
                    cache_id=cache.id,
                    moved=cache.moved(wanted),
                )
    return None


def _part_exact(subject: subjects.Subject, wanted: images.Reference, cache: caches.Cache) -> str:
    """Which part of an image a cache has, where it cannot be registered from it."""
    held = cache.image(wanted)
    if cache.withholds(wanted):
        return f"it{_AS_IT_WAS}: the registry is asked"
    if held is None:
        return "its layers under another name" if subject.within(cache) else ""
    if subject.record is None:
        return "its layers, but the store has no record of it"
    if held.target != subject.record.target:
        return "it as the tag was before a later build"
    return "it, but not all layers that its record names"


def _part_version(_: subjects.Subject, wanted: images.Reference, cache: caches.Cache) -> str:
    others = cache.of_repository(wanted)
    return f"another version of it: {others[0].ref}" if others else ""


def _part_layers(subject: subjects.Subject, _: images.Reference, cache: caches.Cache) -> str:
    if subject.layers and subjects.usable(subject.layers, cache.layers):
        return "some of its layers"
    return ""


def _forbidden(
    subject: subjects.Subject,
    wanted: images.Reference,
    selection: cache_selection.Selection,
    base: decisions.ImageDecision,
) -> decisions.ImageDecision | None:
    for cache in selection.foreign:
        if cache.image(wanted) is not None or subject.within(cache):
            return dataclasses.replace(
                base,
                outcome=_Outcome.FORBIDDEN,
                reason=f"{cache.id} has it, but does not serve this namespace",
            )
    return None


def _miss(
    selection: cache_selection.Selection, base: decisions.ImageDecision
) -> decisions.ImageDecision:
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


def _auto_create(
    pod: pods.Pod,
    request: annotations.Request,
    selection: cache_selection.Selection,
    wanted: Sequence[subjects.Subject],
    *,
    existing: Collection[str],
) -> decisions.AutoCreate | None:
    """The cache to create where an automatic request matched none; None where not wanted.

    Some layers in common, such as those of a distribution, are no match. An image that
    was built with another namespace's secrets is worth a build only with secrets of this
    pod, or with registry instances that need none.
    """
    matched = any(each.full or each.near for each in selection.candidates if each.rank)
    if not request.auto_create or matched:
        return None
    instances = caches.acr_instances_of(pod.annotations)[: caches.MAX_SECRETS]
    references = {subject.wanted for subject in wanted if subject.wanted is not None}
    if not (pod.pull_secrets or instances) and any(
        cache.image(reference) is not None
        for reference in references
        for cache in selection.foreign
    ):
        return None
    names = tuple(sorted(references, key=str))
    if not 1 <= len(names) <= caches.MAX_IMAGES:
        return None
    secrets = tuple(
        sorted({caches.SecretName(pod.namespace, secret) for secret in pod.pull_secrets})
    )
    wanted_cache = caches.CacheRequest(
        name="",
        images=names,
        dialect=request.dialect,
        pull_secrets=secrets,
        serves=(pod.namespace,) if instances else (),
        size_gib=caches.SIZE_AUTO,
        auto=True,
        acr_instances=instances,
    )
    cache_id = wanted_cache.cache_id
    if cache_id in existing:
        return None
    return decisions.AutoCreate(
        request=dataclasses.replace(wanted_cache, name=caches.name_of_auto_cache(cache_id)),
        cache_id=cache_id,
        event=events.created(request.dialect, cache_id),
    )


def _not_asked(pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
    """For a pod that asks for no cache."""
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=_Outcome.NOT_ASKED,
        summary="The pod asks for no image cache: its images are pulled as usual.",
        images=_left_alone(pod, _Outcome.NOT_ASKED, "the pod asks for no cache", request.local),
        events=events.misspelt(request),
    )


_SELECTOR = f'the node selector {keys.IMAGE_VOLUMES_LABEL}: "true"'


def decide_foreign(
    pod: pods.Pod, request: annotations.Request, *, handler: str, mounts_volumes: bool = True
) -> decisions.Decision:
    """Decide for a pod whose runtime `handler` ("": the default one) does not use uimgacc.

    All its images are pulled, even if the store has them. No cache is created: it would
    not be used. `mounts_volumes`: with a handler of uimgacc, pods with image volumes start here.
    """
    if not request.asks:
        # What its annotations say of local copies is not read: it has no layer of the store.
        return dataclasses.replace(_not_asked(pod, request), events=(), foreign=True)
    example = runtimes.DEFAULT_TWIN if handler == runtimes.WITHOUT else runtimes.twin_of(handler)
    summary = (
        f"The pod's runtime ({handler or 'the default one'}) does not use uimgacc: its images are "
        "pulled as usual. Create it anew with a runtimeClassName that does, such as "
        f"{example}, and the handler of that class in the annotation {keys.RUNTIME_HANDLER}."
    )
    if pod.volume_images:
        summary += f" For its image volume it needs {_SELECTOR} as well"
        summary += "." if mounts_volumes else ": on this node it would not start then."
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=_Outcome.MISS,
        summary=summary,
        images=_left_alone(pod, _Outcome.MISS, "the pod's runtime does not use uimgacc"),
        events=(events.unusable(request.dialect, summary),),
        foreign=True,
    )


def decide_unmounted(pod: pods.Pod, request: annotations.Request) -> decisions.Decision:
    """Decide for a pod with image volumes where its runtime's snapshotter can mount none.

    It does not start here, so nothing is prepared. Admission leaves it alone or has it select other
    nodes: this one names its class, or its node, itself, or was created without admission.
    """
    summary = (
        f"The pod does not start on this node: under the runtime class {pod.runtime_class} its"
        " containerd mounts no image volume (uimgacc node-setup --native; containerd issue 13534)."
        f" Create it anew with {_SELECTOR}, if other nodes have that label, or without"
        " runtimeClassName, for an ordinary pull."
    )
    return decisions.Decision(
        pod=pod,
        request=request,
        outcome=_Outcome.MISS,
        summary=summary,
        images=_left_alone(pod, _Outcome.MISS, "its pod's image volume is not mounted here"),
        events=(events.unusable(request.dialect, summary),),
    )


def _left_alone(
    pod: pods.Pod,
    outcome: decisions.Outcome,
    reason: str,
    local: caches.LocalMode | None = None,
) -> tuple[decisions.ImageDecision, ...]:
    """The same for each image, without reading the store."""
    return tuple(
        decisions.ImageDecision(
            image=image,
            reference=subjects.subject_of(image, {}, None).reference,
            outcome=outcome,
            reason=reason,
            local=local,
        )
        for image in pod.images
    )
