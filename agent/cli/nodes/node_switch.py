"""`uimgacc node enable` and `disable`: a live node in and out.

A node is out while it has the label ENABLED with the value "false": the DaemonSets leave it out.
What node set-up did to it is undone by a pod of its own, made from the DaemonSet. Each step may be
repeated: a command that ended too early is run again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from agent import errors
from agent.cli import cluster_access, output, progress
from agent.cli.install import node_traces, support
from agent.cli.nodes import node_rows, node_table, undo_pod
from agent.clients.kube import acceleration_switch, refusals, rest_client
from agent.kits import units
from agent.matching import runtimes
from agent.model import keys

_POLL = 1.0
_NAMED = 10
_OWN_PODS = "app.kubernetes.io/name=uimgacc"
_OF_NODES = ("node", "setup")
_ENDED = ("Succeeded", "Failed")


class InUse(errors.TemporaryError):
    """Pods of the node run on the snapshotter; `pods` are they, as namespace/name."""

    def __init__(self, node: str, pods: Sequence[str]) -> None:
        super().__init__(
            f"these pods of {node} run on the snapshotter: {_listed(pods)}. Replace them (`kubectl"
            f" drain {node}`, or delete them), then run this again; nothing was changed. With"
            " --cordon the command waits for them"
        )
        self.pods = pods


def enable(
    target: cluster_access.Target, name: str, *, cordon: bool, wait: bool, seconds: float
) -> None:
    """Set a node up, and wait until it serves; raise NotFound, TemporaryError."""

    async def work(client: rest_client.Client, report: progress.Report) -> None:
        await _daemon_set(client, target)
        await _remove_undo(client, target, name)
        if cordon:
            await _cordon(client, name)
        label = {"metadata": {"labels": {keys.ENABLED: None}}}
        await client.patch(rest_client.NODES, name, label)
        if wait:
            await _wait_serving(client, target, name, report)
            await _uncordon(client, name)

    _run(target, name, seconds, work)
    print(f"{name} serves images" if wait else f"{name} is enabled")


def disable(target: cluster_access.Target, name: str, *, cordon: bool, seconds: float) -> None:
    """Put a node back; raise NotFound, InUse, StillDefault, TemporaryError."""

    async def work(client: rest_client.Client, report: progress.Report) -> None:
        await support.refuse_if_default(client)
        daemon_set = await _daemon_set(client, target)
        undo = undo_pod.manifest(daemon_set, name)
        if cordon:
            await _cordon(client, name)
        while pods := await _users(client, name):
            if not cordon:
                raise InUse(name, pods)
            report(f"waiting for pods on the snapshotter to go: {_listed(pods)}", 0)
            await asyncio.sleep(_POLL)
        if (await _labels(client, name)).get(keys.ENABLED) != "false":
            # What an earlier command has left undid something else.
            await _remove_undo(client, target, name)
        label = {"metadata": {"labels": {keys.ENABLED: "false"}}}
        await client.patch(rest_client.NODES, name, label)
        await _wait_gone(client, target, name, report)
        # No pods that need it come from now on. Deletions wait for this node until it is undone.
        await node_traces.withdraw(client, name)
        await _undo(client, undo, report)
        await _uncordon(client, name)
        await node_traces.forget(client, name)

    _run(target, name, seconds, work)
    print(f"{name} is as it was before uimgacc")


def _run(
    target: cluster_access.Target,
    name: str,
    seconds: float,
    work: Callable[[rest_client.Client, progress.Report], Awaitable[None]],
) -> None:
    said = ""

    async def watched(client: rest_client.Client) -> None:
        await _node(client, name)
        with progress.shown(quiet=False) as shown:

            def report(sentence: str, percent: int) -> None:
                nonlocal said
                said = sentence
                shown(sentence, percent)

            async with asyncio.timeout(seconds):
                await work(client, report)

    try:
        cluster_access.run(target, watched)
    except TimeoutError as error:
        raise errors.TemporaryError(
            f"{name} is not done after {seconds:g} s: {said or 'the API server is slow'}. Run the"
            " command again to go on; a node that it has cordoned stays so until then"
        ) from error


async def _node(client: rest_client.Client, name: str) -> rest_client.Object:
    try:
        return await client.get(rest_client.NODES, name)
    except refusals.NotFound as error:
        raise output.NotFound(f"there is no node {name}", name=name) from error


async def _labels(client: rest_client.Client, name: str) -> Mapping[str, str]:
    return (await _node(client, name))["metadata"].get("labels") or {}


async def _daemon_set(
    client: rest_client.Client, target: cluster_access.Target
) -> rest_client.Object:
    try:
        return await client.get(rest_client.DAEMON_SETS, keys.AGENTS, namespace=target.namespace)
    except refusals.NotFound as error:
        name = f"{target.namespace}/{keys.AGENTS}"
        raise acceleration_switch.NotInstalled(name) from error


async def _cordon(client: rest_client.Client, name: str) -> None:
    """Cordon a node that is not; only such a one is uncordoned at the end."""
    node = await _node(client, name)
    if (node.get("spec") or {}).get("unschedulable"):
        return
    body = {
        "metadata": {
            "resourceVersion": node["metadata"]["resourceVersion"],
            "annotations": {keys.CORDONED: "true"},
        },
        "spec": {"unschedulable": True},
    }
    await client.patch(rest_client.NODES, name, body)


async def _uncordon(client: rest_client.Client, name: str) -> None:
    node = await _node(client, name)
    if keys.CORDONED in (node["metadata"].get("annotations") or {}):
        body = {
            "metadata": {"annotations": {keys.CORDONED: None}},
            "spec": {"unschedulable": None},
        }
        await client.patch(rest_client.NODES, name, body)


async def _wait_serving(
    client: rest_client.Client,
    target: cluster_access.Target,
    name: str,
    report: progress.Report,
) -> None:
    while True:
        node = await _node(client, name)
        if node_rows.serves(node):
            return
        held = [slot for _, slot in await node_table.slots(client, target) if slot.holder == name]
        if held:
            report(f"containerd restarts (slot for {units.span(held[0].seconds)})", 50)
        else:
            message = node_rows.condition(node).get("message")
            report(str(message or "waiting for the pod of uimgacc-node"), 10)
        await asyncio.sleep(_POLL)


async def _users(client: rest_client.Client, name: str) -> Sequence[str]:
    """The pods of a node whose class is on the snapshotter, and that have not ended."""
    classes = {
        str(each["metadata"]["name"])
        async for page in client.pages(rest_client.RUNTIME_CLASSES)
        for each in page.items
        if runtimes.is_twin(str(each.get("handler")))
    }
    return [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        async for page in client.pages(rest_client.PODS, fields=f"spec.nodeName={name}")
        for pod in page.items
        if pod["spec"].get("runtimeClassName") in classes
        and (pod.get("status") or {}).get("phase") not in _ENDED
    ]


async def _wait_gone(
    client: rest_client.Client,
    target: cluster_access.Target,
    name: str,
    report: progress.Report,
) -> None:
    """Until the DaemonSets' pods have left the node: agents would write again what is removed."""
    while True:
        pods = [
            str(pod["metadata"]["name"])
            async for page in client.pages(
                rest_client.PODS,
                namespace=target.namespace,
                fields=f"spec.nodeName={name}",
                labels=_OWN_PODS,
            )
            for pod in page.items
            if pod["metadata"]["labels"].get("app.kubernetes.io/component") in _OF_NODES
        ]
        if not pods:
            return
        report(f"waiting for the end of {_listed(pods)}", 20)
        await asyncio.sleep(_POLL)


