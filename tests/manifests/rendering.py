"""What `kubectl kustomize` makes of our manifests, and how its parts are found."""

import functools
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from lab import places

MANIFESTS = places.CHECKOUT / "manifests"
KUBECTL = places.BIN / "kubectl"

Document = Mapping[str, Any]


def render(folder: pathlib.Path) -> list[Document]:
    """Everything that a folder's kustomization stands for."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns of something"
    return parsed(done.stdout)


def parsed(text: str) -> list[Document]:
    """The documents of a YAML stream that are not empty; by the parser in C, as they are long."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


@functools.cache
def together(overlay: str, *components: str) -> Sequence[Document]:
    """An overlay with components; not to be changed: all tests share it."""
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder), overlay, *components)
        return tuple(render(pathlib.Path(folder)))


def write(folder: pathlib.Path, overlay: str, *components: str) -> pathlib.Path:
    """A user's own kustomization of an overlay and components, in a folder of theirs."""
    # kustomize wants relative paths, and none that go through a symbolic link.
    way = pathlib.Path(*[".."] * (len(folder.resolve().parts) - 1), *MANIFESTS.parts[1:])
    text = {
        "resources": [str(way / "overlays" / overlay)],
        "components": [str(way / "components" / name) for name in components],
    }
    path = folder / "kustomization.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def only(documents: Sequence[Document], kind: str, name: str) -> Document:
    """The one object of that kind and name."""
    found = [
        document
        for document in documents
        if document["kind"] == kind and document["metadata"]["name"] == name
    ]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    """All objects of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def pod_specs(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    """The name of each workload and its pod's spec."""
    for document in of_kind(documents, "DaemonSet", "Deployment", "Job"):
        yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def containers(spec: Document) -> Iterator[Document]:
    """All containers of a pod, those of its start first."""
    yield from spec.get("initContainers", ())
    yield from spec["containers"]


def settings(documents: Sequence[Document], container: Document) -> dict[str, str]:
    """The environment that a container gets from our ConfigMap and its own `env`.

    What comes from the pod's own fields is named by the field.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= only(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", ()):
        source = variable.get("valueFrom", {})
        if key := source.get("configMapKeyRef"):
            value = only(documents, "ConfigMap", key["name"])["data"][key["key"]]
        elif field := source.get("fieldRef", {}).get("fieldPath"):
            value = f"<{field}>"
        else:
            value = expanded(variable["value"], found)
        found[variable["name"]] = value
    return found


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """A value as the kubelet would give it: $(NAME) replaced."""
    for name, value in variables.items():
        text = text.replace(f"$({name})", value)
    return text
