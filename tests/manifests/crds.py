"""Our CustomResourceDefinitions, evaluated as the API server does: schema, then CEL rules."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jsonschema
import yaml
from cel_expr_python import cel

from tests.manifests import rendering

Object = dict[str, Any]

FILES = {
    "uimgacc.io": rendering.MANIFESTS / "crds/imagecaches.uimgacc.io.yaml",
    "eci.alibabacloud.com": rendering.MANIFESTS / "components/alibaba/crd.yaml",
    "eks.cloud.tencent.com": rendering.MANIFESTS / "components/tencent/crd.yaml",
}


POLICIES = rendering.MANIFESTS / "crds/imagecachepolicies.uimgacc.io.yaml"

EXAMPLES = [
    *sorted((rendering.MANIFESTS.parent / "tests/unit/model/manifests").glob("*imagecache*.yaml")),
    *sorted((rendering.MANIFESTS / "examples").glob("*imagecache*.yaml")),
]
"""The clouds' own manifests, and ours."""

BOUNDS: list[tuple[Object, str]] = [
    ({"imageCacheSize": 19}, "spec.imageCacheSize"),
    ({"imageCacheSize": 20}, ""),
    ({"imageCacheSize": 32768}, ""),
    ({"imageCacheSize": 32769}, "spec.imageCacheSize"),
    ({"imageCacheSize": 20.5}, "spec.imageCacheSize"),
    ({"images": []}, "spec.images"),
    ({"images": [f"app:{at}" for at in range(20)]}, ""),
    ({"images": [f"app:{at}" for at in range(21)]}, "spec.images"),
    ({"images": ["a:1", "https://registry/app:1"]}, "spec.images[1]"),
    ({"images": ["App:1"]}, "spec.images[0]"),
    ({"images": [""]}, "spec.images[0]"),
    ({"images": ["a" * 513]}, "spec.images[0]"),
    ({"imagePullSecrets": ["default:secret1", "ns/secret2"]}, ""),
    ({"imagePullSecrets": ["secret"]}, "spec.imagePullSecrets[0]"),
    ({"imagePullSecrets": ["a:b:c"]}, "spec.imagePullSecrets[0]"),
    ({"imagePullSecrets": [":secret"]}, "spec.imagePullSecrets[0]"),
    ({"imagePullSecrets": ["ns/"]}, "spec.imagePullSecrets[0]"),
    ({"imagePullSecrets": ["Ns/secret"]}, "spec.imagePullSecrets[0]"),
    ({"imagePullSecrets": [f"n/s{at}" for at in range(21)]}, "spec.imagePullSecrets"),
]
"""Specs, and the field that is refused ("": none is)."""


def manifest(group: str, **spec: Any) -> Object:
    """An ImageCache."""
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ImageCache",
        "metadata": {"name": "c"},
        "spec": {"images": ["nginx:1"], **spec},
    }


POLICY_SPECS: list[Object] = [
    {},
    {"budget": "1.5Ti"},
    {"minPullShare": "0.25%"},
    {"minPullShare": "100%"},
    {"namespaces": ["a", "b-1"]},
    {"namespaceSelector": {"matchLabels": {"a": ""}}},
    {
        "namespaceSelector": {
            "matchExpressions": [
                {"key": "a/b", "operator": "In", "values": ["c", "d"]},
                {"key": "e", "operator": "DoesNotExist"},
            ]
        }
    },
    {"refresh": {"schedule": "0 3 * * 1-5", "timeZone": "Asia/Shanghai"}},
    {"refresh": {"serveStale": "for 10m"}},
    {"template": {"annotations": {"uimgacc.io/local": "off"}, "namespaces": ["*"]}},
    {"deletionPolicy": "Keep", "suspend": True},
]
"""Specs of policies that are taken."""

