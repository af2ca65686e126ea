"""The API server of the fleet, as administrators and the rest of a cluster see it."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import yaml

from agent.clients.kube import rest_client
from agent.model import keys
from benchmarks import processes
from benchmarks.cluster import control
from benchmarks.fleet import members
from lab import processes as lab_processes
from tests.kube import apis, servers, threads
from tests.manifests import rendering

_ACCOUNT = "uimgacc-node"
_IMAGES = 50
"""Images that a node reports at most (nodeStatusMaxImages of the kubelet)."""

_ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
_POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
_INSTALLED = (*_ROLES, *_POLICIES, "ServiceAccount", "RuntimeClass")

_AT_ONCE = 16
_SERIES = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclasses.dataclass
class Cluster:
    """A server with what uimgacc installs, for nodes that are objects only."""

    plane: control.Plane
    loop: threads.Loop
    folder: pathlib.Path
    administrator: aiohttp.ClientSession
    restarted: contextlib.ExitStack
    """Kills the servers that were restarted, after all that needs one: etcd is gone by then."""

    @property
    def name(self) -> str:
        """Which server it is, for people."""
        if not servers.is_own():
            return "kmock, the tests' own API server"
        version = self.run(self.ask("GET", "/version", None))
        return f"kube-apiserver {version['gitVersion']} and etcd"

    def pid(self, program: str) -> int | None:
        """The process of `kube-apiserver` or `etcd`; None where the server is kmock."""
        for child in lab_processes.children(os.getpid()):
            with contextlib.suppress(OSError):
                words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if pathlib.Path(os.fsdecode(words[0])).name == program:
                    return child
        return None

    def nodes(self, first: int, last: int) -> dict[str, dict[str, str]]:
        """Make the nodes of these numbers; how the agent of each reaches the server, by name."""
        names = [f"fleet-{number:05}" for number in range(first, last)]
        return dict(zip(names, self.run(self._many(map(self._node, names))), strict=True))

    async def _node(self, name: str) -> dict[str, str]:
        made = await self.ask("POST", rest_client.NODES.path(), _node(name))
        bound = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": made["metadata"]["uid"]}
        accounts = rest_client.Resource(plural="serviceaccounts")
        path = accounts.path(_ACCOUNT, namespace=keys.NAMESPACE, subresource="token")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound, "expirationSeconds": 7200},
        }
        token = (await self.ask("POST", path, body))["status"]["token"]
        return self._access(name, token)

    def _access(self, name: str, token: str) -> dict[str, str]:
        folder = self.folder / "accounts" / name
        folder.mkdir(parents=True)
        authority = self.folder / "api/certificates/apiserver.crt"
        if authority.exists():
            (folder / "token").write_text(token)
            (folder / "ca.crt").symlink_to(authority)
            return {"service_account": str(folder)}
        cluster = {"server": self.plane.access.server}
        content = {
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(content))
        return {"kubeconfig": str(folder / "kubeconfig")}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of agents' processes: where a pod finds the server."""
        address = urllib.parse.urlsplit(self.plane.access.server)
        return {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
            "GRPC_VERBOSITY": "ERROR",
            # Each client reads the authorities of the machine, which take a thousand of them a
            # minute of processor time, and needs none of them.
            "SSL_CERT_FILE": os.devnull,
            "SSL_CERT_DIR": str(self.folder / "accounts"),
        }

    async def pods(self, count: int, rate: float, nodes: int) -> float:
        """Make pods that ask for a cache, bound to nodes; the pods that were made each second."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        slots = asyncio.Semaphore(4 * _AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(begun + number / rate - loop.time())
                await slots.acquire()
                node = f"fleet-{number % nodes:05}"
                task = group.create_task(self._pod(f"pod-{number}", node))
                task.add_done_callback(lambda _: slots.release())
        return count / (loop.time() - begun)

    async def _pod(self, name: str, node: str) -> None:
        body = apis.pod(name, node, annotations={keys.CACHE: "auto"})
        body["spec"]["runtimeClassName"] = "uimgacc"
        await self.ask("POST", rest_client.PODS.path(namespace=self.plane.api.namespace), body)

    async def run_pods(self, count: int) -> None:
        """Report the pods Running, as kubelets do: of one that runs already no agent says more."""
        await self._many(self._run_pod(f"pod-{number}") for number in range(count))

    async def _run_pod(self, name: str) -> None:
        ready = {"type": "Ready", "status": "True"}
        status = {"status": {"phase": "Running", "conditions": [ready]}}
        path = rest_client.PODS.path(name, namespace=self.plane.api.namespace, subresource="status")
        await self.ask("PATCH", path, status)

    async def ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """One request of the administrator."""
        data = None if body is None else json.dumps(body)
        kind = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
        answer = await self.administrator.request(
            method, path, data=data, headers={"Content-Type": kind}
        )
        async with answer:
            if not answer.ok:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return dict(await answer.json(content_type=None))

    async def _many(self, work: Any) -> list[Any]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(each: Any) -> Any:
            async with slots:
                return await each

        return await asyncio.gather(*map(one, work))

    def run(self, work: Any, *, seconds: float = 600.0) -> Any:
        """Run a coroutine of this class in the loop of the administrator's connections."""
        return asyncio.run_coroutine_threadsafe(work, self.loop.loop).result(seconds)

    def counted(self) -> collections.Counter[str]:
        """Requests that the server has answered, by verb, resource and subresource.

        `watches` are those that are open now. Empty where the server counts nothing.
        """
        found: collections.Counter[str] = collections.Counter()
        if not servers.is_own():
            return found
        for name, labels, value in _SERIES.findall(self.run(self._metrics())):
            said = dict(_LABEL.findall(labels))
            if name == "apiserver_request_total":
                what = "/".join(filter(None, (said["resource"], said["subresource"])))
                found[f"{said['verb']} {what}"] += round(float(value))
            elif name == "apiserver_longrunning_requests" and said["verb"] == "WATCH":
                found["watches"] += round(float(value))
            elif name == "apiserver_current_inflight_requests":
                found["inflight"] += round(float(value))
        return found

    async def _metrics(self) -> str:
        async with self.administrator.get("/metrics") as answer:
            return await answer.text()

    def restart(self, down: float) -> None:
        """Kill the server and have it start again so many seconds later; return when it answers."""
        pid = self.pid("kube-apiserver")
        assert pid is not None
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        os.kill(pid, signal.SIGKILL)
        time.sleep(down)
        with (self.folder / "restarted.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.restarted.callback(process.wait, 60)
        self.restarted.callback(process.kill)
        apis.wait_until(lambda: self.run(self._answers()), seconds=120)

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.administrator.get("/readyz") as answer:
                return answer.ok
        return False


class Watching:
    """One more watch of all nodes, as schedulers, kubelets' neighbours and operators have."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.changes = 0
        self.size = 0

    async def run(self) -> None:
        """Follow until cancelled; what came is counted."""
        path = f"{rest_client.NODES.path()}?watch=true&resourceVersion=0"
        with contextlib.suppress(aiohttp.ClientError):
            async with self._cluster.administrator.get(path) as answer:
                async for line in answer.content:
                    self.changes += 1
                    self.size += len(line)


@contextlib.contextmanager
def prepared(folder: pathlib.Path) -> Iterator[Cluster]:
    """The tests' server with roles, policies, kinds and one cache."""
    with contextlib.ExitStack() as stack:
        restarted = stack.enter_context(contextlib.ExitStack())
        plane = stack.enter_context(control.joined(folder))
        loop = stack.enter_context(threads.running())
        administrator = loop.run(_session(plane))
        stack.callback(lambda: loop.run(administrator.close()))
        cluster = Cluster(plane, loop, folder, administrator, restarted)
        namespaces = rest_client.Resource(plural="namespaces")
        plane.api.create(namespaces, {"metadata": {"name": keys.NAMESPACE}})
        for document in rendering.together("runtimeclass"):
            if document["kind"] in _INSTALLED:
                _create(plane.api, document)
        body = {
            "apiVersion": keys.API_VERSION,
            "kind": keys.IMAGE_CACHE,
            "metadata": {"name": members.CACHE},
            "spec": {"images": ["registry.example/fleet:1"]},
        }
        plane.api.create(control.RESOURCE, body)
        yield cluster


async def _session(plane: control.Plane) -> aiohttp.ClientSession:
    tls: ssl.SSLContext | bool = plane.access.tls or True
    return aiohttp.ClientSession(
        plane.access.server,
        headers={"Authorization": plane.access.authorization},
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        read_bufsize=1 << 20,
    )


def _create(api: apis.Api, document: Mapping[str, Any]) -> None:
    group, _, version = document["apiVersion"].rpartition("/")
    kind = document["kind"].lower()
    plural = (
        f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}{'es' if kind.endswith('s') else 's'}"
    )
    resource = rest_client.Resource(group=group, version=version, plural=plural)
    namespace = document["metadata"].get("namespace", "")
    api.create(resource, dict(document), namespace=namespace)


def _node(name: str) -> dict[str, Any]:
    """A node as large as real ones are: most of it is the list of its images."""
    images = [
        {
            "names": [f"registry.example/team-{number}/app@sha256:{number:064}"],
            "sizeBytes": 100_000_000,
        }
        for number in range(_IMAGES)
    ]
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
    }
    conditions = [
        {"type": each, "status": "False", "reason": f"KubeletHas{each}", "message": "it is well"}
        for each in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    taint = {"key": "uimgacc.io/starting", "effect": "NoSchedule"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [taint]},
        "status": {"images": images, "conditions": conditions, "capacity": {"cpu": "8"}},
    }


def used(pids: list[int | None]) -> float:
    """Processor seconds of these processes so far."""
    return sum(processes.cpu_seconds(pid) for pid in pids if pid is not None)
