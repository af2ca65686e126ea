"""Reads a cluster for `uimgacc status`, in parts, with the rights of the person who asks.

At 5,000 nodes a list of whole nodes is a hundred megabytes, most of it names of images. So nodes
are listed by their metadata, and only of those that do not serve the conditions are read.
"""

import asyncio
import collections
import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agent import errors
from agent.cli.caches import cluster_objects
from agent.cli.cluster import agent_pods, cache_tally, node_tally, policy_tally, survey
from agent.clients.kube import acceleration_switch, lease, refusals, rest_client
from agent.control.caches import cache_object
from agent.control.page import node_savings
from agent.model import caches, keys

_NODES_READ = 1000
_NODES_PAGE = 50
_PODS_READ = 1000

Value = TypeVar("Value")
Report = Callable[[str, int], None]


async def read(client: rest_client.Client, *, namespace: str, report: Report) -> survey.Survey:
    """All of it. Raises what keeps everything from being read: no answer, no right to anything."""
    reader = _Reader(client, namespace, report)
    # The first request: an API server that does not answer is no status of uimgacc.
    await client.release()
    made = survey.Survey(
        namespace=namespace,
        version=importlib.metadata.version("uimgacc"),
        now=client.now(),
        agents=await reader.tried("agents", reader.agents()),
        controller=await reader.tried("controller", reader.controller()),
        leader=await reader.tried("leader", reader.leader()),
        nodes=await reader.tried("nodes", reader.nodes()),
        caches=await reader.tried("caches", reader.caches()),
        policies=await reader.tried("policies", reader.policies()),
        savings=await reader.tried("savings", reader.savings()),
    )
    if made.agents is not None and made.agents.wanted:
        switch = acceleration_switch.Switch(client, namespace=namespace)
        off = await reader.tried("switch", switch.is_off())
        made = dataclasses.replace(made, off=bool(off))
        if made.agents is not None and made.agents.ready < made.agents.wanted:
            waiting = await reader.tried("pods", reader.waiting())
            made = dataclasses.replace(made, waiting=waiting or ())
    if made.nodes is not None:
        examples = [group.examples[0] for group in made.nodes.groups]
        made = dataclasses.replace(made, pods=await reader.pods_on(examples))
    return dataclasses.replace(made, unread=reader.unread, requests=client.requests)


