"""The chart as Helm renders it, and as it is to be compared with what kustomize makes."""

import copy
import functools
import json
import pathlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import yaml

from lab import places
from lab.chart import renderings, schema
from lab.parts import helm

CHART = places.CHECKOUT / "charts" / "uimgacc"
NAMESPACE = "uimgacc-system"
EXPORT = ("nfs.example.internal", "/uimgacc")
KEEP = "helm.sh/resource-policy"


@functools.cache
def program() -> pathlib.Path:
    """Helm, or the test is skipped."""
    try:
        return helm.program()
    except helm.NoHelmError as error:
        pytest.skip(str(error))


def run(*arguments: str, text: str = "", kubeconfig: str = "/dev/null") -> str:
    """What a command of Helm's prints."""
    done = attempt(*arguments, text=text, kubeconfig=kubeconfig)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attempt(
    *arguments: str, text: str = "", kubeconfig: str = "/dev/null"
) -> subprocess.CompletedProcess[str]:
    """A command of Helm's, which may fail."""
    return subprocess.run(
        [program(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        env={"HOME": "/nonexistent", "KUBECONFIG": kubeconfig, "HELM_CACHE_HOME": "/tmp"},
    )


def template(values: Mapping[str, Any], *arguments: str) -> list[dict[str, Any]]:
    """The objects that the chart has with these values."""
    output = run(*_template(arguments), text=json.dumps(values))
    return [each for each in yaml.load_all(output, yaml.CSafeLoader) if each is not None]


def refusal(values: Mapping[str, Any], *arguments: str) -> str:
    """What Helm says of values that it does not take."""
    done = attempt(*_template(arguments), text=json.dumps(values))
    assert done.returncode != 0, "these values are taken"
    return done.stderr


def _template(arguments: Sequence[str]) -> list[str]:
    return ["template", "uimgacc", str(CHART), "-n", NAMESPACE, "-f", "-", *arguments]


def values(overlay: str, components: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    """The values that stand for an overlay with components, as kustomize is given them."""
    components = set(components)
    on = {name: name in components for name in schema.chosen()}
    features = {feature: value for value, feature in schema.POLICIES.items() if feature}
    moved = [features[each] for each in components if each in features]
    return {
        "overlay": overlay,
        "admission": moved[0] if moved else "policy",
        "components": on,
        "namespace": {"create": True},
        "store": {"nfs": {"server": EXPORT[0], "path": EXPORT[1]}},
        **more,
    }


def comparable(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Objects by kind and name, without what Helm and kustomize each add of their own.

    kustomize puts a hash into the names of ConfigMaps so that pods are new when these change; the
    chart has a checksum in the pods' annotations for that. Definitions have an annotation by which
    Helm keeps them. The order of what the API server knows by a name means nothing, but for
    variables, which may use those before them.
    """
    made = {}
    for (kind, name), body in renderings.by_name(documents).items():
        plain = copy.deepcopy(dict(body))
        _without(plain, KEEP)
        template_ = plain.get("spec", {}).get("template", {})
        for sum_ in ("checksum/uimgacc", "checksum/uimgacc-builder"):
            _without(template_, sum_)
        key = f"{kind}/{plain['metadata'].get('namespace', '')}/{name}"
        assert key not in made, f"{key} twice"
        made[key] = _sorted(plain)
    return made


def _sorted(value: Any) -> Any:
    """The same with volumes, mounts and ports by their keys."""
    if isinstance(value, list):
        return [_sorted(each) for each in value]
    if not isinstance(value, dict):
        return value
    made = {key: _sorted(each) for key, each in value.items()}
    for name, key in (("volumes", "name"), ("volumeMounts", "mountPath"), ("ports", "name")):
        if isinstance(made.get(name), list) and all(key in each for each in made[name]):
            made[name].sort(key=lambda each: each[key])
    return made


def _without(body: dict[str, Any], annotation: str) -> None:
    """Remove an annotation, and the map of them with the last one."""
    meta = body.get("metadata", {})
    if annotation in (meta.get("annotations") or {}):
        del meta["annotations"][annotation]
        if not meta["annotations"]:
            del meta["annotations"]
