"""The controller: a thousand caches after a restart, and one build from object to Ready.

The server is the tests' (kmock, or a real kube-apiserver with KUBEBUILDER_ASSETS);
requests are counted by a proxy before it. Builders are processes, as in the tests.
"""

import contextlib
import dataclasses
import pathlib
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator

from agent.clients.kube import connection, rest_client
from agent.model import caches, images, records
from agent.store import layout
from agent.store.publish import writer
from benchmarks import processes
from benchmarks.store import made_up_images
from lab import processes as lab_processes
from lab.web import registries
from tests.control import builders
from tests.kube import apis, faults, servers, threads
from tests.manifests import crds

CACHES = 1000
BUILT = ("lab/gzip:1", "lab/layers2:1", "lab/odd:1", "lab/layers40:1", "lab/layers127:1")
"""Each has layers that those before it do not have: these must be fetched."""

RESOURCE = rest_client.Resource(group="uimgacc.io", plural="imagecaches")
_DEFINITIONS = rest_client.Resource(
    group="apiextensions.k8s.io", plural="customresourcedefinitions"
)
_SECONDS = 300.0


@dataclasses.dataclass
class Plane:
    """A cluster without nodes of its own, and a store."""

    folder: pathlib.Path
    access: connection.Access
    api: apis.Api
    proxy: faults.Proxy

    @property
    def requests(self) -> float:
        """Requests so far: of a real server by its own count, in which all clients are, itself
        included, else those that came through the proxy.
        """
        if not servers.is_real():
            return len(self.proxy.seen)
        request = urllib.request.Request(
            f"{self.access.server}/metrics", headers={"Authorization": self.access.authorization}
        )
        with urllib.request.urlopen(request, timeout=60, context=self.access.tls) as answer:
            return _sum(answer.read().decode(), "apiserver_request_total")

    @property
    def place(self) -> layout.Layout:
        """The store."""
        return layout.Layout(self.folder / "store")


@contextlib.contextmanager
def joined(folder: pathlib.Path) -> Iterator[Plane]:
    """A cluster with the kinds of image caches, and the pod of a controller."""
    folder.mkdir()
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(threads.running())
        access = stack.enter_context(servers.running(folder / "api", loop))
        api = apis.Api(access, folder)
        stack.callback(api.close)
        proxy = faults.Proxy(access, loop)
        proxy.start()
        stack.callback(proxy.stop)
        for group in crds.FILES:
            api.create(_DEFINITIONS, crds.definition(group))
        apis.wait_until(lambda: _served(api), seconds=60)
        api.node(labels={"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"})
        plane = Plane(folder, access, api, proxy)
        writer.create(plane.place.root)
        _pod(plane)
        yield plane


def _served(api: apis.Api) -> bool:
    with contextlib.suppress(apis.RefusedError):
        return bool(api.list(RESOURCE) is not None)
    return False


def _pod(plane: Plane) -> None:
    mount = {"name": "s", "mountPath": str(plane.place.root)}
    container = {"name": "controller", "image": "uimgacc:test", "volumeMounts": [mount]}
    body = {
        "metadata": {"name": "controller-0"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0},
            "containers": [container],
            "volumes": [{"name": "s", "hostPath": {"path": str(plane.place.root)}}],
        },
    }
    plane.api.create(rest_client.PODS, body, namespace=plane.api.namespace)


