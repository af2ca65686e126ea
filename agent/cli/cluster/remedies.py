"""What may be wrong with an installation, and the command that mends it or shows more: one table.

`uimgacc status` names them, and docs/operate/troubleshooting.md has the same table, which a test
compares. A command has {fields}, which are filled in with what was found: {system} is the namespace
of uimgacc, {node}, {pod} (the agent's there), {cache} and {kind} (as kubectl names it) an example.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from agent.model import keys

_DESCRIBE = "kubectl describe {kind} {cache}"
_LOGS = "kubectl -n {system} logs {pod}"


class Level(enum.Enum):
    """FAULT: something does not work. NOTICE: it works, and somebody may want to know."""

    FAULT = "fault"
    NOTICE = "notice"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One of them. `key` is for programs, `what` is a phrase after a number of things.

    `reason` is that of a node's condition; `says` are parts of a cache's message by which it is
    known.
    """

    key: str
    what: str
    command: str
    level: Level = Level.FAULT
    reason: str = ""
    says: tuple[str, ...] = ()


INSTALLATION = (
    Remedy(
        key="not-installed",
        what="uimgacc is not installed in this namespace",
        command="uimgacc enable --nfs SERVER:/PATH",
    ),
    Remedy(
        key="switched-off",
        what="acceleration is switched off",
        command="uimgacc enable --nfs SERVER:/PATH",
        level=Level.NOTICE,
    ),
    Remedy(
        key="no-controller",
        what="no controller is installed: nothing is built, refreshed or deleted",
        command="uimgacc enable --nfs SERVER:/PATH",
        level=Level.NOTICE,
    ),
    Remedy(
        key="controller-not-ready",
        what="of the controller's pods are not ready",
        command="kubectl -n {system} describe pods -l app.kubernetes.io/component=controller",
    ),
    Remedy(
        key="no-leader",
        what="no controller leads: nothing is built, refreshed or deleted",
        command="kubectl -n {system} logs deployment/uimgacc-controller --tail 50",
    ),
    Remedy(
        key="agents-not-ready",
        what="of the agents' pods are not ready",
        command="kubectl -n {system} describe pod {pod}",
    ),
    Remedy(
        key="rolling-out",
        what="of the agents' pods are of an earlier version",
        command="kubectl -n {system} rollout status daemonset/uimgacc-node",
        level=Level.NOTICE,
    ),
    Remedy(
        key="versions-differ",
        what="agents and controller run different images",
        command="kubectl -n {system} get daemonset,deployment -o wide",
        level=Level.NOTICE,
    ),
)

NODES = (
    Remedy(
        key="store-unavailable",
        what="the store does not answer there",
        command="kubectl -n {system} exec {pod} -c agent -- uimgacc doctor",
        reason="StoreUnavailable",
    ),
    Remedy(
        key="served-locally",
        what="the store does not answer there, and images of which it has copies are served",
        command="kubectl -n {system} exec {pod} -c agent -- uimgacc doctor",
        reason="ServedLocally",
    ),
    Remedy(
        key="containerd-unavailable",
        what="containerd does not answer the agent",
        command=f"{_LOGS} -c agent --tail 50",
        reason="ContainerdUnavailable",
    ),
    Remedy(
        key="snapshotter-not-configured",
        what="containerd was not set up, or not restarted after it",
        command=f"{_LOGS} -c node-setup --tail 50",
        reason="SnapshotterNotConfigured",
    ),
    Remedy(
        key="handler-missing",
        what="containerd lacks the runtime handler",
        command=f"{_LOGS} -c node-setup --tail 50",
        reason="RuntimeHandlerMissing",
    ),
    Remedy(
        key="snapshotter-unavailable",
        what="the snapshotter does not answer",
        command=f"{_LOGS} -c snapshotter --tail 50",
        reason="SnapshotterUnavailable",
    ),
    Remedy(
        key="kernel-not-suitable",
        what="the kernel has no EROFS or no overlayfs, or is too old",
        command="kubectl get node {node} -o wide",
        reason="KernelNotSuitable",
    ),
    Remedy(
        key="node-switched-off",
        what="acceleration is switched off",
        command="uimgacc enable --nfs SERVER:/PATH",
        level=Level.NOTICE,
        reason="SwitchedOff",
    ),
    Remedy(
        key="node-not-back",
        what="not back after a restart of containerd; no other node takes their slot",
        command="uimgacc node list",
        reason="NodeNotBack",
    ),
    Remedy(
        key="node-waits",
        what="node set-up waits for a slot to restart containerd",
        command="uimgacc node list",
        level=Level.NOTICE,
        reason="NodeWaitsForSlot",
    ),
    Remedy(
        key="node-disabled",
        what="left out, by the label uimgacc.io/enabled=false",
        command="uimgacc node enable {node}",
        level=Level.NOTICE,
        reason="NodeDisabled",
    ),
    Remedy(
        key="no-agent",
        what="no agent has reported",
        command="kubectl -n {system} get pods -o wide --field-selector spec.nodeName={node}",
        level=Level.NOTICE,
    ),
)

