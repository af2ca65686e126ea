"""kill -9 of the agent before and after each of its steps: nothing is lost, nothing leaks.

All on one node, where all the while a container's files are read cold.
"""

import contextlib
import pathlib
import signal
import sys
from collections.abc import Iterator, Sequence

import pytest

from agent.model import digests
from agent.mounts import mountpoints
from agent.store import layout
from agent.store.lookup import direct_reader
from lab import processes
from lab.web import registries
from tests.containerd import cold
from tests.node import conftest, test_healing

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE = "lab/zstd:1"
CLIENT = "agent.clients.containerd.rpc:Client"
# Before a step is after the one before it: each state that a kill may leave is here once.
REGISTRATION = [
    # containerd is new to each of these agents: images are looked at again, and that is noted.
    (f"{CLIENT}.update_image", "after", 1),
    ("agent.kits.files:publish", "before", 1),
    (f"{CLIENT}.create_lease", "after", 1),
    (f"{CLIENT}.write", "after", 1),
    (f"{CLIENT}.prepare", "before", 1),
    (f"{CLIENT}.prepare", "after", 1),
    (f"{CLIENT}.create_image", "before", 1),
    (f"{CLIENT}.create_image", "after", 1),
    (f"{CLIENT}.delete_lease", "before", 1),
]
HEALING = [
    (f"{CLIENT}.remove", "after", 1),
    (f"{CLIENT}.label_blob", "after", 1),
    (f"{CLIENT}.prepare", "after", 1),
]


def name_of(value: object) -> str:
    """For the name of a test."""
    return str(value).rpartition(":")[2]


class Node(conftest.Node):
    """A node whose agent may be one that dies at a point."""

    def die(self, place: str, when: str, number: int) -> None:
        """Run an agent to its end at the given point. It takes containerd for a new one."""
        (self.folder / "agent" / "containerd.json").unlink(missing_ok=True)
        usual = self.agent.command
        _, *arguments = usual
        try:
            self.agent.command = [
                *(sys.executable, "-m", "tests.crashing", place, when, str(number)),
                *arguments,
            ]
            self.agent.start()
        finally:
            self.agent.command = usual
        assert self.agent.running is not None
        assert self.agent.running.wait(timeout=60) == -signal.SIGKILL, self.agent.said()

    def rows(self, *command: str) -> list[list[str]]:
        """A table of ctr, without its heading."""
        lines = self.containerd.ctr(*command, namespace="k8s.io").splitlines()
        return [line.split() for line in lines[1:]]

    def snapshots(self) -> set[str]:
        return {row[0] for row in self.rows("snapshots", "--snapshotter", "uimgacc", "ls")}

    def blobs(self) -> set[str]:
        return {row[0] for row in self.rows("content", "ls")}

    def end_leases(self) -> None:
        """End what a killed agent has left: each ends by itself in ten minutes."""
        leases = [row for row in self.rows("leases", "ls") if row[0].startswith("uimgacc-")]
        assert len(leases) <= 1
        for lease in leases:
            assert "containerd.io/gc.expire=" in lease[-1]
            self.containerd.ctr("leases", "rm", "--sync", lease[0], namespace="k8s.io")

    def mounted(self) -> list[str]:
        return sorted(processes.mounts_below(self.root / "layers"))

    def mountpoints(self, store: pathlib.Path, chain: Sequence[str]) -> set[str]:
        """Where the layers of a chain are to be mounted, each once."""
        reader, folder = direct_reader.Reader(layout.Layout(store)), str(self.root / "layers")
        found = [reader.chain(chain_id) for chain_id in chain]
        return {
            mountpoints.mountpoint(folder, digests.hex_of(each.diff_id)) for each in found if each
        }

    def has_all_of(self, image: str) -> bool:
        return self.has(image) and bool(self.status("pod").get("served"))

    def forget(self, image: str) -> None:
        """Remove an image with all that belonged to it."""
        for name in self.names_of(image):
            self.containerd.ctr("images", "rm", "--sync", name, namespace="k8s.io")

    def names_of(self, image: str) -> list[str]:
        target = registries.catalogue()[image]["manifest"]
        return [row[0] for row in self.rows("images", "ls") if target in row]

    def pid_of(self, container: str) -> int:
        return next(int(row[1]) for row in self.rows("tasks", "ls") if row[0] == container)


@pytest.fixture(scope="module")
def shared(session: pathlib.Path, registry, pristine) -> Iterator[Node]:
    """One node for all of it, without a registry, with a container that is read."""
    folder = session / "killed"
    with conftest.running(Node(folder, registry, pristine), registry) as node:
        node.warm_up()
        registry.stop()
        try:
            manifest = node.manifest("read", "lab/layers40:1")
            file = node.schedule(manifest)
            conftest.wait_until(lambda: node.has("lab/layers40:1"))
            file.unlink()
            with node.client.pod(manifest) as pod:
                node.agent.end()
                pid = node.pid_of(pod.containers[0].id)
                with cold.Reader(pid, pristine, folders=("/layers", "/bin")):
                    yield node
        finally:
            registry.start()


@contextlib.contextmanager
def scheduled(node: Node) -> Iterator[None]:
    """The pod whose image is to be made present; the usual agent is ended afterwards."""
    file = node.schedule(node.manifest("pod", IMAGE))
    try:
        yield
    finally:
        node.agent.end()
        file.unlink()


@pytest.mark.parametrize(("place", "when", "number"), REGISTRATION, ids=name_of)
def test_an_agent_killed_while_it_registers(shared, pristine, place, when, number) -> None:
    node, image = shared, registries.catalogue()[IMAGE]
    chain = digests.chain_ids(image["diff_ids"])
    snapshots, blobs, mounted = node.snapshots(), node.blobs(), set(node.mounted())
    with scheduled(node):
        node.die(place, when, number)
        node.start_agent()
        conftest.wait_until(lambda: node.has_all_of(IMAGE), seconds=60)
        assert "bin" in node.run(node.manifest("run", IMAGE), "ls", "/")

    # Not what the dead one's lease still holds, but what stays without it.
    node.end_leases()
    assert node.snapshots() == snapshots | {chain[-1]}
    assert node.blobs() == blobs | {image["manifest"], image["config"]}
    assert node.mounted() == sorted(mounted | node.mountpoints(pristine, chain))
    node.forget(IMAGE)
    conftest.wait_until(lambda: node.snapshots() == snapshots)
    assert node.blobs() == blobs


@pytest.mark.parametrize(("place", "when", "number"), HEALING, ids=name_of)
def test_an_agent_killed_while_it_heals(shared, place, when, number) -> None:
    node = shared
    with scheduled(node):
        node.start_agent()
        conftest.wait_until(lambda: node.has_all_of(IMAGE))
        node.agent.end()
        test_healing.lose_database(node)
        node.die(place, when, number)
        node.start_agent()
        conftest.wait_until(lambda: node.has_all_of(IMAGE), seconds=60)
        assert "bin" in node.run(node.manifest("run", IMAGE), "ls", "/")
        assert node.has("lab/layers40:1")
        assert "bin" in node.run(node.manifest("again", "lab/layers40:1"), "ls", "/")
    node.end_leases()
    node.forget(IMAGE)
