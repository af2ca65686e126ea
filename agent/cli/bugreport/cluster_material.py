"""What a bug report takes from a cluster, with the rights of the person who asks.

No Secret is ever read. Of other objects it takes those of uimgacc, the image caches, and of nodes
labels, annotations, conditions and versions.
"""

import contextlib
import dataclasses
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import rich.console

from agent import errors
from agent.cli.bugreport import archive
from agent.cli.cluster import agent_pods, problems, status_view, surveying
from agent.clients.kube import refusals, rest_client
from agent.clients.kube.streams import pod_streams
from agent.model import caches, keys

_ADMISSION = "admissionregistration.k8s.io"
_RBAC = "rbac.authorization.k8s.io"
_CRD = rest_client.Resource(group="apiextensions.k8s.io", plural="customresourcedefinitions")
_LABELS = "app.kubernetes.io/name=uimgacc"
_PREFIX = "uimgacc"
_POLICIES = "imagecachepolicies"
_CONTROLLER_PORT = 9467
_NODES, _CACHES, _OBJECTS = 500, 2000, 500

IN_NAMESPACE = {
    "daemonsets": rest_client.DAEMON_SETS,
    "deployments": rest_client.DEPLOYMENTS,
    "pods": rest_client.PODS,
    "jobs": rest_client.JOBS,
    "configmaps": rest_client.CONFIG_MAPS,
    "leases": rest_client.LEASES,
    "events": rest_client.EVENTS,
    "services": rest_client.Resource(plural="services"),
    "persistentvolumeclaims": rest_client.Resource(plural="persistentvolumeclaims"),
    "roles": rest_client.Resource(group=_RBAC, plural="roles"),
}
"""What is listed in the namespace of uimgacc, by the name of its file."""

OF_CLUSTER = {
    "runtimeclasses": rest_client.RUNTIME_CLASSES,
    "clusterroles": rest_client.Resource(group=_RBAC, plural="clusterroles"),
    "validatingadmissionpolicies": rest_client.Resource(
        group=_ADMISSION, plural="validatingadmissionpolicies"
    ),
    "mutatingadmissionpolicies": rest_client.Resource(
        group=_ADMISSION, plural="mutatingadmissionpolicies"
    ),
    "mutatingadmissionpolicybindings": rest_client.Resource(
        group=_ADMISSION, plural="mutatingadmissionpolicybindings"
    ),
    "mutatingwebhookconfigurations": rest_client.WEBHOOK_CONFIGURATIONS,
}
"""What belongs to no namespace: of these the objects that are called uimgacc..."""