POLICY_BOUNDS: list[tuple[Object, str]] = [
    ({"images": []}, "spec.images"),
    ({"images": ["a b"]}, "spec.images[0]"),
    ({"images": ["[a-z]"]}, "spec.images[0]"),
    ({"budget": "much"}, "spec.budget"),
    ({"budget": None}, "spec.budget"),
    ({"minPullShare": "101%"}, "spec.minPullShare"),
    ({"minPullShare": "1"}, "spec.minPullShare"),
    ({"maxCaches": 0}, "spec.maxCaches"),
    ({"maxCaches": 1001}, "spec.maxCaches"),
    ({"windowDays": 8}, "spec.windowDays"),
    ({"unusedDays": 0}, "spec.unusedDays"),
    ({"deletionPolicy": "Orphan"}, "spec.deletionPolicy"),
    ({"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"a": "b"}}}, "spec"),
    ({"namespaceSelector": {}}, "spec.namespaceSelector"),
    (
        {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "spec.namespaceSelector.matchExpressions[0]",
    ),
    (
        {
            "namespaceSelector": {
                "matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]
            }
        },
        "spec.namespaceSelector.matchExpressions[0]",
    ),
    ({"refresh": {"timeZone": "UTC"}}, "spec.refresh"),
    ({"refresh": {"schedule": "@daily"}}, "spec.refresh.schedule"),
    ({"refresh": {"serveStale": "sometimes"}}, "spec.refresh.serveStale"),
    ({"template": {"annotations": {"a": "b"}}}, "spec.template.annotations"),
    (
        {"template": {"annotations": {"uimgacc.io/policy-spec": "b"}}},
        "spec.template.annotations",
    ),
    ({"template": {"imagePullSecrets": ["secret"]}}, "spec.template.imagePullSecrets[0]"),
    ({"template": {"imageCacheSize": 10}}, "spec.template.imageCacheSize"),
]
"""Specs of policies, and the field that is refused."""


def policy(name: str = "p", **spec: Any) -> Object:
    """An ImageCachePolicy."""
    return {
        "apiVersion": "uimgacc.io/v1alpha1",
        "kind": "ImageCachePolicy",
        "metadata": {"name": name, "uid": "u"},
        "spec": {"images": ["*"], "budget": "1Gi", **spec},
    }


@functools.cache
def definition(group: str) -> Object:
    """The definition of a group's kind."""
    return dict(yaml.safe_load(pathlib.Path(FILES[group]).read_text()))


def schema(group: str) -> Object:
    """The structural schema of its version."""
    (version,) = definition(group)["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


@functools.cache
def policy_definition() -> Object:
    """The definition of policies."""
    return dict(yaml.safe_load(POLICIES.read_text()))


def _schema_of(manifest: Object) -> Object:
    if manifest.get("kind") == "ImageCachePolicy":
        (version,) = policy_definition()["spec"]["versions"]
        return dict(version["schema"]["openAPIV3Schema"])
    return schema(manifest["apiVersion"].partition("/")[0])


def faults(manifest: Object) -> list[str]:
    """What the API server would say against a manifest, each with the field at fault."""
    wanted = _schema_of(manifest)
    found = [
        f"{_path(error.absolute_path)}: {error.message}"
        for error in jsonschema.Draft4Validator(wanted).iter_errors(manifest)
    ]
    return found + [
        f"{path}: {rule['message']}"
        for path, value, rules in _ruled(wanted, manifest, "")
        for rule in rules
        if not _holds(rule["rule"], value)
    ]


def unknown(manifest: Object) -> list[str]:
    """The fields that strict validation, kubectl's default, would refuse."""
    return list(_unknown(_schema_of(manifest), manifest, ""))


def _ruled(found: Object, value: Any, path: str) -> Iterator[tuple[str, Any, list[Object]]]:
    if rules := found.get("x-kubernetes-validations"):
        yield path, value, rules
    if isinstance(value, dict):
        for name, below in found.get("properties", {}).items():
            if name in value:
                yield from _ruled(below, value[name], f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _ruled(found.get("items", {}), item, f"{path}[{at}]")


def _unknown(found: Object, value: Any, path: str) -> Iterator[str]:
    known = found.get("properties", {})
    for name, below in value.items() if isinstance(value, dict) else ():
        where = f"{path}.{name}".lstrip(".")
        if name in known:
            yield from _unknown(known[name], below, where)
        elif "additionalProperties" in found:
            continue
        elif path != "metadata" and not found.get("x-kubernetes-preserve-unknown-fields"):
            yield where


@functools.cache
def _compiled(rule: str) -> cel.Expression:
    return cel.NewEnv(variables={"self": cel.Type.DYN}).compile(rule)


def _holds(rule: str, value: Any) -> bool:
    result = _compiled(rule).eval(data={"self": value})
    # A value of another type is an error of the schema, which says it better.
    return result.type() == cel.Type.ERROR or bool(result.plain_value())


def _path(steps: Any) -> str:
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.lstrip(".")
