"""Pods in the words of every cloud, and pods that must be left alone."""

from typing import Any

from agent.model import keys

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod(annotated: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "pod", "namespace": "default"}
    if annotated is not None:
        metadata["annotations"] = annotated
    spec = {"containers": [{"name": "main", "image": "nginx:1.27"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def affine(key: str, operator: str, *values: str, required: bool = True) -> dict[str, Any]:
    """The part of a pod's spec that wants nodes by a label."""
    term = {"matchExpressions": [{"key": key, "operator": operator}]}
    if values:
        term["matchExpressions"][0]["values"] = list(values)  # type: ignore[assignment]
    rule: Any = {REQUIRED: {"nodeSelectorTerms": [term]}}
    if not required:
        rule = {PREFERRED: [{"weight": 1, "preference": term}]}
    return {"affinity": {"nodeAffinity": rule}}


ASKING = {
    "ours, automatic": pod({keys.CACHE: "auto"}),
    "ours, a cache": pod({keys.CACHE: "imc-1"}),
    "Alibaba, newer pin": pod({keys.ALIBABA_PIN: "imc-1"}),
    "Alibaba, older pin": pod({keys.ALIBABA_PIN_LEGACY: "imc-1"}),
    "Alibaba, newer automatic": pod({keys.ALIBABA_AUTO: "true"}),
    "Alibaba, older automatic": pod({keys.ALIBABA_AUTO_LEGACY: "true"}),
    "Alibaba, all images or none": pod({keys.ALIBABA_PERFECT: "true"}),
    "Alibaba, so many images": pod({keys.ALIBABA_COUNT: "2"}),
    "Tencent, automatic": pod({keys.TENCENT_CACHE: "auto"}),
    "Tencent, a cache": pod({keys.TENCENT_CACHE: "imc-1"}),
    "UCloud, affinity": pod(**affine(keys.CAPABLE_UCLOUD, "In", "true")),
    "UCloud, preference": pod(**affine(keys.CAPABLE_UCLOUD, "Exists", required=False)),
    "our label, selected": pod(nodeSelector={keys.CAPABLE: "true"}),
}


AUTO = {keys.CACHE: "auto"}
IMAGE_VOLUME = [
    {"name": "scratch", "emptyDir": {}},
    {"name": "model", "image": {"reference": "registry.example.com/llama:1"}},
]
_USERS = {keys.USER_NAMESPACES_LABEL: "true"}
_VOLUMES = {keys.IMAGE_VOLUMES_LABEL: "true"}
NEEDS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a user namespace": ({"hostUsers": False}, _USERS),
    "an image volume": ({"volumes": IMAGE_VOLUME}, _VOLUMES),
    "both": ({"hostUsers": False, "volumes": IMAGE_VOLUME}, _USERS | _VOLUMES),
}
"""What a pod has, and the labels of the nodes that can serve it then."""

LEFT_ALONE = {
    "asks for nothing": pod(),
    "says no": pod({keys.CACHE: "false", keys.TENCENT_CACHE: "auto"}),
    "says no to Alibaba": pod({keys.ALIBABA_AUTO: "false", keys.ALIBABA_AUTO_LEGACY: "true"}),
    "an empty wish": pod({keys.CACHE: " "}),
    "avoids the label": pod(**affine(keys.CAPABLE, "NotIn", "true")),
    "a class without a twin": pod(AUTO, runtimeClassName="kata"),
    "its node is chosen": pod(AUTO, nodeName="node-1"),
    "a DaemonSet's": pod(
        AUTO,
        affinity={
            "nodeAffinity": {
                REQUIRED: {
                    "nodeSelectorTerms": [
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["node-1"]}
                            ]
                        }
                    ]
                }
            }
        },
    ),
    "selects other nodes": pod(AUTO, nodeSelector={"uimgacc.io/handler": "false"}),
    "forbids our nodes": pod(AUTO, **affine("uimgacc.io/handler", "DoesNotExist")),
    "an overhead of its own": pod(AUTO, overhead={"memory": "64Mi"}),
    "in a user namespace": pod(AUTO, hostUsers=False),
    "with an image volume": pod(AUTO, volumes=IMAGE_VOLUME),
    "for Windows": pod(AUTO, os={"name": "windows"}),
}

# Merge patches of an agent's own node, which has a label `zone` and an annotation example.com/a.
NODE_ALLOWED: dict[str, Any] = {
    "labels": {"metadata": {"labels": {"uimgacc": "true", "node.uk8s.ucloud.cn/uimgacc": "true"}}},
    "the label of the handlers": {"metadata": {"labels": {"uimgacc.io/handler": "true"}}},
    "the label of image volumes": {"metadata": {"labels": {"uimgacc.io/image-volumes": "true"}}},
    "the label of a twin": {"metadata": {"labels": {"handler.uimgacc.io/uimgacc-nvidia": "true"}}},
    "a label that goes": {"metadata": {"labels": {"uimgacc": None}}},
    "annotations": {"metadata": {"annotations": {"uimgacc.io/generation": "3"}}},
}
NODE_REFUSED: dict[str, Any] = {
    "another label": {"metadata": {"labels": {"zone": "b"}}},
    "a label less": {"metadata": {"labels": {"zone": None}}},
    "a role": {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
    "another annotation": {"metadata": {"annotations": {"example.com/a": "2"}}},
    "an annotation less": {"metadata": {"annotations": {"example.com/a": None}}},
    "cordoned": {"spec": {"unschedulable": True}},
    "a taint": {"spec": {"taints": [{"key": "uimgacc.io/x", "effect": "NoExecute"}]}},
    "a finalizer": {"metadata": {"finalizers": ["example.com/never"]}},
}
