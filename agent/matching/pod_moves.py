"""Which pods are moved to a twin of their runtime class when they are created; pure.

The controller's webhook decides by this module, and the admission policy by the same conditions in
CEL (manifests/components/runtimeclass/admission.yaml). Each condition has the same name in both,
and tests/manifests compares them, one by one and together, on the same pods.

A pod that asks for a cache must run under a handler that uses the uimgacc snapshotter. In doubt it
stays as it is, and starts by an ordinary pull.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.matching import annotations
from agent.model import keys, manifests, pods

LEFT_OUT = frozenset({"kube-system", "kube-public", "kube-node-lease", keys.NAMESPACE})
"""Namespaces whose pods the cluster or uimgacc needs in order to start."""

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_FORBIDDING = ("NotIn", "DoesNotExist")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A RuntimeClass that has the label keys.TWIN_OF.

    `of` is the class whose pods are moved to it, `selector` what its pods need of a node's labels,
    `overhead` what each of its pods takes beyond its containers. `has_node` is False while the
    controller has found no node that can take its pods, `maps_ids` True while it has found one
    that can take those in user namespaces, `mounts_volumes` one for those with image volumes.
    """

    name: str
    of: str
    handler: str
    selector: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    overhead: Mapping[object, object] = dataclasses.field(default_factory=dict, hash=False)
    has_node: bool = True
    maps_ids: bool = False
    mounts_volumes: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What changes in a pod: annotations and labels of nodes to add, and its runtime class.

    `runtime_class` is "" where that stays.
    """

    annotations: Mapping[str, str] = dataclasses.field(hash=False)
    runtime_class: str = ""
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pod:
    """A pod that is about to be created: it may have no name yet."""

    spec: manifests.Field
    annotations: Mapping[str, str]

    @property
    def runtime_class(self) -> str:
        return self.spec.get("runtimeClassName").text("")

    @property
    def has_own_users(self) -> bool:
        """Whether it has a user namespace."""
        host_users = self.spec.get("hostUsers")
        return not host_users.absent and not host_users.boolean()

    @property
    def has_image_volumes(self) -> bool:
        """Whether it mounts an image as a volume."""
        return any(not each.get("image").absent for each in self.spec.get("volumes").items())

    @property
    def further_labels(self) -> Mapping[str, str]:
        """What it needs of a node's labels beyond what its class selects."""
        needed = {
            keys.USER_NAMESPACES_LABEL: self.has_own_users,
            keys.IMAGE_VOLUMES_LABEL: self.has_image_volumes,
        }
        return {key: "true" for key, is_so in needed.items() if is_so}

    def asks(self) -> bool:
        """Whether it asks by what it says of caches and nodes; its class is no such word here."""
        pod = pods.pod_of_spec(self.spec, namespace="", name="", annotations=self.annotations)
        return annotations.request_of(dataclasses.replace(pod, runtime_class=""), {}).asks

    def node_terms(self) -> Iterator[manifests.Field]:
        terms = self.spec.get("affinity", "nodeAffinity", _REQUIRED, "nodeSelectorTerms")
        yield from terms.items()

    def forbids(self, key: str) -> bool:
        """Whether it refuses nodes for what they have under a label, or for having it."""
        return any(
            expression.get("key").text() == key and expression.get("operator").text() in _FORBIDDING
            for term in self.node_terms()
            for expression in term.get("matchExpressions").items()
        )


def _of_this_class(pod: _Pod, twin: Twin) -> bool:
    """Of the class that it is the twin of; or of the twin itself, without the annotation."""
    if pod.runtime_class == twin.of:
        return True
    annotated = pod.annotations.get(keys.RUNTIME_HANDLER, "")
    return pod.runtime_class == twin.name and annotated != twin.handler


def _asks(pod: _Pod, twin: Twin) -> bool:
    return pod.runtime_class == twin.name or pod.asks()


def _a_node_can_take_it(pod: _Pod, twin: Twin) -> bool:
    """One that names the twin itself waits for a node anyway, and needs the annotation then."""
    return twin.has_node or pod.runtime_class == twin.name


def _free_to_go(pod: _Pod, _twin: Twin) -> bool:
    """Not where its node is chosen (a mirror pod, a DaemonSet's): moved, it could stay Pending."""
    if pod.spec.get("nodeName").text(""):
        return False
    return all(term.get("matchFields").absent for term in pod.node_terms())


