"""`uimgacc enable` and `disable`: the installation in a cluster, and its switch.

The rendered manifests are applied server-side, so that what others have changed
besides (replicas, annotations) stays as they set it.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from agent import errors
from agent.cli import cluster_access, progress
from agent.cli.install import finalizers, node_traces, rendering, support
from agent.clients.kube import acceleration_switch, refusals, rest_client
from agent.model import keys
from agent.ucloud import activation, operation_lock, protocol

_POLL = 1.0
_NAMESPACE_SECONDS = 120.0
"""For a namespace that an uninstallation has just deleted."""
_WHO_HOLDS = (
    ": `kubectl -n uimgacc-uninstall logs daemonset/uimgacc-uninstall` names what holds them"
)
_UNDOING = "uimgacc-uninstall"

Object = Mapping[str, Any]


def enable(
    target: cluster_access.Target,
    wanted: rendering.Wanted,
    *,
    wait: bool,
    dry_run: bool,
    seconds: float,
) -> None:
    """Install or update everything, switch it on, and wait until nodes serve images."""
    objects = rendering.render(wanted, target)
    if dry_run:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return
    objects, superseded = _for_server(wanted, target)

    async def work(client: rest_client.Client) -> None:
        with progress.shown(quiet=False) as report:
            await support.require(client)
            if wanted.overlay == rendering.OVERLAYS[0]:
                await support.refuse_if_default(client)
            served = await support.as_served(client, objects)
            for number, body in enumerate(served):
                report(
                    f"applying {body['kind']} {body['metadata']['name']}",
                    100 * number // len(served),
                )
                await _apply(client, body, report)
            # What moves pods now is there, so what did before can go.
            for body in await support.as_served(client, superseded):
                await _remove(client, body)
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
                    await _wait_nodes(client, target, report)

    try:
        cluster_access.run(target, work)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"not every node serves images after {seconds:g} s; `uimgacc node list` says why."
            " containerd restarts on few nodes at a time: run the command again to go on waiting"
        ) from error
    print("image acceleration is enabled")


def _for_server(
    wanted: rendering.Wanted, target: cluster_access.Target
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What to apply for a server, and what the other way of moving pods may have left there.

    The admission policy where the server has such policies, else the webhook, unless that is asked
    for. Raises UsageError, CannotRender, TooOld.
    """
    if wanted.overlay != rendering.OVERLAYS[0]:
        return rendering.render(wanted, target), []

    async def choose(client: rest_client.Client) -> bool:
        await support.require(client)
        return rendering.WEBHOOK in wanted.components or await support.needs_webhook(client)

    webhook = cluster_access.run(target, choose)
    objects = rendering.render(wanted.moving_pods_by(webhook=webhook), target)
    others = rendering.render(wanted.moving_pods_by(webhook=not webhook), target)
    return objects, _without(others, objects)


def _without(bodies: Sequence[dict[str, Any]], others: Sequence[Object]) -> list[dict[str, Any]]:
    """The objects that are not among others, the last first."""
    names = {_key_of(body) for body in others}
    return [body for body in reversed(bodies) if _key_of(body) not in names]


def _key_of(body: Object) -> tuple[str, str, str]:
    meta = body["metadata"]
    return (body["kind"], meta["name"], meta.get("namespace", ""))


def disable(
    target: cluster_access.Target, removed: rendering.Wanted | None, *, wait: bool, seconds: float
) -> None:
    """Switch it off; then remove what is to be uninstalled, if anything."""
    installed = [] if removed is None else _either(removed, target)

    async def work(client: rest_client.Client) -> None:
        if installed:
            await support.refuse_if_default(client)
        with progress.shown(quiet=False) as report:
            async with asyncio.timeout(seconds):
                try:
                    await _switch_off(client, target)
                    if wait or installed:
                        await _wait_labels(client, report)
                except acceleration_switch.NotInstalled:
                    # An uninstallation that goes on: the agents are gone already.
                    if not installed:
                        raise
                if removed is not None:
                    await _uninstall(client, target, installed, removed.image, report)

    try:
        cluster_access.run(target, work)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"nodes are not done after {seconds:g} s; run the command again to go on waiting"
            f"{_WHO_HOLDS if installed else ''}"
        ) from error
    done = "disabled" if removed is None else "uninstalled"
    print(f"image acceleration is {done}")


def _either(removed: rendering.Wanted, target: cluster_access.Target) -> list[dict[str, Any]]:
    """All objects of an installation, whichever way it moves pods."""
    objects = rendering.render(removed, target)
    if removed.overlay != rendering.OVERLAYS[0]:
        return objects
    both = (
        rendering.render(removed.moving_pods_by(webhook=each), target) for each in (True, False)
    )
    for others in both:
        objects += _without(others, objects)
    return objects


def resource_of(body: Object) -> rest_client.Resource:
    """The resource of an object's kind; the plurals of all kinds in the manifests are regular."""
    group, _, version = str(body["apiVersion"]).rpartition("/")
    kind = str(body["kind"]).lower()
    if kind.endswith("y"):
        plural = f"{kind[:-1]}ies"
    else:
        plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    return rest_client.Resource(group=group, version=version, plural=plural)


