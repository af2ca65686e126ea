"""Why a pod was accelerated, or was not: one sentence, then the chain of evidence; pure.

What happened comes before what should have: the agent of the pod's node has decided, its events
say what it decided, and only where neither can be read the objects of the cluster are asked what
would have been decided.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence

from agent.cli.pods import pod_evidence
from agent.control.caches import cache_object
from agent.kits import units
from agent.matching import annotations, cache_selection, decisions, pod_moves, runtimes, subjects
from agent.model import keys, manifests, times


class Kind(enum.Enum):
    """What became of the pod's images."""

    ACCELERATED = "accelerated"
    PARTLY = "partly accelerated"
    PULLED = "pulled as usual"
    WAITING = "waiting"
    UNKNOWN = "not known"


class Mark(enum.Enum):
    """Whether a link of the chain holds."""

    HOLDS = "ok"
    BROKEN = "no"
    UNKNOWN = "unknown"
    NOTED = "noted"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link of the chain; `remedy` is what to do about one that is broken."""

    name: str
    mark: Mark
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence is `because`, after the pod's name and the kind."""

    kind: Kind
    because: str
    links: Sequence[Link]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What follows from the evidence, once."""

    evidence: pod_evidence.Evidence
    request: annotations.Request
    uses_snapshotter: bool
    selection: cache_selection.Selection | None
    wanted: Sequence[subjects.Subject]


_KINDS = {
    decisions.Outcome.HIT.value: Kind.ACCELERATED,
    decisions.Outcome.PARTIAL.value: Kind.PARTLY,
}

EVENT_KINDS = {
    "ImageCacheHit": Kind.ACCELERATED,
    "SuccessfulHitImageCache": Kind.ACCELERATED,
    "ImageCacheUsed": Kind.ACCELERATED,
    "ImageCachePartial": Kind.PARTLY,
    "ImageCacheMissed": Kind.PULLED,
    "ImageCacheNotReady": Kind.PULLED,
    "ImageCacheNotComplete": Kind.PULLED,
    "ImageCacheNotFound": Kind.PULLED,
    "ImageCacheRestricted": Kind.PARTLY,
    "ImageCacheUnavailable": Kind.PULLED,
}
"""What the events of docs/reference/events.md say became of the pod."""

_WORST = (Kind.PARTLY, Kind.PULLED, Kind.ACCELERATED)
"""Of a pod with several events: a part that is missing is said by an event of its own."""

_CONDITIONS = {
    "may-have-user-namespace": "may-have-user-namespace (no node with the label"
    f" {keys.USER_NAMESPACES_LABEL} is known)",
    "may-have-image-volumes": "may-have-image-volumes (it has an image volume, and no node with the"
    f" label {keys.IMAGE_VOLUMES_LABEL} is known)",
}
"""What the names of some conditions do not say."""

_NO_NODE = "ImageCacheNoNode"
_KUBELETS = ("Pulling", "Pulled", "Failed", "BackOff", "FailedScheduling", "ErrImageNeverPull")
_EVENTS_SHOWN = 5
_CANDIDATES_SHOWN = 3


def judge(evidence: pod_evidence.Evidence) -> Verdict:
    """The verdict on a pod. Never raises."""
    read = _read(evidence)
    kind, because = _sentence(read)
    return Verdict(kind=kind, because=because, links=list(_links(read)))


def _read(evidence: pod_evidence.Evidence) -> _Read:
    pod = evidence.asking
    request = annotations.request_of(pod, evidence.classes)
    wanted = [subjects.subject_of(image, {}, None) for image in pod.images]
    selection = None
    if request.asks and evidence.caches is not None:
        serving = [each for each in evidence.caches if each.state.serving]
        others = {each.cache_id for each in evidence.caches if not each.state.serving}
        others |= {each.key.name for each in evidence.caches if not each.state.serving}
        selection = cache_selection.select(
            pod,
            request,
            [pod_evidence.view_of(each) for each in serving],
            wanted,
            unfinished=others,
        )
    return _Read(
        evidence=evidence,
        request=request,
        uses_snapshotter=runtimes.uses_snapshotter(pod, evidence.classes),
        selection=selection,
        wanted=wanted,
    )


def _sentence(read: _Read) -> tuple[Kind, str]:
    evidence = read.evidence
    if not read.request.asks:
        said = f"{read.request.key} says that it wants none" if read.request.key else ""
        return Kind.PULLED, said or "it asks for no image cache"
    if not evidence.pod.node and not evidence.pod.has_ended:
        return Kind.WAITING, _why_unscheduled(evidence)
    if not read.uses_snapshotter:
        return Kind.PULLED, f"it asks, but {_runtime_of(read)} does not use uimgacc"
    if _is_stuck(read):
        return Kind.WAITING, f"it has an image volume, and {_unmounted(evidence.pod.node)}"
    done = evidence.agent_pod
    if done is not None and done.outcome is not None:
        return _KINDS.get(done.outcome, Kind.PULLED), done.sentence.rstrip(".")
    if (event := _decisive(evidence)) is not None:
        return EVENT_KINDS[event.reason], event.message.rstrip(".")
    if evidence.node is not None and not evidence.node.labelled:
        reason = evidence.node.message or "it has no agent of uimgacc, or one that never reported"
        return Kind.PULLED, f"node {evidence.node.name} does not serve images: {reason}"
    return Kind.UNKNOWN, _expected(read)


def _is_stuck(read: _Read) -> bool:
    """Whether it has not started on a node that has the handlers and mounts no image volumes."""
    pod, node = read.evidence.pod, read.evidence.node
    if node is None or not node.handler or node.mounts_volumes or not pod.volume_images:
        return False
    return read.uses_snapshotter and not pod.has_started and not pod.has_finished


def _unmounted(node: str) -> str:
    return f"node {node} mounts none for pods of uimgacc's classes (uimgacc node-setup --native)"


def _why_unscheduled(evidence: pod_evidence.Evidence) -> str:
    for event in reversed(evidence.events or ()):
        if event.reason in (_NO_NODE, "FailedScheduling"):
            return event.message.rstrip(".")
    status = manifests.Field(evidence.document).get("status")
    for condition in status.get("conditions").items():
        if condition.get("type").text("") == "PodScheduled":
            return condition.get("message").text("") or "the scheduler has not tried it yet"
    return "no node was chosen for it yet"


def _decisive(evidence: pod_evidence.Evidence) -> pod_evidence.PodEvent | None:
    """The event that says what became of the pod; the latest of the kind that counts most."""
    decisive = [
        each for each in evidence.events or () if each.by_uimgacc and each.reason in EVENT_KINDS
    ]
    for kind in _WORST:
        for event in reversed(decisive):
            if EVENT_KINDS[event.reason] is kind:
                return event
    return None


def _expected(read: _Read) -> str:
    """What the cluster's objects say would be decided now, where nothing says what was."""
    nothing = "neither its agent nor an event says what was done"
    selection = read.selection
    if selection is None:
        return f"{nothing}, and image caches cannot be read"
    if selection.barred is not None:
        return f"{nothing}; {selection.why.rstrip('.')}"
    if not selection.pool:
        return f"{nothing}; no image cache that serves its namespace has one of its images"
    best = selection.pool[0]
    full = selection.candidates[0].full
    return f"{nothing}; by now {best.id} has {full} of its {len(read.wanted)} images"


