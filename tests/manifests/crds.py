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


@functools.cache
def definition(group: str) -> Object:
    """The definition of a group's kind."""
    return dict(yaml.safe_load(pathlib.Path(FILES[group]).read_text()))


def schema(group: str) -> Object:
    """The structural schema of its version."""
    (version,) = definition(group)["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


def faults(manifest: Object) -> list[str]:
    """What the API server would say against a manifest, each with the field at fault."""
    wanted = schema(manifest["apiVersion"].partition("/")[0])
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
    return list(_unknown(schema(manifest["apiVersion"].partition("/")[0]), manifest, ""))


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