async def _undo(
    client: rest_client.Client, undo: rest_client.Object, report: progress.Report
) -> None:
    """Have the pod do its work; it is tried again by the kubelet, and found by a second command."""
    where, name = {"namespace": undo["metadata"]["namespace"]}, undo["metadata"]["name"]
    phase = ""
    while phase != "Succeeded":
        try:
            pod = await client.get(rest_client.PODS, name, **where)
        except refusals.NotFound:
            pod = await client.create(rest_client.PODS, undo, **where)
        phase = str((pod.get("status") or {}).get("phase") or "")
        report(undo_pod.problem(pod) or "containerd's configuration is put back", 50)
        if phase == "Failed":  # The node was shut down, for instance: the kubelet gives it up.
            await client.delete(rest_client.PODS, name, **where)
        await asyncio.sleep(_POLL)
    with contextlib.suppress(refusals.NotFound):
        await client.delete(rest_client.PODS, name, **where)


async def _remove_undo(
    client: rest_client.Client, target: cluster_access.Target, name: str
) -> None:
    """A `disable` that has not ended must not undo what comes now, nor count for a later one."""
    pod = undo_pod.name_of(name)
    while True:
        try:
            await client.delete(rest_client.PODS, pod, namespace=target.namespace)
        except refusals.NotFound:
            return
        await asyncio.sleep(_POLL)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
