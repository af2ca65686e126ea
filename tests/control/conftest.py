"""A control plane: API server, the controller as a process, Jobs as processes, a registry."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import connection, rest_client
from agent.control.caches import cache_object
from agent.control.reconcile import cluster
from agent.store import layout
from agent.store.lookup import direct_reader
from lab import places, processes, services
from lab.web import registries
from tests import waiting
from tests.control import builders
from tests.kube import apis
from tests.kube.conftest import api, api_access, api_loop, proxy
from tests.manifests import crds

__all__ = ["api", "api_access", "api_loop", "proxy"]

USER = 65532
DEFINITIONS = rest_client.Resource(group="apiextensions.k8s.io", plural="customresourcedefinitions")
POD = "controller-0"


@pytest.fixture(scope="session")
def kinds(api_access: connection.Access, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kinds of image caches are installed."""
    admin = apis.Api(api_access, tmp_path_factory.mktemp("kinds"))
    with contextlib.suppress(apis.RefusedError):
        admin.create(DEFINITIONS, crds.policy_definition())
    for group in crds.FILES:
        with contextlib.suppress(apis.RefusedError):
            admin.create(DEFINITIONS, crds.definition(group))
        apis.wait_until(lambda group=group: served(admin, group), seconds=60)


def served(admin: apis.Api, group: str) -> bool:
    try:
        admin.list(rest_client.Resource(group=group, plural="imagecaches"))
    except apis.RefusedError:
        return False
    return True


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that the builders' user may enter."""
    with tempfile.TemporaryDirectory(prefix="uimgacc-control-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path


class Controller:
    """The controller as a process of its own."""

    def __init__(self, plane: "Plane", name: str, prefix: list[str], more: list[str]) -> None:
        self.log = plane.folder / f"{name}.log"
        self._command = [
            *processes.as_user(USER),
            *prefix,
            "controller",
            f"--store={plane.store.root}",
            f"--namespace={plane.api.namespace}",
            f"--pod={name}",
            f"--kubeconfig={plane.kubeconfig}",
            "--listen=127.0.0.1:0",
            *more,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=places.CHECKOUT,
                env={**os.environ, "PYTHONPATH": str(places.CHECKOUT)},
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once, if it runs, with its workers: they might go on writing to the store."""
        if self.process is None or self.process.poll() is not None:
            return
        workers = processes.children(self.process.pid)
        self.stop(signal.SIGKILL)
        for worker in workers:
            processes.kill(worker)

    def ended_at_start(self) -> str:
        """Its output if it ended before it logged anything, as where Python cannot import it."""
        if self.process is None or self.process.poll() is None or self.lines():
            return ""
        status = self.process.returncode
        return f"{self.log.stem} ended at its start ({status}):\n{self.log.read_text()[-4000:]}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]


class Plane:
    """All of it together; everything is at hand for a test."""

    def __init__(self, api: apis.Api, folder: pathlib.Path, server: services.Registry) -> None:
        self.api = api
        self.folder = folder
        self.server = server
        self.kubeconfig = api.kubeconfig()
        shutil.copy(self.kubeconfig, folder / "kubeconfig")
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.chmod(0o644)
        self.store = layout.Layout(folder / "store")
        self.store.root.mkdir()
        shutil.chown(self.store.root, USER, USER)
        (folder / "pods").mkdir(mode=0o755)
        self.builders = builders.Builders(api, api.namespace, folder / "pods")
        self.made: list[tuple[rest_client.Resource, str]] = []
        self.controllers: list[Controller] = []
        api.node(labels={"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"})
        self.pod(POD)

    def pod(self, name: str) -> None:
        """The pod that a controller believes to be in."""
        spec = {
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "controller",
                    "image": "uimgacc:test",
                    "volumeMounts": [{"name": "s", "mountPath": str(self.store.root)}],
                }
            ],
            "volumes": [{"name": "s", "hostPath": {"path": str(self.store.root)}}],
        }
        body = {"metadata": {"name": name}, "spec": spec}
        self.api.create(rest_client.PODS, body, namespace=self.api.namespace)

    def controller(
        self, *more: str, name: str = POD, prefix: list[str] | None = None, start: bool = True
    ) -> Controller:
        """A controller, impatient enough for tests."""
        quick = ["--settle-seconds=0.5", "--collect-seconds=0.5", "--stop-seconds=30"]
        quick.append(f"--registry-allow={self.server.address}")
        made = Controller(self, name, prefix or list(builders.COMMAND), [*quick, *more])
        self.controllers.append(made)
        if start:
            made.start()
        return made

    def apply(
        self, name: str, *images: str, group: str = "uimgacc.io", **more: Any
    ) -> cache_object.Key:
        """An ImageCache of images of the registry."""
        resource = rest_client.Resource(group=group, plural="imagecaches")
        annotations = {"uimgacc.io/plain-http-registry": self.server.address}
        annotations |= more.pop("annotations", {})
        body = {
            "apiVersion": f"{group}/v1",
            "kind": "ImageCache",
            "metadata": {
                "name": name,
                "annotations": annotations,
                "labels": more.pop("labels", {}),
            },
            "spec": {"images": [f"{self.server.address}/{image}" for image in images], **more},
        }
        self.made.append((resource, name))
        self.api.create(resource, body)
        return cache_object.Key(group, name)

    def get(self, key: cache_object.Key) -> apis.Object:
        return self.api.get(cluster.resource_of(key), key.name)

    def status(self, key: cache_object.Key) -> apis.Object:
        return dict(self.get(key).get("status", {}))

    def phase(self, key: cache_object.Key) -> str:
        status = self.status(key)
        return str(status.get("phase") or status.get("imcPhase") or "")

    def wait(self, key: cache_object.Key, *phases: str, seconds: float = 60) -> apis.Object:
        """The status with which it was first seen in one of these phases."""
        found: apis.Object = {}

        def arrived() -> bool:
            found.clear()
            found.update(self.status(key))
            return (found.get("phase") or found.get("imcPhase") or "") in phases

        try:
            apis.wait_until(arrived, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{found}\n{self.said()}") from None
        return found

    def gone(self, key: cache_object.Key) -> bool:
        try:
            self.get(key)
        except apis.RefusedError as error:
            return error.status == 404
        return False

    def end_claims(self) -> None:
        """What a build has just counted on is kept for ten minutes: not here.

        They have ended when the collector has seen so; what it began before, it began with them.
        """

        def left() -> list[pathlib.Path]:
            return list(self.store.claims.glob("[!.]*.json"))

        for claim in left():
            os.utime(claim, (0, 0))
        apis.wait_until(lambda: not left(), seconds=60)

    def said(self) -> str:
        logs = [made.log.read_text()[-4000:] for made in self.controllers if made.log.exists()]
        logs += [pod.log.read_text()[-1000:] for pod in self.builders.pods.values()]
        return "\n".join(logs)

    @property
    def reader(self) -> direct_reader.Reader:
        return direct_reader.Reader(self.store)

    def events(self, key: cache_object.Key) -> list[str]:
        uid_events = self.api.list(rest_client.EVENTS, namespace="default")
        # A real server has events of its own, some about nothing that has a name.
        found = [each for each in uid_events if each["involvedObject"].get("name") == key.name]
        return [each["reason"] for each in found]

    def ended_at_start(self) -> str:
        """The output of a helper process that ended at its start, "" if there is none."""
        reasons = [made.ended_at_start() for made in self.controllers]
        return next(filter(None, [*reasons, self.builders.ended_at_start]), "")

    def close(self) -> None:
        for made in self.controllers:
            made.kill()
        self.builders.stop()
        for resource, name in self.made:
            with contextlib.suppress(apis.RefusedError):
                self.api.patch(resource, name, {"metadata": {"finalizers": None}})
            self.api.delete(resource, name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Registry]:
    """The lab's registry."""
    if not registries.catalogue():
        pytest.skip("needs the lab's images: run lab/setup")
    with services.Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def plane(
    api: apis.Api, kinds: None, folder: pathlib.Path, server: services.Registry
) -> Iterator[Plane]:
    """A control plane in which no controller runs yet."""
    if os.geteuid() != 0:
        pytest.skip("builders are run as another user")
    made = Plane(api, folder, server)
    made.builders.start()
    try:
        with waiting.failing_on(made.ended_at_start):
            yield made
    finally:
        made.close()