Report = Callable[[str, int], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How much: agents to ask, pods whose logs are read, lines of each."""

    namespace: str
    agents: int = 5
    pods: int = 20
    lines: int = 2000


class Material:
    """Reads a cluster into an archive, part by part."""

    def __init__(
        self,
        client: rest_client.Client,
        target: archive.Archive,
        wanted: Wanted,
        report: Report,
    ) -> None:
        self._client = client
        self._archive = target
        self._wanted = wanted
        self._report = report

    async def collect(self) -> None:
        """All of it. What cannot be read is noted; raises nothing foreseen."""
        await self._tried("version.json", self._version())
        await self._tried("status.json", self._status())
        for done, (name, resource) in enumerate(IN_NAMESPACE.items()):
            self._report(f"reading {name}", 5 + 2 * done)
            await self._tried(f"objects/{name}.json", self._in_namespace(name, resource))
        for name, resource in OF_CLUSTER.items():
            self._report(f"reading {name}", 30)
            await self._tried(f"objects/{name}.json", self._of_cluster(name, resource))
        policies = self._of_cluster(_POLICIES, rest_client.IMAGE_CACHE_POLICIES, prefix="")
        await self._tried(f"objects/{_POLICIES}.json", policies)
        for group in caches.GROUPS:
            await self._tried(f"objects/imagecaches.{group}.json", self._caches(group))
        self._report("reading nodes", 40)
        await self._tried("objects/nodes.json", self._nodes())
        pods: list[rest_client.Object] = []
        await self._tried("logs", self._own_pods(pods))
        for done, pod in enumerate(pods):
            name = pod["metadata"]["name"]
            self._report(f"reading the logs of {name}", 45 + 35 * done // len(pods))
            await self._logs(pod)
        await self._ask_agents(pods)

    async def _tried(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except refusals.NotFound as error:
            self._archive.miss(name, f"there is none: {error}")
        except errors.AgentError as error:
            self._archive.miss(name, str(error))

    async def _version(self) -> None:
        body = await self._client.text("/version")
        self._archive.add_json("version.json", body)

    async def _status(self) -> None:
        read = await surveying.read(
            self._client, namespace=self._wanted.namespace, report=self._report
        )
        found = problems.of_survey(read)
        self._archive.add_object("status.json", status_view.to_json(read, found))
        screen = io.StringIO()
        console = rich.console.Console(width=120, file=screen, highlight=False, markup=False)
        status_view.show(console, read, found)
        self._archive.add_text("status.txt", screen.getvalue().encode())

    async def _in_namespace(self, name: str, resource: rest_client.Resource) -> None:
        pages = self._client.pages(resource, namespace=self._wanted.namespace)
        objects = [body async for body in _first(pages, _OBJECTS)]
        self._archive.add_object(f"objects/{name}.json", objects)

    async def _of_cluster(
        self, name: str, resource: rest_client.Resource, *, prefix: str = _PREFIX
    ) -> None:
        objects = [
            body
            async for body in _first(self._client.pages(resource), 10 * _OBJECTS)
            if str(body["metadata"]["name"]).startswith(prefix)
        ]
        self._archive.add_object(f"objects/{name}.json", objects)

    async def _caches(self, group: str) -> None:
        resource = rest_client.Resource(group=group, plural="imagecaches")
        objects = [body async for body in _first(self._client.pages(resource), _CACHES)]
        self._archive.add_object(f"objects/imagecaches.{group}.json", objects)
        definition = await self._client.get(_CRD, f"imagecaches.{group}")
        self._archive.add_object(
            f"objects/definition.{group}.json",
            {"metadata": definition["metadata"], "status": definition.get("status")},
        )

    async def _nodes(self) -> None:
        others = self._client.pages(rest_client.NODES, labels=f"{keys.CAPABLE}!=true", limit=50)
        serving = self._client.pages(rest_client.NODES, labels=f"{keys.CAPABLE}=true", limit=50)
        nodes = [_node(body) async for body in _first(others, _NODES // 2)]
        nodes += [_node(body) async for body in _first(serving, _NODES - len(nodes))]
        self._archive.add_object("objects/nodes.json", nodes)

    async def _own_pods(self, pods: list[rest_client.Object]) -> None:
        """The pods whose logs are read: the controllers', builders', then those not ready."""
        pages = self._client.pages(
            rest_client.PODS, namespace=self._wanted.namespace, labels=_LABELS
        )
        read = [body async for body in _first(pages, 2 * _OBJECTS)]
        pods += sorted(read, key=_importance)[: self._wanted.pods]
        if len(read) > len(pods):
            left = len(read) - len(pods)
            self._archive.miss("logs", f"{left} more pods: --pods says of how many logs are read")

    async def _logs(self, pod: rest_client.Object) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        restarted = {
            each["name"]
            for kind in ("initContainerStatuses", "containerStatuses")
            for each in (pod.get("status") or {}).get(kind) or ()
            if each.get("restartCount")
        }
        for each in (*(spec.get("initContainers") or ()), *spec["containers"]):
            container = pod_streams.Container(
                namespace=self._wanted.namespace, pod=meta["name"], name=each["name"]
            )
            await self._log(container, previous=False)
            if each["name"] in restarted:
                await self._log(container, previous=True)

    async def _log(self, container: pod_streams.Container, *, previous: bool) -> None:
        ending = "previous.log" if previous else "log"
        name = f"logs/{container.pod}/{container.name}.{ending}"

        async def read() -> None:
            data = await pod_streams.log(
                self._client,
                container,
                lines=self._wanted.lines,
                limit=archive.FILE_LIMIT,
                previous=previous,
            )
            self._archive.add_text(name, data)

        await self._tried(name, read())

    async def _ask_agents(self, pods: list[rest_client.Object]) -> None:
        agents = [each for each in pods if _component(each) == "node"][: self._wanted.agents]
        for done, pod in enumerate(agents):
            name = pod["metadata"]["name"]
            folder = f"agents/{pod['spec'].get('nodeName', name)}"
            self._report(f"asking {name}", 80 + 18 * done // len(agents))
            await self._tried(f"{folder}/status.json", self._ask(name, "status", folder))
            await self._tried(f"{folder}/metrics.txt", self._ask(name, "metrics", folder))
            await self._tried(f"{folder}/doctor.json", self._doctor(name, folder))
        for pod in pods:
            if _component(pod) == "controller":
                name = pod["metadata"]["name"]
                await self._tried(f"controllers/{name}.txt", self._controller(name))

    async def _ask(self, pod: str, path: str, folder: str) -> None:
        answer = await agent_pods.ask(
            self._client, system=self._wanted.namespace, pod=pod, path=path
        )
        if path == "status":
            self._archive.add_json(f"{folder}/status.json", answer)
        else:
            self._archive.add_text(f"{folder}/{path}.txt", answer)

    async def _doctor(self, pod: str, folder: str) -> None:
        container = pod_streams.Container(
            namespace=self._wanted.namespace, pod=pod, name=agent_pods.CONTAINER
        )
        # It ends with status 1 where a check fails, and that is when its answer is of interest.
        command = ["sh", "-c", "uimgacc doctor --json; true"]
        answer = await pod_streams.output_of(
            self._client, container, command, limit=archive.FILE_LIMIT
        )
        self._archive.add_json(f"{folder}/doctor.json", answer)

    async def _controller(self, pod: str) -> None:
        answer = await pod_streams.page(
            self._client,
            namespace=self._wanted.namespace,
            pod=pod,
            port=_CONTROLLER_PORT,
            path="metrics",
        )
        self._archive.add_text(f"controllers/{pod}.txt", answer)


async def _first(
    pages: AsyncIterator[rest_client.Page], count: int
) -> AsyncIterator[dict[str, Any]]:
    """The first objects of a list."""
    async with contextlib.aclosing(pages):  # type: ignore[type-var]
        async for page in pages:
            for body in page.items:
                if not count:
                    return
                count -= 1
                yield dict(body)


def _node(body: rest_client.Object) -> dict[str, Any]:
    """What is of interest of a node: not the names of its images, nor its addresses."""
    meta, status = body["metadata"], body.get("status") or {}
    kept = {key: meta.get(key) for key in ("name", "creationTimestamp", "labels", "annotations")}
    return {
        "metadata": kept,
        "taints": (body.get("spec") or {}).get("taints"),
        "conditions": status.get("conditions"),
        "nodeInfo": status.get("nodeInfo"),
        "capacity": status.get("capacity"),
    }


def _component(pod: rest_client.Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""))


def _importance(pod: rest_client.Object) -> tuple[int, bool, str]:
    order = {"controller": 0, "builder": 2, "node": 1}
    ready = agent_pods.is_ready(pod)
    return (order.get(_component(pod), 3) if ready else 0, ready, pod["metadata"]["name"])
