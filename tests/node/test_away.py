"""A node whose store hangs, after it has come to have copies of what it runs."""

import json
import pathlib
import signal
from collections.abc import Iterator

import pytest

from agent.mounts import mountinfo, syscalls
from tests.containerd import test_hanging_store
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.timeout(400)]

IMAGE, OTHER = "lab/layers2:1", "lab/estargz:1"
READ_ALL = ("sh", "-c", "find / -xdev -type f | sort | xargs sha256sum")


class Node(conftest.Node):
    """A node that copies at once, on a store that can be made to hang."""

    def __init__(self, folder: pathlib.Path, registry, store: pathlib.Path) -> None:
        environment = {
            "UIMGACC_LOCAL": "before-start",
            "UIMGACC_RETIRED_SECONDS": "0.5",
            # However full the disk of this machine is.
            "UIMGACC_LOCAL_FREE": "0",
        }
        super().__init__(folder, registry, store, agent_environment=environment)

    @property
    def reason(self) -> str:
        return json.loads(self.get("/status"))["node"]["reason"]

    def has_all(self) -> bool:
        """Whether everything that it runs, or has made ready, is its own."""
        store = self.metric('uimgacc_used_layer_bytes{source="store"}')
        local = self.metric('uimgacc_used_layer_bytes{source="local"}')
        return store == 0 < local and self.metric("uimgacc_local_images") >= 1

    def end(self) -> None:
        """The machine is switched off."""
        self.client.close()
        self.agent.end()
        self.containerd.close()
        self.snapshotter.end()
        for entry in reversed(mountinfo.read()):
            if entry.target.startswith(f"{self.root}/layers/"):
                syscalls.unmount(entry.target, syscalls.MNT_DETACH)

    def start(self) -> None:
        self.start_snapshotter()
        self.containerd.start()
        self.start_agent()
        self.connect()


@pytest.fixture
def hanging(folder, pristine) -> Iterator[test_hanging_store.Hanging]:
    served = test_hanging_store.Hanging(pristine, folder / "fuse")
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def node(folder, registry, hanging) -> Iterator[Node]:
    with conftest.running(Node(folder / "n", registry, hanging.path), registry) as node:
        yield node


def drop_caches() -> None:
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def test_a_node_outlives_its_store(node, hanging) -> None:
    node.warm_up()
    manifest = node.manifest("first", IMAGE)
    node.schedule(manifest)
    conftest.wait_until(lambda: node.status("first").get("served"))
    with node.client.pod(manifest) as pod:
        code, before = node.client.execute(pod.containers[0], READ_ALL)
        assert code == 0
        conftest.wait_until(node.has_all, seconds=180)

        hanging.stop()
        drop_caches()
        assert node.client.execute(pod.containers[0], READ_ALL) == (0, before)
        conftest.wait_until(lambda: "served locally" in node.reason)
        # Of an image that is here, and of one that is not.
        assert node.run(node.manifest("second", IMAGE), *READ_ALL) == before
        node.schedule(node.manifest("third", IMAGE))
        node.schedule(node.manifest("other", OTHER))
        conftest.wait_until(lambda: "served locally" in node.status("third").get("sentence", ""))
        conftest.wait_until(lambda: "no complete copy" in node.status("other").get("sentence", ""))

        for process in (node.agent, node.snapshotter):
            process.end(signal.SIGKILL)
        node.start_snapshotter()
        node.start_agent()
        assert node.run(node.manifest("fourth", IMAGE), *READ_ALL) == before

    node.end()
    drop_caches()
    node.start()
    assert node.run(node.manifest("fifth", IMAGE), *READ_ALL) == before
    conftest.wait_until(lambda: "served locally" in node.reason)

    hanging.go_on()
    conftest.wait_until(lambda: node.metric("uimgacc_node_capable") == 1)
    conftest.wait_until(lambda: node.status("other").get("served"))
