"""`uimgacc enable` and `disable`: the installation in a cluster, and its switch.

The manifests come with this package. `kubectl kustomize` puts them together on this
machine; what comes out is applied from here, server-side, so that whatever others
have changed besides (replicas, annotations) stays theirs.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.caches import cluster_caches
from agent.cli.install import finalizers, node_traces, support
from agent.clients.kube import acceleration_switch, refusals, rest_client
from agent.control.objects import operation_lock
from agent.model import keys
from agent.ucloud import activation, protocol

MANIFESTS = pathlib.Path(__file__).parent.with_name("manifests")
OVERLAYS = ("runtimeclass", "default-snapshotter")

_NFS = re.compile(r"(?P<server>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<path>/\S*)")
CLAIM = "claim"
_KUSTOMIZE_SECONDS = 60
_POLL = 1.0
# In this order: what others refer to first.
_FIRST = ("Namespace", "CustomResourceDefinition")
_WHO_HOLDS = (
    ": `kubectl -n uimgacc-uninstall logs daemonset/uimgacc-uninstall` names what holds them"
)
_UNDOING = "uimgacc-uninstall"

Object = Mapping[str, Any]


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


def enable(
    target: cluster_access.Target, wanted: Wanted, *, wait: bool, dry_run: bool, seconds: float
) -> None:
    """Install or update everything, switch it on, and wait until nodes serve images."""
    objects = render(wanted, target)
    if dry_run:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return

    async def work(client: rest_client.Client) -> None:
        with cluster_caches.bar(quiet=False) as tell:
            await support.require(client)
            if wanted.overlay == OVERLAYS[0]:
                await support.refuse_if_default(client)
            kept = await support.supported(client, objects)
            for number, body in enumerate(kept):
                tell(
                    f"applying {body['kind']} {body['metadata']['name']}", 100 * number // len(kept)
                )
                await _apply(client, body)
            await support.served(client)
            asked = protocol.Enable(
                nfs=wanted.nfs, username=wanted.username, password=wanted.password
            )
            async with operation_lock.OperationLock(client, namespace=target.namespace).held():
                # This is the way to update, too: what was given before by UCloud's API stays.
                switch = activation.Activation(client, namespace=target.namespace)
                await switch.turn_on(asked, keep=True)
            if wait:
                async with asyncio.timeout(seconds):
                    await _wait_nodes(client, target, tell)

    try:
        cluster_access.run(target, work)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"not every node serves images after {seconds:g} s; `kubectl describe node` says why"
            " (condition ImageAcceleration)"
        ) from error
    print("image acceleration is enabled")


def disable(
    target: cluster_access.Target, uninstalled: Wanted | None, *, wait: bool, seconds: float
) -> None:
    """Switch it off; then take away what is to be uninstalled, if anything."""
    installed = [] if uninstalled is None else render(uninstalled, target)

    async def work(client: rest_client.Client) -> None:
        if installed:
            await support.refuse_if_default(client)
        with cluster_caches.bar(quiet=False) as tell:
            async with asyncio.timeout(seconds):
                try:
                    await _switch_off(client, target)
                    if wait or installed:
                        await _wait_labels(client, tell)
                except acceleration_switch.NotInstalled:
                    # An uninstallation that goes on: the agents are gone already.
                    if not installed:
                        raise
                if uninstalled is not None:
                    await _uninstall(client, target, installed, uninstalled.image, tell)

    try:
        cluster_access.run(target, work)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"nodes are not done after {seconds:g} s; run the command again to go on waiting"
            f"{_WHO_HOLDS if installed else ''}"
        ) from error
    done = "disabled" if uninstalled is None else "uninstalled"
    print(f"image acceleration is {done}")


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
    found = [each for each in yaml.safe_load_all(done.stdout) if each is not None]
    return sorted(found, key=lambda each: (each["kind"] not in _FIRST, each["kind"] != "Namespace"))


def resource_of(body: Object) -> rest_client.Resource:
    """Where objects of this one's kind are: all plurals of ours are regular."""
    group, _, version = str(body["apiVersion"]).rpartition("/")
    kind = str(body["kind"]).lower()
    if kind.endswith("y"):
        plural = f"{kind[:-1]}ies"
    else:
        plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return rest_client.Resource(group=group, version=version, plural=plural)


async def _apply(client: rest_client.Client, body: Object) -> None:
    meta = body["metadata"]
    await client.patch(
        resource_of(body),
        meta["name"],
        body,
        namespace=meta.get("namespace", ""),
        how=rest_client.Patch.APPLY,
        manager=keys.COMPONENT,
        force=True,
    )