CACHES = (
    Remedy(
        key="store-does-not-answer",
        what="the controller's own mount of the store does not answer",
        command="kubectl -n {system} describe pods -l app.kubernetes.io/component=controller",
        says=("The store does not answer", "the store does not answer"),
    ),
    Remedy(
        key="no-space",
        what="the store or a builder's scratch volume is full",
        command="kubectl -n {system} exec deployment/uimgacc-controller -- df -h"
        " /var/lib/uimgacc/store",
        says=("no space left", "No space left"),
    ),
    Remedy(
        key="needs-more",
        what="imageCacheSize is too small for the layers",
        command="kubectl edit {kind} {cache}",
        says=("the images need",),
    ),
    Remedy(
        key="secret-missing",
        what="a Secret that imagePullSecrets names does not exist",
        command=_DESCRIBE,
        says=("the Secret",),
    ),
    Remedy(
        key="not-signed",
        what="the signature policy wants a signature that the image does not have",
        command="cosign sign IMAGE@DIGEST",
        says=("may not be built by the signature policy",),
    ),
    Remedy(
        key="refused-address",
        what="builds do not connect to the registry's address",
        command="kubectl -n {system} edit configmap uimgacc",
        says=("where builds connect to no registry",),
    ),
    Remedy(
        key="refused-layer",
        what="a layer takes more than an image needs that is meant to run",
        command=_DESCRIBE,
        says=("it is refused, to protect the builder",),
    ),
    Remedy(
        key="builder-evicted",
        what="the builder was evicted or ran out of memory",
        command="kubectl -n {system} describe jobs,pods -l uimgacc.io/cache-id={id}",
        says=("the builder was evicted", "ran out of memory"),
    ),
    Remedy(
        key="builder-waits",
        what="the builder's pod does not start",
        command="kubectl -n {system} describe pods -l uimgacc.io/cache-id={id}",
        says=("the builder's pod does not start", "finds no node"),
    ),
    Remedy(
        key="origin-not-verified",
        what="the pod that wanted this automatic cache was not found",
        command="kubectl get {kind} {cache} -o yaml",
        level=Level.NOTICE,
        says=("It is not built, because it names",),
    ),
    Remedy(
        key="invalid",
        what="the manifest cannot be used",
        command="kubectl edit {kind} {cache}",
        says=("The manifest cannot be used",),
    ),
    Remedy(
        key="build-failed",
        what="the build failed: the message has the registry's or the store's words",
        command=_DESCRIBE,
    ),
    Remedy(
        key="build-stuck",
        what="a build goes on for more than two hours",
        command="kubectl -n {system} logs -l uimgacc.io/cache-id={id} --tail 50",
        level=Level.NOTICE,
    ),
    Remedy(
        key="never-looked-at",
        what="no controller has looked at it",
        command="kubectl -n {system} logs deployment/uimgacc-controller --tail 50",
    ),
    Remedy(
        key="tags-moved",
        what="the registry has moved a tag; it is built again by itself unless its policy forbids",
        command="kubectl annotate {kind} {cache} uimgacc.io/refresh=$(date +%s) --overwrite",
        level=Level.NOTICE,
    ),
    Remedy(
        key="tags-unknown",
        what="the registry does not say what its tags are",
        command=_DESCRIBE,
        level=Level.NOTICE,
    ),
    Remedy(
        key="deletion-waits",
        what="deleted, and pods or nodes still use its layers",
        command=_DESCRIBE,
        level=Level.NOTICE,
    ),
)

POLICIES = (
    Remedy(
        key="policy-invalid",
        what="its spec cannot be used",
        command="kubectl describe imcp {policy}",
        reason="InvalidSpec",
    ),
    Remedy(
        key="policy-stopped",
        what="suspended, or no pull is counted, or no controller has looked at it",
        command="kubectl describe imcp {policy}",
        level=Level.NOTICE,
    ),
    Remedy(
        key="policy-over-budget",
        what="leaves images out, for its budget or its number of caches",
        command="kubectl edit imcp {policy}",
        level=Level.NOTICE,
    ),
)

ALL: Mapping[str, Remedy] = {each.key: each for each in (*INSTALLATION, *NODES, *CACHES, *POLICIES)}

_BY_REASON = {each.reason: each for each in NODES if each.reason}


def of_reason(reason: str) -> Remedy:
    """Of a node's condition; of one that has none, or an unknown one, that no agent reported."""
    return _BY_REASON.get(reason, ALL["no-agent"])


def of_policy(reason: str) -> Remedy:
    """Of the reason for which a policy is not carried out."""
    return ALL["policy-invalid" if reason == "InvalidSpec" else "policy-stopped"]


def of_message(message: str) -> Remedy:
    """Of the message of a cache that could not be built."""
    for remedy in CACHES:
        if any(part in message for part in remedy.says):
            return remedy
    return ALL["build-failed"]


def table(remedies: Iterable[Remedy] = tuple(ALL.values())) -> list[str]:
    """The lines of the table in the documentation."""
    return [
        "| `status` says | do |",
        "|---|---|",
        # A node and the whole cluster may be switched off.
        *dict.fromkeys(f"| {each.what} | `{_for_people(each.command)}` |" for each in remedies),
    ]


def _for_people(command: str) -> str:
    fields = ("node", "pod", "cache", "kind", "id", "policy")
    return command.format(system=keys.NAMESPACE, **{name: name.upper() for name in fields})
