"""Reads from a cluster everything that explains what happened to a pod.

It has the rights of the person who runs the command. Only the pod itself must be readable; for
everything else that cannot be read, the evidence has the server's reason.
"""

import contextlib
import dataclasses
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import msgspec

from agent import errors
from agent.cli import output
from agent.cli.caches import cluster_objects
from agent.cli.cluster import agent_pods
from agent.cli.pods import pod_evidence
from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object
from agent.matching import annotations, pod_moves
from agent.model import caches, images, keys, manifests, pods

_REPLICA_SETS = rest_client.Resource(group="apps", plural="replicasets")
_EVENTS = 500
_STATUS = msgspec.json.Decoder(pod_evidence.AgentStatus)

Value = TypeVar("Value")


async def read(
    client: rest_client.Client, *, namespace: str, name: str, system: str
) -> pod_evidence.Evidence:
    """All evidence about a pod; raise NotFound, or what keeps the pod itself from being read."""
    try:
        document = await client.get(rest_client.PODS, name, namespace=namespace)
    except refusals.NotFound as error:
        raise output.NotFound(f"no pod {name} in namespace {namespace}", name=name) from error
    return await _Reader(client, pods.parse_pod({"kind": "Pod", **document})).read(
        document, system=system
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Classes:
    """RuntimeClasses: the handlers of all of them by name, and those that are twins."""

    handlers: dict[str, str] = dataclasses.field(default_factory=dict)
    twins: list[pod_moves.Twin] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Caches:
    """The image caches that concern a pod, and how many there are."""

    kept: list[cache_object.CacheObject]
    count: int


class _Reader:
    """Reads the evidence about one pod, and notes what it could not read."""

    def __init__(self, client: rest_client.Client, pod: pods.Pod) -> None:
        self._client = client
        self._pod = pod
        self._unread: dict[str, str] = {}

    async def read(self, document: rest_client.Object, *, system: str) -> pod_evidence.Evidence:
        """All evidence; raises NotFound where the cluster does not have the kind ImageCache."""
        classes = await self._tried("runtime classes", self._read_classes())
        evidence = pod_evidence.Evidence(
            document=document,
            pod=self._pod,
            owner=await self._owner(document),
            namespace_label=await self._tried("namespace", self._namespace_label()) or "",
            classes=classes.handlers if classes else None,
            twins=classes.twins if classes else (),
            events=await self._tried("events", self._events()),
        )
        request = annotations.request_of(evidence.asking, evidence.classes)
        if request.asks:
            read = await self._tried("caches", self._read_caches(request.cache))
            evidence = dataclasses.replace(
                evidence,
                caches=read.kept if read else None,
                all_caches=read.count if read else 0,
                node=await self._tried("node", self._node()) if self._pod.node else None,
                agent=await self._tried("agent", self._agent(system)) if self._pod.node else None,
            )
        return dataclasses.replace(evidence, unread=self._unread)

    async def _tried(self, subject: str, work: Awaitable[Value]) -> Value | None:
        """The result; None where it cannot be read, which is noted under `subject`."""
        try:
            return await work
        except output.NotFound:
            raise
        except errors.AgentError as error:
            self._unread[subject] = f"not read: {error}"
            return None

    async def _owner(self, document: rest_client.Object) -> str:
        """The object that has the pod's template; a Deployment, if readable, for its ReplicaSet."""
        owner = pod_evidence.owner_of(document)
        kind, _, name = owner.partition(" ")
        if kind == "ReplicaSet":
            with contextlib.suppress(errors.AgentError):
                body = await self._client.get(_REPLICA_SETS, name, namespace=self._pod.namespace)
                owner = pod_evidence.owner_of(body) or owner
        return owner

    async def _namespace_label(self) -> str:
        body = await self._client.get(rest_client.NAMESPACES, self._pod.namespace)
        return str((body["metadata"].get("labels") or {}).get(keys.CACHE, ""))

    async def _read_classes(self) -> _Classes:
        classes = _Classes()
        async for page in self._client.pages(rest_client.RUNTIME_CLASSES):
            for body in page.items:
                classes.handlers[body["metadata"]["name"]] = str(body.get("handler", ""))
                if keys.TWIN_OF in (body["metadata"].get("labels") or {}):
                    with contextlib.suppress(manifests.ManifestError):
                        classes.twins.append(pod_moves.read_twin(body))
        return classes

    async def _events(self) -> list[pod_evidence.PodEvent]:
        events: list[pod_evidence.PodEvent] = []
        pages = self._client.pages(
            rest_client.EVENTS,
            namespace=self._pod.namespace,
            fields=f"involvedObject.uid={self._pod.uid}",
        )
        async for page in pages:
            events += [pod_evidence.event_of(body) for body in page.items]
            if len(events) >= _EVENTS:
                break
        return sorted(events, key=lambda each: each.at)

    async def _node(self) -> pod_evidence.Node:
        return pod_evidence.node_of(await self._client.get(rest_client.NODES, self._pod.node))

    async def _read_caches(self, named: str) -> _Caches:
        names = set(self._repositories())
        kept: list[cache_object.CacheObject] = []
        count = missing = 0
        for group in caches.GROUPS:
            try:
                async for page in self._client.pages(cluster_objects.resource_of(group)):
                    count += len(page.raw)
                    read = (cache_object.parse(body) for body in page.items)
                    kept += [
                        each
                        for each in read
                        if pod_evidence.concerns(each, named=named, names=names)
                    ]
            except refusals.NotFound:
                missing += 1  # the CRD of that dialect is not installed
        if missing == len(caches.GROUPS):
            raise cluster_objects.not_installed()
        return _Caches(kept, count)

    def _repositories(self) -> Iterator[str]:
        for image in self._pod.images:
            with contextlib.suppress(images.ImageReferenceError):
                yield images.parse_reference(image).name

    async def _agent(self, system: str) -> pod_evidence.AgentStatus:
        answer = await agent_pods.status_of(self._client, system=system, node=self._pod.node)
        try:
            return _STATUS.decode(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise refusals.Unavailable(f"the agent's status cannot be read: {error}") from error