async def _remove(client: rest_client.Client, body: Object) -> None:
    meta = body["metadata"]
    with contextlib.suppress(refusals.NotFound):
        await client.delete(resource_of(body), meta["name"], namespace=meta.get("namespace", ""))


async def _switch_off(client: rest_client.Client, target: cluster_access.Target) -> None:
    """Raise NotInstalled before anything is written: its namespace may be on its way out."""
    await acceleration_switch.Switch(client, namespace=target.namespace).is_off()
    async with operation_lock.OperationLock(client, namespace=target.namespace).held():
        await activation.Activation(client, namespace=target.namespace).turn_off()


async def _wait_nodes(
    client: rest_client.Client, target: cluster_access.Target, tell: Callable[[str, int], None]
) -> None:
    """Until as many nodes serve images as have agents, and those are of this installation."""
    while True:
        found = await client.get(rest_client.DAEMON_SETS, keys.AGENTS, namespace=target.namespace)
        status = found.get("status") or {}
        wanted = status.get("desiredNumberScheduled", 0)
        new = 0
        if status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0):
            new = status.get("updatedNumberScheduled", 0)
        serving = min(len(await _labelled(client)), new)
        if wanted and serving >= wanted:
            return
        tell(f"{serving} of {wanted} nodes serve images", 100 * serving // max(1, wanted))
        await asyncio.sleep(_POLL)


async def _wait_labels(client: rest_client.Client, tell: Callable[[str, int], None]) -> None:
    """Until the agents have taken their labels off all nodes."""
    first = 0
    while found := await _labelled(client):
        first = max(first, len(found))
        tell(f"{len(found)} nodes still serve images", 100 * (first - len(found)) // first)
        await asyncio.sleep(_POLL)


async def _labelled(client: rest_client.Client) -> set[str]:
    found = set()
    for label in keys.CAPABLE_LABELS:
        async for page in client.pages(rest_client.NODES, labels=f"{label}=true"):
            found |= {str(node["metadata"]["name"]) for node in page.items}
    return found


async def _uninstall(
    client: rest_client.Client,
    target: cluster_access.Target,
    installed: Sequence[Object],
    image: str,
    tell: Callable[[str, int], None],
) -> None:
    """Take our objects away, then have each node put back as it was.

    ImageCaches and what defines them stay, and so does the store: what was built once
    is there when somebody installs this again. No controller is there then to let them be
    deleted, so that is done here.
    """
    undo = await _undoing(client, target, image)
    kept = ("CustomResourceDefinition",)
    served = await support.as_served(client, installed)
    going = [each for each in reversed(served) if each["kind"] not in kept]
    for number, body in enumerate(going):
        tell(f"removing {body['kind']} {body['metadata']['name']}", 100 * number // len(going))
        await _remove(client, body)
    await finalizers.release_all(client)
    for body in undo:
        await _apply(client, body)
    (agents,) = (each["metadata"] for each in undo if each["kind"] == "DaemonSet")
    while True:
        found = await client.get(
            rest_client.DAEMON_SETS, agents["name"], namespace=agents["namespace"]
        )
        status = found.get("status") or {}
        done, all_ = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
        if all_ and done >= all_:
            break
        tell(f"{done} of {all_} nodes are as they were", 100 * done // max(1, all_))
        await asyncio.sleep(_POLL)
    await node_traces.forget_all(client)
    for body in reversed(undo):
        await _remove(client, body)
    # Once more: by now the last controller has ended that was about to hold one.
    await finalizers.release_all(client)


async def _undoing(
    client: rest_client.Client, target: cluster_access.Target, image: str
) -> list[dict[str, Any]]:
    """The objects that put nodes back, with this image or what they run; raise NotInstalled."""
    text: dict[str, Any] = {
        "resources": [_from_root(MANIFESTS / "uninstall")],
        "images": [_image(image or await _running(client, target))],
    }
    return _kustomize(text)


async def _running(client: rest_client.Client, target: cluster_access.Target) -> str:
    """The agents' image; of an uninstallation that goes on, its own: the agents are gone."""
    for namespace, name in ((target.namespace, keys.AGENTS), (_UNDOING, _UNDOING)):
        with contextlib.suppress(refusals.NotFound):
            found = await client.get(rest_client.DAEMON_SETS, name, namespace=namespace)
            return str(found["spec"]["template"]["spec"]["containers"][0]["image"])
    raise acceleration_switch.NotInstalled(f"{target.namespace}/{keys.AGENTS}")
