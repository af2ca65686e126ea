"""What kustomize makes of the manifests: without components, and with each one.

Where a value of the user's is to stand, the renderings have a token that occurs nowhere else, so
that it is found wherever the manifests have carried it: in a volume, a variable, or a policy's
expression.
"""

import concurrent.futures
import dataclasses
import functools
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lab import places

MANIFESTS = places.CHECKOUT / "manifests"
KUBECTL = places.BIN / "kubectl"
OVERLAY, EVERY_POD = "runtimeclass", "default-snapshotter"
"""The overlay that the chart has by default, and the other one, which is like a component here."""
CONTROLLER = "controller"
NO_POLICY = "no-admission"
"""What no component is: neither an admission policy nor a webhook moves pods."""
MOVERS = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")

SERVER, PATH = "token-server.invalid", "/token-path"
EXPORT = f"{SERVER}:{PATH}"
IMAGE_NAME, IMAGE_TAG = "token.invalid/image", "token"
IMAGE = f"{IMAGE_NAME}:{IMAGE_TAG}"

# The letters and digits of kustomize's hashes.
_HASHED = re.compile(r"-[2456789bcdfghkmt]{10}$")
_SECONDS = 120

Object = Mapping[str, Any]
Name = tuple[str, str]
"""An object's kind and name."""
Objects = Mapping[Name, Object]


class CannotRenderError(Exception):
    """kustomize refuses; the message is its own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Renderings:
    """All that the chart is made from.

    `whole` has the default overlay with the controller; `features` the same with one component more
    (or the other overlay instead, or no policy); `bare` the names of what is there without the
    controller; `alone` for each feature that needs no controller the names of what it then has.
    """

    whole: Objects
    features: Mapping[str, Objects]
    bare: frozenset[Name]
    alone: Mapping[str, frozenset[Name]]


def components() -> tuple[str, ...]:
    """Return the names of all components but the controller and those that overlays have anyway."""
    found = {path.name for path in (MANIFESTS / "components").iterdir() if path.is_dir()}
    for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"):
        listed = yaml.safe_load(path.read_text()).get("components", ())
        found -= {pathlib.PurePath(each).name for each in listed}
    return tuple(sorted(found - {CONTROLLER}))


@functools.cache
def collect() -> Renderings:
    """Render everything; a minute of kustomize at most."""
    cases: dict[str, tuple[str, tuple[str, ...]]] = {
        "whole": (OVERLAY, (CONTROLLER,)),
        "bare": (OVERLAY, ()),
        EVERY_POD: (EVERY_POD, (CONTROLLER,)),
        f"alone {EVERY_POD}": (EVERY_POD, ()),
    }
    for name in components():
        cases[name] = (OVERLAY, (CONTROLLER, name))
        cases[f"alone {name}"] = (OVERLAY, (name,))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = dict(zip(cases, pool.map(lambda case: _attempt(*case), cases.values()), strict=True))
    features = {name: _needed(done[name]) for name in (EVERY_POD, *components())}
    whole = _needed(done["whole"])
    features[NO_POLICY] = {name: body for name, body in whole.items() if name[0] not in MOVERS}
    alone = {name: _outcome(done.get(f"alone {name}")) for name in features}
    return Renderings(
        whole=whole,
        features=features,
        bare=frozenset(_needed(done["bare"])),
        alone={name: frozenset(found) for name, found in alone.items() if found is not None},
    )


def _attempt(overlay: str, names: Sequence[str]) -> Objects | CannotRenderError:
    try:
        return by_name(render(overlay, names, export=EXPORT, image=(IMAGE_NAME, IMAGE_TAG)))
    except CannotRenderError as error:
        return error


def _needed(outcome: Objects | CannotRenderError) -> Objects:
    if isinstance(outcome, CannotRenderError):
        raise outcome
    return outcome


def _outcome(outcome: Objects | CannotRenderError | None) -> Objects | None:
    return None if isinstance(outcome, CannotRenderError) else outcome


def render(
    overlay: str, names: Iterable[str], *, export: str, image: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return the objects of a user's kustomization; raise CannotRenderError."""
    text = kustomized(
        overlay, names, export=export, image={"newName": image[0], "newTag": image[1]}
    )
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]


def kustomized(overlay: str, names: Iterable[str], *, export: str, image: Mapping[str, str]) -> str:
    """Return what kustomize prints for a user's kustomization; raise CannotRenderError.

    `image` is an entry of kustomize's `images`, without its name.
    """
    setting = {"name": "uimgacc", "namespace": "uimgacc-system", "behavior": "merge"}
    return build(
        [f"overlays/{overlay}"],
        [f"components/{name}" for name in names],
        {
            "configMapGenerator": [{**setting, "literals": [f"UIMGACC_NFS={export}"]}],
            "images": [{"name": "uimgacc", **image}],
        },
    )


def build(resources: Iterable[str], parts: Iterable[str], more: Mapping[str, Any]) -> str:
    """Return what kustomize prints for folders of the manifests; raise CannotRenderError."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        # kustomize wants relative paths, and none that go through a symbolic link.
        way = pathlib.Path(*[".."] * (len(folder.parts) - 1), *MANIFESTS.resolve().parts[1:])
        text = {
            "resources": [str(way / each) for each in resources],
            "components": [str(way / each) for each in parts],
            **more,
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
        command = [str(KUBECTL), "kustomize", str(folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    if done.returncode:
        raise CannotRenderError(done.stderr.strip()[-1000:])
    return done.stdout


def by_name(objects: Iterable[Object]) -> Objects:
    """Return objects by kind and name, without the hashes that kustomize puts into names."""
    objects = list(objects)
    plain = {
        body["metadata"]["name"]: _HASHED.sub("", body["metadata"]["name"])
        for body in objects
        if body["kind"] == "ConfigMap" and _HASHED.search(body["metadata"]["name"])
    }
    named = [_renamed(body, plain) for body in objects]
    made = {(body["kind"], body["metadata"]["name"]): body for body in named}
    if len(made) != len(objects):
        raise CannotRenderError("two objects have the same kind and name")
    return made


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value
