"""What a controller that was taken over would try, as JSON Patches of what it may write."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.control.caches import cache_object
from agent.control.jobs import job_manifest, job_template
from agent.roles import controller_flags
from tests.manifests import rendering

Patch = Sequence[Mapping[str, Any]]

AGENTS = "/spec/template/spec"
AGENT = f"{AGENTS}/containers/1"
POD = "/spec/template/spec"
BUILD = f"{POD}/containers/0"


def add(path: str, value: Any) -> Patch:
    return [{"op": "add", "path": path, "value": value}]


def remove(path: str) -> Patch:
    return [{"op": "remove", "path": path}]


def documents() -> Sequence[rendering.Document]:
    return rendering.together("runtimeclass", "controller", "api")


def webhook() -> dict[str, Any]:
    """The webhook's configuration as the controller has made it work."""
    found = rendering.only(
        rendering.together("runtimeclass", "controller", "api", "webhook"),
        "MutatingWebhookConfiguration",
        "uimgacc-pods",
    )
    body: dict[str, Any] = json.loads(json.dumps(found))
    for each in body["webhooks"]:
        each["clientConfig"]["caBundle"] = "YQ=="
    return body


def twin() -> dict[str, Any]:
    """A RuntimeClass that the controller may label."""
    return dict(json.loads(json.dumps(rendering.only(documents(), "RuntimeClass", "uimgacc"))))


def agents() -> rendering.Document:
    """The agents' DaemonSet; its second container is the agent."""
    found = rendering.only(documents(), "DaemonSet", "uimgacc-node")
    names = [each["name"] for each in found["spec"]["template"]["spec"]["containers"]]
    assert names == ["snapshotter", "agent"]
    return found


def job() -> dict[str, Any]:
    """The Job of a build with a pull secret, as the controller of our manifests makes it."""
    pod = rendering.only(documents(), "Deployment", "uimgacc-controller")["spec"]["template"]
    wanted = controller_flags.parse(["--store=/var/lib/uimgacc/store", "--pod=p"])
    template = job_template.of_pod({"metadata": {"name": "p"}, **pod}, wanted, patch={})
    body = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": "c", "uid": "u", "resourceVersion": "1"},
        "spec": {"images": ["nginx:1"], "imagePullSecrets": ["ns/pull"]},
    }
    cache = cache_object.parse(body)
    assert cache.request is not None
    made = job_manifest.manifest(cache, cache.request, ("linux/amd64",), template=template)
    return dict(json.loads(json.dumps(made)))


BUILDS: Mapping[str, Patch] = {
    "as it is": [],
    "let run": add("/spec/suspend", False),
    "another user": add(f"{POD}/securityContext/runAsUser", 1000),
    "resources": add(f"{BUILD}/resources/limits/memory", "8Gi"),
    "a claim for its files": add(
        f"{POD}/volumes/-", {"name": "x", "persistentVolumeClaim": {"claimName": "x"}}
    ),
}

REFUSED_BUILDS: Mapping[str, Patch] = {
    "the node's network": add(f"{POD}/hostNetwork", True),
    "the node's processes": add(f"{POD}/hostPID", True),
    "the node's memory": add(f"{POD}/hostIPC", True),
    "a port of the node": add(f"{BUILD}/ports", [{"containerPort": 80, "hostPort": 80}]),
    "a folder of the node": add(f"{POD}/volumes/-", {"name": "x", "hostPath": {"path": "/"}}),
    "a driver of the node": add(f"{POD}/volumes/-", {"name": "x", "flexVolume": {"driver": "a/b"}}),
    "the agents' account": add(f"{POD}/serviceAccountName", "uimgacc-node"),
    "no account": remove(f"{POD}/serviceAccountName"),
    "root": add(f"{POD}/securityContext/runAsUser", 0),
    "perhaps root": remove(f"{POD}/securityContext/runAsNonRoot"),
    "root in the container": add(f"{BUILD}/securityContext/runAsUser", 0),
    "perhaps root in it": add(f"{BUILD}/securityContext/runAsNonRoot", False),
    "a capability": add(f"{BUILD}/securityContext/capabilities/add", ["SYS_ADMIN"]),
    "capabilities as usual": remove(f"{BUILD}/securityContext/capabilities"),
    "programs with more rights": remove(f"{BUILD}/securityContext/allowPrivilegeEscalation"),
    "the whole /proc": [
        *add(f"{BUILD}/securityContext/procMount", "Unmasked"),
        *add(f"{POD}/hostUsers", False),
    ],
    "all system calls": add(f"{POD}/securityContext/seccompProfile", {"type": "Unconfined"}),
    "all system calls in it": add(
        f"{BUILD}/securityContext/seccompProfile", {"type": "Unconfined"}
    ),
    "a second container": add(f"{POD}/containers/-", {"name": "x", "image": "x"}),
    "a container before it": add(f"{POD}/initContainers", [{"name": "x", "image": "x"}]),
}