def _selects_no_other_nodes(pod: _Pod, twin: Twin) -> bool:
    """The API server refuses a pod that selects other nodes than its class does.

    And the scheduler finds no node for a pod that forbids what the class demands.
    """
    selected = pod.spec.get("nodeSelector").labels()
    return all(
        selected.get(key, value) == value and not pod.forbids(key)
        for key, value in twin.selector.items()
    )


def _same_overhead(pod: _Pod, twin: Twin) -> bool:
    """The API server refuses an overhead other than that of the class."""
    overhead = pod.spec.get("overhead")
    return overhead.absent or (bool(twin.overhead) and overhead.mapping() == twin.overhead)


def _runs_here(pod: _Pod, _twin: Twin) -> bool:
    return pod.spec.get("os", "name").text("linux") == "linux"


def _may_have_user_namespace(pod: _Pod, twin: Twin) -> bool:
    """Only where nodes can show layers with its owners, which their label says.

    On others containerd copies the whole image to shift its owners, which is slower than a pull.
    """
    return not pod.has_own_users or _may_go_to(pod, keys.USER_NAMESPACES_LABEL, twin.maps_ids)


def _may_have_image_volumes(pod: _Pod, twin: Twin) -> bool:
    """Only where nodes mount them, which their label says: on others the pod does not start."""
    return not pod.has_image_volumes or _may_go_to(
        pod, keys.IMAGE_VOLUMES_LABEL, twin.mounts_volumes
    )


def _may_go_to(pod: _Pod, key: str, there_are: bool) -> bool:
    """Whether there are nodes with a label, by what the controller or the pod says of them."""
    selected = pod.spec.get("nodeSelector").labels().get(key, "true" if there_are else "")
    return selected == "true" and not pod.forbids(key)


CONDITIONS: Mapping[str, Callable[[_Pod, Twin], bool]] = {
    "of-this-class": _of_this_class,
    "asks": _asks,
    "a-node-can-take-it": _a_node_can_take_it,
    "free-to-go": _free_to_go,
    "selects-no-other-nodes": _selects_no_other_nodes,
    "same-overhead": _same_overhead,
    "runs-here": _runs_here,
    "may-have-user-namespace": _may_have_user_namespace,
    "may-have-image-volumes": _may_have_image_volumes,
}
"""All of them must hold. The names are those of the policy's matchConditions."""


def read_twin(document: Mapping[str, object]) -> Twin:
    """A twin from its RuntimeClass; raise ManifestError."""
    field = manifests.document(document)
    metadata = field.get("metadata")
    labels = metadata.get("labels").labels()
    return Twin(
        name=metadata.get("name").text(),
        of=labels.get(keys.TWIN_OF, ""),
        handler=field.get("handler").text(),
        selector=field.get("scheduling", "nodeSelector").labels(),
        overhead=field.get("overhead", "podFixed").mapping(),
        has_node=labels.get(keys.NO_NODE) != "true",
        maps_ids=labels.get(keys.USER_NAMESPACES_LABEL) == "true",
        mounts_volumes=labels.get(keys.IMAGE_VOLUMES_LABEL) == "true",
    )


def holds(name: str, document: Mapping[str, object], twin: Twin) -> bool:
    """Whether one of the conditions holds for a pod's manifest; raise ManifestError."""
    return CONDITIONS[name](_pod_of(document), twin)


def move_of(
    document: Mapping[str, object], twins: Sequence[Twin], *, namespace_label: str = ""
) -> Move:
    """What changes in a pod that is about to be created; raise ManifestError.

    `namespace_label` is the value of the label keys.CACHE of its namespace.
    """
    read = _pod_of(document)
    effective = annotations.in_namespace(read.annotations, namespace_label)
    pod = _Pod(read.spec, effective)
    added = {key: effective[key] for key in effective if key not in read.annotations}
    for twin in sorted(twins, key=lambda each: each.name):
        if all(condition(pod, twin) for condition in CONDITIONS.values()):
            return Move(
                annotations={**added, keys.RUNTIME_HANDLER: twin.handler},
                runtime_class="" if pod.runtime_class == twin.name else twin.name,
                node_selector=pod.further_labels,
            )
    return Move(annotations=added)


def _pod_of(document: Mapping[str, object]) -> _Pod:
    field = manifests.document(document)
    return _Pod(field.get("spec"), field.get("metadata", "annotations").labels())