async def _apply(client: rest_client.Client, body: Object, report: progress.Report) -> None:
    meta = body["metadata"]
    if body["kind"] == "Namespace":
        await _wait_deleted(client, meta["name"], report)
    await client.patch(
        resource_of(body),
        meta["name"],
        body,
        namespace=meta.get("namespace", ""),
        how=rest_client.Patch.APPLY,
        manager=keys.COMPONENT,
        force=True,
    )


async def _wait_deleted(
    client: rest_client.Client, namespace: str, report: progress.Report
) -> None:
    """Until a namespace is no more that is being deleted: nothing can be made in it meanwhile.

    Raises TemporaryError where it is there for too long.
    """
    since = ""
    try:
        async with asyncio.timeout(_NAMESPACE_SECONDS):
            while since := await _deleted_since(client, namespace):
                report(f"the namespace {namespace} is still being deleted", 0)
                await asyncio.sleep(_POLL)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"the namespace {namespace} is being deleted since {since}:"
            f" `kubectl get namespace {namespace} -o yaml` says what it waits for; then run the"
            " command again"
        ) from error


async def _deleted_since(client: rest_client.Client, namespace: str) -> str:
    """A time of the API; empty where the namespace is not being deleted, or is not there."""
    with contextlib.suppress(refusals.NotFound):
        found = await client.get(rest_client.NAMESPACES, namespace)
        return str(found["metadata"].get("deletionTimestamp") or "")
    return ""


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
    client: rest_client.Client, target: cluster_access.Target, report: progress.Report
) -> None:
    """Until as many nodes serve images as have agents, and those are of this installation."""
    while True:
        agents = await client.get(rest_client.DAEMON_SETS, keys.AGENTS, namespace=target.namespace)
        status = agents.get("status") or {}
        wanted = status.get("desiredNumberScheduled", 0)
        new = 0
        if status.get("observedGeneration", 0) >= agents["metadata"].get("generation", 0):
            # In an upgrade the labels are there all the time: the new pods must be available, too.
            new = min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0))
        serving = min(len(await _labelled(client)), new)
        if wanted and serving >= wanted:
            return
        report(f"{serving} of {wanted} nodes serve images", 100 * serving // max(1, wanted))
        await asyncio.sleep(_POLL)


async def _wait_labels(client: rest_client.Client, report: progress.Report) -> None:
    """Until the agents have taken their labels off all nodes."""
    first = 0
    while labelled := await _labelled(client):
        first = max(first, len(labelled))
        report(f"{len(labelled)} nodes still serve images", 100 * (first - len(labelled)) // first)
        await asyncio.sleep(_POLL)


async def _labelled(client: rest_client.Client) -> set[str]:
    names = set()
    for label in keys.CAPABLE_LABELS:
        async for page in client.pages(rest_client.NODES, labels=f"{label}=true"):
            names |= {str(node["metadata"]["name"]) for node in page.items}
    return names


async def _uninstall(
    client: rest_client.Client,
    target: cluster_access.Target,
    installed: Sequence[Object],
    image: str,
    report: progress.Report,
) -> None:
    """Remove the objects of uimgacc, then have each node restored as it was.

    ImageCaches and what defines them stay, and so does the store: what was built once
    is there when uimgacc is installed again. No controller is there then to let them be
    deleted, so that is done here.
    """
    undo = await _undoing(client, target, image)
    kept = ("CustomResourceDefinition",)
    served = await support.as_served(client, installed)
    going = [each for each in reversed(served) if each["kind"] not in kept]
    for number, body in enumerate(going):
        report(f"removing {body['kind']} {body['metadata']['name']}", 100 * number // len(going))
        await _remove(client, body)
    await finalizers.release_all(client)
    for body in undo:
        await _apply(client, body, report)
    (agents,) = (each["metadata"] for each in undo if each["kind"] == "DaemonSet")
    while True:
        daemon_set = await client.get(
            rest_client.DAEMON_SETS, agents["name"], namespace=agents["namespace"]
        )
        status = daemon_set.get("status") or {}
        done, all_ = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
        if all_ and done >= all_:
            break
        report(f"{done} of {all_} nodes are as they were", 100 * done // max(1, all_))
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
    return rendering.render_uninstall(image or await _running(client, target))


async def _running(client: rest_client.Client, target: cluster_access.Target) -> str:
    """The agents' image; of an uninstallation that goes on, its own: the agents are gone."""
    for namespace, name in ((target.namespace, keys.AGENTS), (_UNDOING, _UNDOING)):
        with contextlib.suppress(refusals.NotFound):
            daemon_set = await client.get(rest_client.DAEMON_SETS, name, namespace=namespace)
            return str(daemon_set["spec"]["template"]["spec"]["containers"][0]["image"])
    raise acceleration_switch.NotInstalled(f"{target.namespace}/{keys.AGENTS}")