def _runtime_of(read: _Read) -> str:
    handler = runtimes.handler_of(read.evidence.asking, read.evidence.classes)
    return f"its runtime handler {handler}" if handler else "its runtime (the default one)"


def _links(read: _Read) -> Iterator[Link]:
    yield _asked(read)
    for remark in (*read.request.remarks, *filter(None, [read.request.misspelt])):
        yield Link(name="", mark=Mark.NOTED, text=remark)
    if not read.request.asks:
        yield from _events(read.evidence)
        return
    yield _runtime(read)
    if not read.uses_snapshotter:
        yield from _unmoved(read)
    yield _node(read.evidence)
    if _is_stuck(read):
        yield Link(
            name="volume",
            mark=Mark.BROKEN,
            text=_unmounted(read.evidence.pod.node),
            remedy=f'create the pod again with the node selector {keys.IMAGE_VOLUMES_LABEL}: "true"'
            f" (kubectl get nodes -L {keys.IMAGE_VOLUMES_LABEL}), or without its runtime class",
        )
    yield from _matching(read)
    yield from _registered(read.evidence)
    yield from _events(read.evidence)
    yield from _figures(read)


def _asked(read: _Read) -> Link:
    request = read.request
    if request.asks:
        value = read.evidence.asking.annotations.get(request.key, "")
        by = f"{request.key}: {value}" if value else request.key
        source = ""
        if request.key == keys.CACHE and keys.CACHE not in read.evidence.pod.annotations:
            source = f", by the label of namespace {read.evidence.pod.namespace}"
        text = f"{by} ({request.dialect.value}, {request.mode.value}{source})"
        return Link(name="asks", mark=Mark.HOLDS, text=text)
    where = "the pod"
    if read.evidence.owner:
        where = f"spec.template.metadata.annotations of {read.evidence.owner}"
    return Link(
        name="asks",
        mark=Mark.BROKEN,
        text="no annotation, label or runtime class asks for an image cache",
        remedy=f'add {keys.CACHE}: "auto" to {where}, and create the pod again'
        f" (or label its namespace: kubectl label ns {read.evidence.pod.namespace}"
        f" {keys.CACHE}=auto)",
    )


