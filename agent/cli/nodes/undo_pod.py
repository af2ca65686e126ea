"""The pod that puts one node back: node set-up of the DaemonSet, with other arguments; pure."""

from collections.abc import Mapping
from typing import Any

from agent import errors
from agent.model import digests, keys

CONTAINER = "node-setup"
_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "undo"}
_ARGUMENTS = ("--undo", "--restart", "--leave", "--clear", "--node=$(NODE_NAME)")
_KEPT = (
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "priorityClassName",
    "imagePullSecrets",
    "tolerations",
    "hostNetwork",
    "hostPID",
    "dnsPolicy",
)
_OF_SIDECAR = ("restartPolicy", "startupProbe", "args")


class NoNodeSetup(errors.PermanentError):
    """The DaemonSet has no node set-up: it is another version's, or was changed."""

    def __init__(self) -> None:
        super().__init__(
            f"the DaemonSet {keys.AGENTS} has no container {CONTAINER}: use the command of the"
            " version that is installed"
        )


def name_of(node: str) -> str:
    """The name of a node's pod: a node's own name may be too long to be a part of it."""
    return f"uimgacc-undo-{digests.hex_of(digests.sha256(node.encode()))[:10]}"


def manifest(daemon_set: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The pod of a node; raise NoNodeSetup. It ends when the node is as it was."""
    spec = daemon_set["spec"]["template"]["spec"]
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    found = [each for each in containers if each["name"] == CONTAINER]
    if not found:
        raise NoNodeSetup
    container = {key: value for key, value in found[0].items() if key not in _OF_SIDECAR}
    container["args"] = ["node-setup", "--host-root=/host", *_ARGUMENTS]
    mounted = {each["name"] for each in container.get("volumeMounts") or ()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_of(node),
            "namespace": daemon_set["metadata"]["namespace"],
            "labels": _LABELS,
        },
        "spec": {
            **{key: spec[key] for key in _KEPT if key in spec},
            "nodeName": node,
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
            "volumes": [each for each in spec.get("volumes") or () if each["name"] in mounted],
        },
    }


def problem(pod: Mapping[str, Any]) -> str:
    """What the last try of the pod said; "" before its first one has ended."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        for state in (status.get("state"), status.get("lastState")):
            ended = (state or {}).get("terminated") or {}
            if ended.get("exitCode"):
                text = " ".join(str(ended.get("message") or ended.get("reason") or "").split())
                return text.rpartition("uimgacc: ")[2]
    return ""