class Controller:
    """The controller under measurement; with `direct` it asks the server itself, not the proxy."""

    def __init__(self, plane: Plane, *, direct: bool = False) -> None:
        self._plane = plane
        self._server = "" if direct else plane.proxy.url
        self.port = lab_processes.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Controller":
        kubeconfig = self._plane.api.kubeconfig(server=self._server)
        command = [
            *(str(processes.COMMAND), "controller", f"--store={self._plane.place.root}"),
            *(f"--namespace={self._plane.api.namespace}", "--pod=controller-0"),
            *(f"--kubeconfig={kubeconfig}", f"--listen=127.0.0.1:{self.port}"),
        ]
        with (self._plane.folder / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def figure(self, name: str) -> float:
        """One of its metrics; 0 while it does not answer."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return _sum(text, name)

    def ready(self) -> float:
        """Caches that are Ready, by the controller's own count."""
        return self.figure('uimgacc_caches{phase="Ready"}')

    def steps(self) -> float:
        """Steps that were done without a failure."""
        return self.figure('uimgacc_reconcile_seconds_count{failed="false"}')


def _sum(text: str, name: str) -> float:
    """A metric, its labels named or not: then of all of them."""
    lines = rf"^{re.escape(name)}(?:{{.*}})? (\S+)$"
    return sum(map(float, re.findall(lines, text, re.MULTILINE)))


def run(folder: pathlib.Path, registry: registries.Registry) -> dict[str, float]:
    """The figures."""
    with joined(folder / "control") as plane:
        flat = _build(plane, registry)
        references = [f"registry.example.com/made/up:{number}" for number in range(CACHES)]
        for number, reference in enumerate(references):
            _cache(plane, f"made-{number}", reference)
        started, mark = time.monotonic(), len(plane.proxy.seen)
        with Controller(plane) as controller:
            apis.wait_until(lambda: _ready(plane) >= CACHES, seconds=_SECONDS)
            flat["control_adopt_s"] = time.monotonic() - started
            flat["control_adopt_requests"] = _requests(plane, mark)
            flat["control_adopt_cpu_s"] = processes.cpu_seconds(controller.pid)
            apis.wait_until(lambda: controller.steps() >= 2 * CACHES, seconds=_SECONDS)
            peaks = [processes.peak_mib(controller.pid)]
        started, mark = time.monotonic(), len(plane.proxy.seen)
        with Controller(plane) as controller:
            apis.wait_until(lambda: controller.steps() >= CACHES, seconds=_SECONDS)
            flat["control_restart_s"] = time.monotonic() - started
            flat["control_restart_requests"] = _requests(plane, mark)
            flat["control_restart_cpu_s"] = processes.cpu_seconds(controller.pid)
            peaks.append(processes.peak_mib(controller.pid))
            flat["control_rss_mib"] = max(peaks)
            flat["control_tree_pss_mib"] = processes.tree_pss_mib(controller.pid)
    return flat


def _requests(plane: Plane, mark: int) -> float:
    """Requests for each cache since a mark, watches and all else included."""
    return (len(plane.proxy.seen) - mark) / CACHES


def _cache(plane: Plane, name: str, reference: str) -> None:
    """An object whose cache is in the store already, as after a status that was lost."""
    named = str(images.parse_reference(reference))
    digest = f"sha256:{'1' * 64}"
    record = records.CacheRecord(
        id=caches.id_of_name(name),
        name=name,
        images=[records.CachedImage(ref=named, target=digest, size=1, layers=[digest])],
        size=1,
        capacity=20 << 30,
        created="2026-01-01T00:00:00Z",
    )
    image = made_up_images.record(images.parse_reference(reference), [digest], target=digest)
    writer.publish_image(plane.place, image)
    writer.publish_cache(plane.place, record)
    body = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": name},
        "spec": {"images": [reference], "imageCacheSize": 20},
    }
    plane.api.create(RESOURCE, body)


def _ready(plane: Plane) -> int:
    time.sleep(0.2)
    return sum(
        found.get("status", {}).get("phase") == "Ready" for found in plane.api.list(RESOURCE)
    )


def _build(plane: Plane, registry: registries.Registry) -> dict[str, float]:
    """Medians of some builds: from the object, and from its pod's start, to the first byte of a
    layer; from the end to Ready.
    """
    applied, first, last = [], [], []
    pods = plane.folder / "pods"
    pods.mkdir()
    with (
        builders.running(plane.api, plane.api.namespace, pods) as played,
        Controller(plane),
    ):
        for number, image in enumerate(BUILT):
            name = f"built-{number}"
            mark = registry.mark()
            created = time.monotonic()
            plane.api.create(RESOURCE, _manifest(name, registry, image))
            apis.wait_until(lambda at=number: len(played.started) > at, seconds=60)
            began = time.monotonic()
            apis.wait_until(lambda since=mark: registry.layer_gets(since), seconds=60)
            first.append(time.monotonic() - began)
            applied.append(time.monotonic() - created)
            path = plane.place.cache_record(caches.id_of_name(name))
            apis.wait_until(path.exists, seconds=120)
            ended = time.monotonic()
            apis.wait_until(lambda wanted=name: _phase(plane, wanted) == "Ready", seconds=60)
            last.append(time.monotonic() - ended)
        for number in range(len(BUILT)):
            plane.api.delete(RESOURCE, f"built-{number}")
    return {
        "control_applied_first_byte_s": sorted(applied)[len(BUILT) // 2],
        "control_first_byte_s": sorted(first)[len(BUILT) // 2],
        "control_first_byte_slowest_s": max(first),
        "control_ready_after_s": sorted(last)[len(BUILT) // 2],
        "control_ready_after_slowest_s": max(last),
    }


def _manifest(name: str, registry: registries.Registry, image: str) -> apis.Object:
    annotations = {"uimgacc.io/plain-http-registry": registry.address}
    return {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"images": [f"{registry.address}/{image}"], "imageCacheSize": 20},
    }


def _phase(plane: Plane, name: str) -> str:
    return str(plane.api.get(RESOURCE, name).get("status", {}).get("phase", ""))