class _Reader:
    """Reads one part after the other, and notes what it could not read."""

    def __init__(self, client: rest_client.Client, namespace: str, report: Report) -> None:
        self._client = client
        self._namespace = namespace
        self._report = report
        self.unread: dict[str, str] = {}

    async def tried(self, subject: str, work: Awaitable[Value]) -> Value | None:
        """The result; None where it cannot be read, which is noted under `subject`."""
        self._report(f"reading {subject}", 0)
        try:
            return await work
        except refusals.Gone:
            self.unread[subject] = "it changed faster than it could be read: try again"
        except errors.AgentError as error:
            self.unread[subject] = str(error)
        return None

    async def agents(self) -> survey.Workload:
        with contextlib.suppress(refusals.NotFound):
            body = await self._client.get(
                rest_client.DAEMON_SETS, keys.AGENTS, namespace=self._namespace
            )
            status = body.get("status") or {}
            return survey.Workload(
                wanted=status.get("desiredNumberScheduled", 0),
                ready=status.get("numberReady", 0),
                updated=status.get("updatedNumberScheduled", 0),
                image=_image(body, agent_pods.CONTAINER),
            )
        return survey.Workload()

    async def controller(self) -> survey.Workload:
        with contextlib.suppress(refusals.NotFound):
            body = await self._client.get(
                rest_client.DEPLOYMENTS, keys.CONTROLLER, namespace=self._namespace
            )
            status = body.get("status") or {}
            return survey.Workload(
                wanted=(body.get("spec") or {}).get("replicas", 1),
                ready=status.get("readyReplicas", 0),
                updated=status.get("updatedReplicas", 0),
                image=_image(body, "controller"),
            )
        return survey.Workload()

    async def leader(self) -> survey.Leader:
        leasing = lease.Leasing(self._client, namespace=self._namespace, name=keys.CONTROLLER_LEASE)
        current = await leasing.read()
        if current is None:
            return survey.Leader()
        return survey.Leader(holder=current.holder, age=leasing.age(current))

    async def nodes(self) -> node_tally.Nodes:
        nodes = node_tally.Nodes()
        async for page in self._client.pages(rest_client.NODES, metadata_only=True):
            for body in page.items:
                nodes.label(body["metadata"])
            self._report(f"reading nodes: {nodes.count}", 0)
        left = nodes.count - nodes.capable
        read = 0
        if left:
            pages = self._client.pages(
                rest_client.NODES, labels=f"{keys.CAPABLE}!=true", limit=_NODES_PAGE
            )
            async with contextlib.aclosing(pages):
                async for page in pages:
                    for body in page.items:
                        nodes.explain(body)
                    read += len(page.raw)
                    self._report("reading nodes that do not serve", 100 * read // max(left, 1))
                    if read >= _NODES_READ:
                        break
        nodes.unread = max(0, left - read)
        return nodes

    async def caches(self) -> cache_tally.Caches:
        tally = cache_tally.Caches(self._client.now())
        missing = 0
        for group in caches.GROUPS:
            try:
                async for page in self._client.pages(cluster_objects.resource_of(group)):
                    for body in page.items:
                        tally.add(cache_object.parse(body))
                    self._report(f"reading image caches: {tally.count}", 0)
                    # A page of 200 is parsed here; the bar moves in between.
                    await asyncio.sleep(0)
            except refusals.NotFound:
                missing += 1  # that dialect is not installed
        if missing == len(caches.GROUPS):
            raise cluster_objects.not_installed()
        return tally

    async def policies(self) -> list[policy_tally.Policy]:
        found: list[policy_tally.Policy] = []
        # An installation without a controller, or of an earlier version, has no such kind.
        with contextlib.suppress(refusals.NotFound):
            async for page in self._client.pages(rest_client.IMAGE_CACHE_POLICIES):
                found += [policy_tally.of_object(body) for body in page.items]
        return sorted(found, key=policy_tally.urgency)

    async def savings(self) -> node_tally.Savings:
        saved = await node_savings.read(self._client, namespace=self._namespace)
        return node_tally.saved_by(saved.values(), day=self._client.now().date().isoformat())

    async def waiting(self) -> list[survey.Waiting]:
        counts: collections.Counter[str] = collections.Counter()
        examples: dict[str, str] = {}
        pages = self._client.pages(
            rest_client.PODS, namespace=self._namespace, labels=agent_pods.LABELS
        )
        read = 0
        async with contextlib.aclosing(pages):
            async for page in pages:
                for body in page.items:
                    if not agent_pods.is_ready(body):
                        reason = _why_not_ready(body)
                        counts[reason] += 1
                        examples.setdefault(reason, str(body["metadata"]["name"]))
                read += len(page.raw)
                if read >= _PODS_READ:
                    break
        return [
            survey.Waiting(reason=reason, count=count, example=examples[reason])
            for reason, count in counts.most_common()
        ]

    async def pods_on(self, nodes: list[str]) -> dict[str, str]:
        """The agents' pods on some nodes, for commands; a node without one is left out."""
        found = {}
        for node in nodes:
            with contextlib.suppress(errors.AgentError):
                found[node] = await agent_pods.pod_on(
                    self._client, system=self._namespace, node=node
                )
        return found


def _image(body: rest_client.Object, container: str) -> str:
    for each in body["spec"]["template"]["spec"]["containers"]:
        if each["name"] == container:
            return str(each.get("image", ""))
    return ""


def _why_not_ready(body: rest_client.Object) -> str:
    """In the kubelet's words: of the first container that waits, else the pod's phase."""
    status: dict[str, Any] = body.get("status") or {}
    for each in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = (each.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            return f"{each['name']}: {waiting['reason']}"
    for each in status.get("containerStatuses") or ():
        if not each.get("ready"):
            return f"{each['name']}: not ready"
    return str(status.get("phase") or "Pending")
