"""What a cluster says of one pod and of what serves it: values, as `uimgacc why` has read them."""

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent.control.caches import cache_object
from agent.matching import annotations, pod_moves
from agent.model import caches, keys, pods, records, times


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node of the pod, by its object. `known` is False where it has no condition of uimgacc.

    `labelled` is the value of keys.CAPABLE, `handler` whether the runtime handlers are there,
    `mounts_volumes` whether pods with image volumes start under them.
    """

    name: str
    labelled: str = ""
    handler: bool = False
    mounts_volumes: bool = False
    known: bool = False
    reason: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodEvent:
    """An event about the pod; `by_uimgacc` is False for those of the kubelet and the scheduler."""

    reason: str
    message: str
    at: datetime.datetime
    warning: bool = False
    by_uimgacc: bool = False


class AgentImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a pod in the agent's /status."""

    image: str
    outcome: str
    reason: str


class AgentPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod in the agent's /status (docs/reference/status.md)."""

    namespace: str
    name: str
    served: bool
    sentence: str
    outcome: str | None = None
    cache: str | None = None
    images: list[AgentImage] = []
    registered: list[str] = []
    laid_out: list[str] = []
    seconds: float | None = None


class AgentSaving(msgspec.Struct, frozen=True, kw_only=True):
    """A saving there."""

    image: str
    when: datetime.datetime
    seconds: float
    bytes: int
    method: str = ""


class AgentSavings(msgspec.Struct, frozen=True, kw_only=True):
    """The last savings there."""

    last: list[AgentSaving] = []


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the agent's /status that say something about a pod."""

    pods: list[AgentPod] = []
    ended_pods: list[AgentPod] = []
    savings: AgentSavings = AgentSavings()

    def of_pod(self, namespace: str, name: str) -> AgentPod | None:
        """What it says of a pod; None where it does not know it (any more)."""
        for pod in (*self.pods, *self.ended_pods):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was read; None stands for what could not be, and `unread` says why.

    `document` is the pod's object. `classes` are the RuntimeClasses' handlers by name, `caches`
    those that have a repository of the pod, or that it names; `all_caches` counts the others, too.
    `owner` is what made the pod, as "Deployment web". `agents` says whether this cluster has the
    DaemonSet of uimgacc, None where that may not be read.
    """

    document: Mapping[str, Any] = dataclasses.field(hash=False)
    pod: pods.Pod
    namespace_label: str = ""
    owner: str = ""
    classes: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)
    twins: Sequence[pod_moves.Twin] = ()
    node: Node | None = None
    caches: Sequence[cache_object.CacheObject] | None = None
    all_caches: int = 0
    events: Sequence[PodEvent] | None = None
    agent: AgentStatus | None = None
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def asking(self) -> pods.Pod:
        """The pod with the annotation that its namespace's label stands for."""
        if self.pod.namespace in pod_moves.LEFT_OUT:
            return self.pod
        asked = annotations.in_namespace(self.pod.annotations, self.namespace_label)
        return dataclasses.replace(self.pod, annotations=asked)

    @property
    def agent_pod(self) -> AgentPod | None:
        """What the agent of its node says of it."""
        if self.agent is None:
            return None
        return self.agent.of_pod(self.pod.namespace, self.pod.name)


def node_of(body: Mapping[str, Any]) -> Node:
    """A node from its object."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    conditions = (body.get("status") or {}).get("conditions") or ()
    own = next((each for each in conditions if each.get("type") == keys.NODE_CONDITION), None)
    return Node(
        name=str(metadata["name"]),
        labelled=labels.get(keys.CAPABLE, ""),
        handler=labels.get(keys.HANDLER_LABEL) == "true",
        mounts_volumes=labels.get(keys.IMAGE_VOLUMES_LABEL) == "true",
        known=own is not None,
        reason=str((own or {}).get("reason", "")),
        message=str((own or {}).get("message", "")),
    )


def event_of(body: Mapping[str, Any]) -> PodEvent:
    """An event from its object, of either generation of the API."""
    moments = ("lastTimestamp", "eventTime", "firstTimestamp")
    at = next((moment for key in moments if (moment := times.parse(body.get(key)))), times.EPOCH)
    return PodEvent(
        reason=str(body.get("reason", "")),
        message=" ".join(str(body.get("message", "")).split()),
        at=at,
        warning=body.get("type") == "Warning",
        by_uimgacc=body.get("reportingComponent") in (keys.COMPONENT, keys.CONTROLLER),
    )


def owner_of(document: Mapping[str, Any]) -> str:
    """What made a pod, as far as the pod itself says it: its template is there."""
    owners = document["metadata"].get("ownerReferences") or ()
    for owner in owners:
        if owner.get("controller"):
            return f"{owner['kind']} {owner['name']}"
    return ""


def view_of(cache: cache_object.CacheObject) -> caches.Cache:
    """A serving cache as matching reads it: by its images' names, its layers are not known here."""
    request = cache.request
    moved = [
        records.MovedTag(
            ref=each.image,
            target=each.digest,
            noticed=times.stamp(each.noticed),
            policy="",
            withheld=each.withheld,
        )
        for each in cache.state.tags.moved
    ]
    return caches.cache_of(
        records.CacheRecord(
            id=records.CacheID(cache.cache_id),
            name=cache.key.name,
            images=[
                records.CachedImage(ref=each.image, target=each.digest, size=each.size, layers=[])
                for each in cache.state.images
            ],
            size=cache.state.size,
            capacity=request.capacity if request else 0,
            created=times.stamp(cache.created),
            namespaces=request.namespaces if request else [],
            moved=moved,
        )
    )


def concerns(cache: cache_object.CacheObject, *, named: str, names: Collection[str]) -> bool:
    """Whether a cache may have anything for a pod: it is named, or has one of the repositories."""
    if named and named in (cache.key.name, cache.cache_id):
        return True
    wanted = cache.request.images if cache.request is not None else ()
    return any(reference.name in names for reference in wanted)
