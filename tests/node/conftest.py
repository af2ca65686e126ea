"""A whole node: snapshotter, agent and a real containerd, over a store by the real builder."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lab import services
from lab.runtime import cri, nodes
from tests import waiting
from tests.containerd import conftest as containerds

# Fixtures that the tests of containerd have, too.
session = containerds.session
registry = containerds.registry
pristine = containerds.pristine
folder = containerds.folder
version = containerds.version

SLEEP = ("/bin/sleep", "600")


class Node(nodes.Node):
    """A node as the lab has it, with what these tests ask of it."""

    client: cri.Client
    registry: services.Registry

    def reference(self, name: str) -> str:
        return f"{self.registry.address}/{name}"

    def manifest(
        self, pod: str, image: str, *, volumes: Sequence[str] = (), **more: Any
    ) -> dict[str, Any]:
        """A pod that asks for a cache, of an image of the lab.

        It has other images of the lab as `volumes`, at /volumes/0 and so on.
        """
        more.setdefault("annotations", {"uimgacc.io/image-cache": "auto"})
        more.setdefault("handler", "uimgacc")
        more.setdefault("command", SLEEP)
        manifest = cri.manifest(pod, self.reference(image), **more)
        manifest["spec"]["volumes"] = [
            {"name": f"v{number}", "image": {"reference": self.reference(each)}}
            for number, each in enumerate(volumes)
        ]
        manifest["spec"]["containers"][0]["volumeMounts"] = [
            {"name": f"v{number}", "mountPath": f"/volumes/{number}"}
            for number in range(len(volumes))
        ]
        return manifest

    def warm_up(self) -> None:
        """Have the sandbox's image pulled, so that the registry may be switched off."""
        with self.client.pod(self.manifest("warm", "lab/pause:1", command=("/bin/sleep", "1"))):
            pass

    def connect(self) -> None:
        """Connect to the CRI (again, after a restart of containerd)."""
        self.client = cri.Client(self.containerd.address, self.folder / "logs")

    def names(self) -> set[str]:
        """The names of all image records that the kubelet's namespace has."""
        return set(self.containerd.ctr("images", "ls", "-q", namespace="k8s.io").split())

    def has(self, image: str) -> bool:
        """Whether the kubelet would find an image of the lab present."""
        return self.client.image_status(self.reference(image)) is not None

    def status(self, pod: str) -> dict[str, Any]:
        """What /status says of a pod, {} before it is known."""
        pods = json.loads(self.get("/status"))["pods"]
        return next((found for found in pods if found["name"] == pod), {})

    def problems(self) -> dict[str, str]:
        """What /status says is wrong with the source of pods."""
        problems = json.loads(self.get("/status"))["manifest_problems"]
        assert isinstance(problems, dict)
        return problems

    def events(self) -> list[dict[str, Any]]:
        """The log of the agent."""
        lines = self.agent.errors.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def run(self, manifest: dict[str, Any], *command: str) -> str:
        """Run a pod for one command in its container, and return what that wrote."""
        with self.client.pod(manifest) as pod:
            code, output = self.client.execute(pod.containers[0], command)
            assert (code, pod.pulled) == (0, []), output
        return output


wait_until = waiting.wait_until


@contextlib.contextmanager
def running(node: Node, registry: services.Registry) -> Iterator[Node]:
    node.registry = registry
    with node:
        node.connect()
        try:
            yield node
        finally:
            node.client.close()


@pytest.fixture
def node(version: str, folder: pathlib.Path, registry, pristine) -> Iterator[Node]:
    """A node, once with each containerd."""
    with running(Node(folder / "n", registry, pristine, version=version), registry) as node:
        yield node


@pytest.fixture
def node2(folder: pathlib.Path, registry, pristine) -> Iterator[Node]:
    """A node with the newest containerd."""
    with running(Node(folder / "n", registry, pristine), registry) as node:
        yield node


@pytest.fixture
def offline(registry) -> Iterator[Callable[[], None]]:
    """Switches the registry off until the end of the test."""
    try:
        yield registry.stop
    finally:
        registry.stop()
        registry.start()
