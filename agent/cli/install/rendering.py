"""The manifests of an installation, put together by `kubectl kustomize` on this machine.

The manifests come with this package; what they render to is applied by
`agent.cli.install.installation`.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from agent import errors
from agent.cli import cluster_access, output
from agent.model import keys

MANIFESTS = pathlib.Path(__file__).parent.with_name("manifests")
OVERLAYS = ("runtimeclass", "default-snapshotter")
CLAIM = "claim"
"""The component that takes the store from a PersistentVolumeClaim."""
WEBHOOK = "webhook"
"""The component that does what the admission policy does, on servers that have no such policies."""

_NFS = re.compile(r"(?P<server>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<path>/\S*)")
_KUSTOMIZE_SECONDS = 60
# In this order: what others refer to first.
_FIRST = ("Namespace", "CustomResourceDefinition")


class CannotRender(errors.PermanentError):
    """The manifests cannot be put together on this machine. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the manifests cannot be put together: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to install: the store as SERVER:/PATH, an overlay, components, an image.

    `nfs` is "" where the component `claim` says where the store is.
    """

    nfs: str
    overlay: str = "runtimeclass"
    components: tuple[str, ...] = ()
    image: str = ""
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)

    def moving_pods_by(self, *, webhook: bool) -> "Wanted":
        """The same with the webhook or with the admission policy, which exclude each other."""
        others = tuple(each for each in self.components if each != WEBHOOK)
        return dataclasses.replace(self, components=(*others, WEBHOOK) if webhook else others)


def render(wanted: Wanted, target: cluster_access.Target) -> list[dict[str, Any]]:
    """All objects of an installation; raise UsageError, CannotRender."""
    if wanted.overlay not in OVERLAYS:
        raise output.UsageError(f"--overlay is one of {', '.join(OVERLAYS)}")
    known = sorted(path.name for path in (MANIFESTS / "components").iterdir())
    for component in wanted.components:
        if component not in known:
            raise output.UsageError(f"--component is one of {', '.join(known)}, not {component}")
    if bool(wanted.nfs) is (CLAIM in wanted.components):
        raise output.UsageError(f"either --nfs or --component {CLAIM} says where the store is")
    if wanted.nfs and not _NFS.fullmatch(wanted.nfs):
        raise output.UsageError(f"--nfs is SERVER:/PATH, not {wanted.nfs!r}")
    text: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [_from_root(MANIFESTS / "overlays" / wanted.overlay)],
        "components": [
            _from_root(MANIFESTS / "components" / name)
            for name in dict.fromkeys(("controller", "api", *wanted.components))
        ],
    }
    if wanted.nfs:
        generated = {
            "name": "uimgacc",
            "namespace": keys.NAMESPACE,
            "behavior": "merge",
            "literals": [f"UIMGACC_NFS={wanted.nfs}"],
        }
        text["configMapGenerator"] = [generated]
    if target.namespace != keys.NAMESPACE:
        raise output.UsageError(f"the manifests install into {keys.NAMESPACE} only")
    if wanted.image:
        text["images"] = [_image(wanted.image)]
    objects = _kustomize(text)
    if export := _NFS.fullmatch(wanted.nfs):
        _set_export(objects, server=export["server"].strip("[]"), path=export["path"])
    return objects


def render_uninstall(image: str) -> list[dict[str, Any]]:
    """The objects that restore the nodes, with a container image; raise CannotRender."""
    return _kustomize(
        {"resources": [_from_root(MANIFESTS / "uninstall")], "images": [_image(image)]}
    )


def _set_export(objects: Sequence[dict[str, Any]], *, server: str, path: str) -> None:
    """Give the controller's volume the store's address.

    kustomize cannot: it takes UIMGACC_NFS apart at each colon, and an IPv6 address has some.
    """
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    (store,) = (each for each in volumes if each["name"] == "store")
    store["nfs"] = {"server": server, "path": path}


def _image(text: str) -> dict[str, str]:
    name, at, digest = text.partition("@")
    if at:
        return {"name": "uimgacc", "newName": name, "digest": digest}
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return {"name": "uimgacc", "newName": head, "newTag": tag}
    return {"name": "uimgacc", "newName": name}


def _from_root(path: pathlib.Path) -> str:
    """A path for kustomize, which takes relative ones only and follows no links in them."""
    return str(path.resolve().relative_to("/"))


def _kustomize(text: Mapping[str, Any]) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CannotRender(
            "there is no kubectl on PATH: install it, or apply manifests/ as"
            " docs/install/kubernetes.md says from where there is one"
        )
    documents = yaml.safe_load_all(_printed(kubectl, json.dumps(text)))
    objects = [each for each in documents if each is not None]
    return sorted(
        objects, key=lambda each: (each["kind"] not in _FIRST, each["kind"] != "Namespace")
    )


@functools.lru_cache(maxsize=8)
def _printed(kubectl: str, content: str) -> str:
    """What kustomize prints for a kustomization in JSON; a command asks for some twice."""
    text: Mapping[str, Any] = json.loads(content)
    with tempfile.TemporaryDirectory(prefix="uimgacc-") as name:
        folder = pathlib.Path(name).resolve()
        up = "/".join([".."] * len(folder.relative_to("/").parts))
        placed = {
            key: [f"{up}/{each}" for each in value] if key in ("resources", "components") else value
            for key, value in text.items()
        }
        (folder / "kustomization.yaml").write_text(json.dumps(placed))
        try:
            done = subprocess.run(
                [kubectl, "kustomize", folder],
                capture_output=True,
                text=True,
                timeout=_KUSTOMIZE_SECONDS,
                check=False,
                env={**os.environ, "KUBECONFIG": "/dev/null"},
            )
        except subprocess.TimeoutExpired as error:
            raise CannotRender(f"kubectl takes more than {_KUSTOMIZE_SECONDS} s") from error
    if done.returncode:
        raise CannotRender(done.stderr.strip()[-500:])
    return done.stdout