def _runtime(read: _Read) -> Link:
    pod = read.evidence.asking
    handler = runtimes.handler_of(pod, read.evidence.classes) or "the default one"
    named = f"class {pod.runtime_class}" if pod.runtime_class else "no runtime class"
    if read.uses_snapshotter:
        return Link(name="runtime", mark=Mark.HOLDS, text=f"{named}, handler {handler}")
    return Link(
        name="runtime",
        mark=Mark.BROKEN,
        text=f"{named}, handler {handler}: it does not use uimgacc's snapshotter",
        remedy="create the pod again once the line below is mended",
    )


def _unmoved(read: _Read) -> Iterator[Link]:
    """Why admission has not moved it: by the conditions of the policy and of the webhook."""
    evidence = read.evidence
    if not evidence.twins:
        text = "no RuntimeClass of uimgacc is there, or it may not be read"
        yield Link(
            name="moved", mark=Mark.UNKNOWN, text=text, remedy="kubectl get runtimeclass uimgacc"
        )
        return
    failing = {twin.name: _failing(read, twin) for twin in evidence.twins}
    for name, conditions in sorted(failing.items()):
        if not conditions:
            yield Link(
                name="moved",
                mark=Mark.BROKEN,
                text=f"nothing in the pod keeps it from the class {name}: the admission policy or"
                " the webhook was not there, or did not answer, when it was created",
                remedy="create the pod again; kubectl get mutatingadmissionpolicybinding,"
                f"mutatingwebhookconfiguration {keys.WEBHOOK_CONFIGURATION}",
            )
            return
    for name, conditions in sorted(failing.items()):
        said = (_CONDITIONS.get(each, each) for each in conditions)
        text = f"not to the class {name}: {', '.join(said)}"
        yield Link(
            name="moved",
            mark=Mark.BROKEN,
            text=text,
            remedy="docs/use/pods.md, which pods are moved",
        )


def _failing(read: _Read, twin: pod_moves.Twin) -> list[str]:
    """The conditions that do not hold for it; its node was chosen later, so it is left out."""
    document = {
        **read.evidence.document,
        "metadata": {
            **read.evidence.document["metadata"],
            "annotations": dict(read.evidence.asking.annotations),
        },
        "spec": {
            key: value for key, value in read.evidence.document["spec"].items() if key != "nodeName"
        },
    }
    failing = []
    for name in pod_moves.CONDITIONS:
        try:
            if not pod_moves.holds(name, document, twin):
                failing.append(name)
        except manifests.ManifestError as error:
            failing.append(f"{name} ({error})")
    return failing


def _node(evidence: pod_evidence.Evidence) -> Link:
    if not evidence.pod.node:
        return Link(name="node", mark=Mark.BROKEN, text=f"none yet: {_why_unscheduled(evidence)}")
    node = evidence.node
    if node is None:
        why = evidence.unread.get("node", "it is gone")
        return Link(name="node", mark=Mark.UNKNOWN, text=f"{evidence.pod.node}: {why}")
    if node.labelled == "true":
        return Link(name="node", mark=Mark.HOLDS, text=f"{node.name} serves images from the store")
    if node.labelled == keys.CAPABLE_LOCAL:
        text = f"{node.name} serves images from its own copies only: {node.message}"
        return Link(name="node", mark=Mark.NOTED, text=text)
    reason = f"{node.reason}: {node.message}" if node.known else "it has no agent that reported"
    return Link(
        name="node",
        mark=Mark.BROKEN,
        text=f"{node.name} does not serve images now: {reason}",
        remedy=f"kubectl describe node {node.name}; uimgacc status",
    )