HOOK = "/webhooks/0"
WEBHOOKS: Mapping[str, Patch] = {
    "another authority": add(f"{HOOK}/clientConfig/caBundle", "Yg=="),
    "for no pod": add(f"{HOOK}/objectSelector", {"matchLabels": {"a": "b"}}),
}
REFUSED_WEBHOOKS: Mapping[str, Patch] = {
    "all objects": add(f"{HOOK}/rules/0/resources", ["*"]),
    "all operations": add(f"{HOOK}/rules/0/operations", ["*"]),
    "one rule more": add(
        f"{HOOK}/rules/-",
        {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]},
    ),
    "all namespaces": remove(f"{HOOK}/namespaceSelector"),
    "all pods": remove(f"{HOOK}/matchConditions"),
    "pods that cannot be created": add(f"{HOOK}/failurePolicy", "Fail"),
    "a slow server": add(f"{HOOK}/timeoutSeconds", 30),
    "another server": add(f"{HOOK}/clientConfig", {"url": "https://evil.example.com"}),
    "another service": add(f"{HOOK}/clientConfig/service/name", "evil"),
    "another path": add(f"{HOOK}/clientConfig/service/path", "/evil"),
    "another webhook": add("/webhooks/-", {**webhook()["webhooks"][0], "name": "x.example.com"}),
    "another name": add(f"{HOOK}/name", "x.example.com"),
    "no webhook": add("/webhooks", []),
}

TWINS: Mapping[str, Patch] = {
    "no node": add("/metadata/labels/uimgacc.io~1no-node", "true"),
    "user namespaces": add("/metadata/labels/uimgacc.io~1user-namespaces", "true"),
    "image volumes": add("/metadata/labels/uimgacc.io~1image-volumes", "true"),
}
REFUSED_TWINS: Mapping[str, Patch] = {
    "another label": add("/metadata/labels/x", "y"),
    "whose twin it is": add("/metadata/labels/uimgacc.io~1twin-of", "kata"),
    "a label less": remove("/metadata/labels/uimgacc.io~1twin-of"),
    "an annotation": add("/metadata/annotations", {"x": "y"}),
    "its nodes": add("/scheduling/nodeSelector", {"x": "y"}),
    "all nodes": remove("/scheduling"),
    "tolerations": add("/scheduling/tolerations", [{"operator": "Exists"}]),
    "an overhead": add("/overhead", {"podFixed": {"cpu": "100"}}),
}

DRAIN = {"name": "UIMGACC_DRAIN", "value": "true"}
SWITCHES: Mapping[str, Patch] = {
    "drain": add(f"{AGENT}/env/-", DRAIN),
    "drain, before the others": add(f"{AGENT}/env/0", DRAIN),
}

REFUSED_AGENTS: Mapping[str, Patch] = {
    "another image": add(f"{AGENT}/image", "evil"),
    "another command": add(f"{AGENT}/command", ["sh"]),
    "another argument": add(f"{AGENT}/args/-", "--evil"),
    "another variable": add(f"{AGENT}/env/-", {"name": "UIMGACC_NFS", "value": "evil:/"}),
    "without a variable": remove(f"{AGENT}/env"),
    "a variable's source": add(
        f"{AGENT}/env/-",
        {"name": "UIMGACC_DRAIN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ),
    "the snapshotter's image": add(f"{AGENTS}/containers/0/image", "evil"),
    "node set-up's image": add(f"{AGENTS}/initContainers/0/image", "evil"),
    "another container": add(f"{AGENTS}/containers/-", {"name": "x", "image": "evil"}),
    "another agent's name": add(f"{AGENT}/name", "evil"),
    "without the agent": remove(AGENT),
    "a volume": add(f"{AGENTS}/volumes/-", {"name": "x", "emptyDir": {}}),
    "another account": add(f"{AGENTS}/serviceAccountName", "uimgacc-controller"),
    "no tolerations": remove(f"{AGENTS}/tolerations"),
    "a label of its pods": add("/spec/template/metadata/labels/x", "y"),
    "an annotation of its pods": add("/spec/template/metadata/annotations/x", "y"),
    "its roll-out": add("/spec/updateStrategy", {"type": "OnDelete"}),
    "its history": add("/spec/revisionHistoryLimit", 0),
    "its labels": add("/metadata/labels/x", "y"),
    "its annotations": add("/metadata/annotations", {"x": "y"}),
    "its finalizers": add("/metadata/finalizers", ["example.com/x"]),
    "its owner": add(
        "/metadata/ownerReferences",
        [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}],
    ),
}
