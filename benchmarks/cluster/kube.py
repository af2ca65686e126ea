"""An agent in a cluster: from a pod's binding to its image, and what that costs the API server.

The server is the tests' (kmock, or a real kube-apiserver with KUBEBUILDER_ASSETS);
requests are counted by a proxy before it, which the agent reaches as a pod does.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator

from agent.clients.kube import rest_client
from benchmarks import processes, stages
from benchmarks.node import pods
from lab.runtime import cri, nodes
from tests.kube import apis, faults, servers, threads

RUNS = 11
PODS = 250
CHANGES_PER_SECOND = 20
BUSY_SECONDS = 30.0
IDLE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A node of a cluster, and what one does to its pods."""

    api: apis.Api
    name: str
    node: nodes.Node
    client: cri.Client

    def bind(self, name: str, reference: str) -> Callable[[], None]:
        """What a scheduler does with a pod that asks for a cache; what deletes the pod again."""
        manifest = pods.manifest(name, reference)
        manifest["metadata"] = {"name": name, "annotations": manifest["metadata"]["annotations"]}
        manifest["spec"] |= {"nodeName": self.name, "automountServiceAccountToken": False}
        self.api.create(rest_client.PODS, manifest, namespace=self.api.namespace)
        return functools.partial(self.api.delete_pod, name)

    def registration(self, reference: str) -> float:
        """Median milliseconds from the binding of a pod to the CRI's having its image."""
        return pods.registration(
            self.node, self.client, reference, lambda name: self.bind(name, reference), runs=RUNS
        )


@contextlib.contextmanager
def joined(stage: stages.Stage) -> Iterator[tuple[Cluster, faults.Proxy]]:
    """A node with its agent in a cluster."""
    folder = stage.folder / "kube"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(threads.running())
        access = stack.enter_context(servers.running(folder / "api", loop))
        api = apis.Api(access, folder)
        stack.callback(api.close)
        certified = faults.certificate(folder / "certificate")
        proxy = faults.Proxy(access, loop, certificate=certified)
        proxy.start()
        stack.callback(proxy.stop)
        account = faults.account(folder / "account", certified, proxy)
        name = api.node()
        api.runtime_class("uimgacc")
        node = stack.enter_context(
            nodes.Node(
                folder / "node",
                stage.registry,
                stage.store,
                source=("--kubernetes", name, "--service-account", account.folder),
                agent_environment=account.environment,
            )
        )
        client = stack.enter_context(cri.Client(node.containerd.address, folder / "logs"))
        yield Cluster(api, name, node, client), proxy


def run(stage: stages.Stage) -> dict[str, float]:
    """All figures of this module."""
    stages.drop_caches()
    own, others = (stage.reference(f"lab/layers{layers}:1") for layers in (2, 40))
    with joined(stage) as (cluster, proxy):
        flat = {"kube_register_ms": cluster.registration(own)}
        for index in range(PODS):
            cluster.bind(f"crowd-{index}", others)
        pods.wait_until_served(cluster.node, f"crowd-{PODS - 1}")
        flat |= busy(cluster, own)
        flat |= idle(cluster, proxy)
    return flat


def busy(cluster: Cluster, reference: str) -> dict[str, float]:
    """What CHANGES_PER_SECOND changes of PODS pods cost, and what they cost one more pod."""
    pid = cluster.node.agent.pid
    with changing(cluster) as made:
        before, started, first = processes.cpu_seconds(pid), time.monotonic(), made[0]
        time.sleep(BUSY_SECONDS)
        elapsed = time.monotonic() - started
        flat = {
            "kube_busy_changes_per_second": (made[0] - first) / elapsed,
            "kube_busy_cpu_percent": 100 * (processes.cpu_seconds(pid) - before) / elapsed,
        }
        return flat | {"kube_busy_register_ms": cluster.registration(reference)}


@contextlib.contextmanager
def changing(cluster: Cluster) -> Iterator[list[int]]:
    """Change pods for the time of the context; yields how often that was done, in a list."""
    stop, made = threading.Event(), [0]

    def change() -> None:
        started = time.monotonic()
        while not stop.wait(started + made[0] / CHANGES_PER_SECOND - time.monotonic()):
            _change(cluster, made[0])
            made[0] += 1

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writer = pool.submit(change)
        try:
            yield made
        finally:
            stop.set()
            writer.result()


def _change(cluster: Cluster, number: int) -> None:
    """As kubelets and people do: of twenty changes one is of an annotation that we look at."""
    name = f"crowd-{number % PODS}"
    if number % 20:
        ready = {"type": "Ready", "status": str(bool(number // PODS % 2)), "reason": "Bench"}
        cluster.api.pod_status(name, {"phase": "Running", "conditions": [ready]})
    else:
        wanted = "auto" if number // PODS % 2 else None
        body = {"metadata": {"annotations": {"uimgacc.io/image-cache": wanted}}}
        cluster.api.patch(rest_client.PODS, name, body, namespace=cluster.api.namespace)


def idle(cluster: Cluster, proxy: faults.Proxy) -> dict[str, float]:
    """Requests to the API server when nothing happens, and memory after all that has happened."""
    time.sleep(5)  # what was going on is done
    before, started = len(proxy.seen), time.monotonic()
    time.sleep(IDLE_SECONDS)
    minutes = (time.monotonic() - started) / 60
    pid = cluster.node.agent.pid
    return {
        "kube_idle_requests_per_minute": (len(proxy.seen) - before) / minutes,
        "kube_agent_rss_mib": processes.rss_mib(pid),
        "kube_agent_tree_pss_mib": processes.tree_pss_mib(pid),
    }