def _matching(read: _Read) -> Iterator[Link]:
    evidence, selection = read.evidence, read.selection
    if selection is None:
        text = evidence.unread.get("caches", "image caches cannot be read")
        yield Link(name="cache", mark=Mark.UNKNOWN, text=text)
        return
    by_id = {each.cache_id: each for each in evidence.caches or ()}
    for candidate in selection.candidates[:_CANDIDATES_SHOWN]:
        named = f" ({candidate.name})" if candidate.name else ""
        text = f"{candidate.cache_id}{named}: {'; '.join(candidate.reasons)}"
        mark = Mark.HOLDS if candidate.chosen else Mark.BROKEN
        yield Link(name="cache", mark=mark, text=text)
        if candidate.cache_id in by_id:
            yield state_of(by_id[candidate.cache_id])
    building = [each for each in evidence.caches or () if not each.state.serving]
    for each in building[:_CANDIDATES_SHOWN]:
        yield state_of(each)
    if not selection.candidates and not building:
        yield Link(
            name="cache",
            mark=Mark.BROKEN,
            text=f"none of {evidence.all_caches} image caches has a repository of this pod:"
            f" {', '.join(evidence.pod.images)[:300]}",
            remedy=f"uimgacc create NAME --image {evidence.pod.images[0]}",
        )


def state_of(cache: cache_object.CacheObject) -> Link:
    """The link of a cache: its phase, and what its status says of it."""
    state = cache.state
    phase = state.phase.value if state.phase else "no phase"
    tags = ""
    if state.tags.moved:
        tags = f"; the registry has moved {', '.join(each.image for each in state.tags.moved)}"
    message = f": {state.message}" if state.message else ""
    if state.serving:
        text = f"{cache.key.name} is {phase}, {units.size(state.size)}{tags}"
        return Link(name="state", mark=Mark.NOTED if tags else Mark.HOLDS, text=text)
    return Link(
        name="state",
        mark=Mark.BROKEN,
        text=f"{cache.key.name} is {phase} {state.progress}%{message}",
        remedy=f"kubectl describe imagecaches.{cache.key.group} {cache.key.name}",
    )


def _registered(evidence: pod_evidence.Evidence) -> Iterator[Link]:
    said = evidence.agent_pod
    if said is None:
        why = evidence.unread.get("agent", "")
        if not why:
            why = "its agent does not know the pod (any more): it keeps the last 50 that ended"
        yield Link(name="agent", mark=Mark.UNKNOWN, text=why)
        return
    for image in said.images:
        present = "not registered"
        if image.image in said.registered:
            present = "registered before the kubelet asked"
        elif image.image in said.laid_out:
            present = "its layers were laid out for the kubelet's pull"
        hit = image.outcome == decisions.Outcome.HIT.value
        yield Link(
            name="image",
            mark=Mark.HOLDS if hit else Mark.BROKEN,
            text=f"{image.image}: {image.outcome.replace('_', ' ')}, {image.reason}; {present}",
        )


def _events(evidence: pod_evidence.Evidence) -> Iterator[Link]:
    if evidence.events is None:
        yield Link(name="event", mark=Mark.UNKNOWN, text=evidence.unread.get("events", ""))
        return
    shown = [each for each in evidence.events if each.by_uimgacc or each.reason in _KUBELETS]
    for event in shown[-_EVENTS_SHOWN:]:
        mark = Mark.BROKEN if event.warning else Mark.NOTED
        when = times.stamp(event.at)
        text = f"{event.reason} at {when}: {event.message[:300]}"
        yield Link(name="event", mark=mark, text=text)
    if not shown:
        text = "none: the API server keeps events for an hour, unless it is set otherwise"
        yield Link(name="event", mark=Mark.UNKNOWN, text=text)


def _figures(read: _Read) -> Iterator[Link]:
    evidence = read.evidence
    if evidence.pod.ready_seconds is not None:
        text = f"{evidence.pod.ready_seconds:.0f} s from the kubelet's first sight to all started"
        yield Link(name="start", mark=Mark.NOTED, text=text)
    if evidence.agent is None:
        return
    names = {str(each.reference) for each in read.wanted} | set(evidence.pod.images)
    since = evidence.pod.accepted_at
    for saving in evidence.agent.savings.last:
        if saving.image in names and (since is None or saving.when >= since):
            text = f"{units.size(saving.bytes)} not downloaded"
            if saving.method != "none":
                text = f"{units.duration(saving.seconds)} and {text}"
            yield Link(name="saved", mark=Mark.HOLDS, text=f"{saving.image}: {text}")
