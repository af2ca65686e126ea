"""A node from the first pod to the last unmount, with the kernel's own ways to mount a layer.

One story in several tests: each goes on where the one before ended.
"""

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from agent.mounts import mountinfo
from agent.mounts.devices import loop_devices
from lab.runtime import nodes
from tests.guest.inside import conftest

pytestmark = pytest.mark.guest


def layers(node) -> list[mountinfo.Entry]:
    """The layers that are mounted, as the host sees them."""
    below = f"{node.root}/layers/"
    return [entry for entry in mountinfo.read() if entry.target.startswith(below)]


def files(node) -> list[str]:
    """The files behind them, as far as the kernel knows their paths."""
    return [mountinfo.backing_file(entry.source) for entry in layers(node)]


@pytest.fixture(scope="module", autouse=True)
def _told(node) -> Iterator[None]:
    """What agent and snapshotter said is in the output of a run that failed."""
    yield
    conftest.note(f"{node.agent.said(40)}\n{node.snapshotter.said(20)}")


class Reader(conftest.Reader):
    """A pod that leaves the machine's one processor to others most of the time."""

    SCRIPT = conftest.Reader.SCRIPT.replace("sleep 0.5", "sleep 20")


def run(client, node, name: str) -> str:
    """Run a pod that reads all of the image; what it said."""
    with client.pod(node.pod(name, conftest.STORED, conftest.READ_ALL)) as pod:
        assert client.wait_for_exit(pod, seconds=600) == [0], pod.output
        return pod.output


def test_a_pod_runs_from_the_store(node, client, registry) -> None:
    conftest.wait_until(node.capable)
    mark = registry.mark()
    node.schedule(node.pod("first", conftest.STORED, conftest.READ_ALL))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    run(client, node, "first")

    assert registry.layer_gets(mark) == []
    assert layers(node)
    # As local copies are on, which can be put behind these mounts.
    assert all(loop_devices.beneath(entry.source) for entry in layers(node))


def test_copies_and_a_restart_come_under_a_reader(node, client) -> None:
    """The mounts were made in a mount namespace that ends with the process, as a container's."""
    with Reader(node, client, "reader") as reader:
        before = [(entry.id_, entry.target) for entry in layers(node)]
        conftest.wait_until(lambda: all("/local/" in file for file in files(node)))
        reader.wait_for_more()
        node.snapshotter.end()
        node.start_snapshotter()
        conftest.wait_until(node.capable)

        run(client, node, "again")

        reader.wait_for_more()
        assert [(entry.id_, entry.target) for entry in layers(node)] == before


def test_the_store_s_files_are_taken_over_as_well(store, registry, tmp_path) -> None:
    """Without copies: the path of the store's file is not whole after the restart."""
    made = conftest.Node(tmp_path, registry)
    made.agent.environment = {**made.agent.environment, "UIMGACC_LOCAL": "off"}
    made.snapshotter.environment = {**made.snapshotter.environment, "UIMGACC_LOCAL": "off"}
    with made as node, conftest.cri.Client(node.containerd.address, tmp_path / "l") as client:
        node.warm()
        conftest.wait_until(node.capable)
        run(client, node, "first")
        before = [(entry.id_, entry.target) for entry in layers(node)]
        assert before
        node.snapshotter.end()
        conftest.note(f"{os.uname().release}: {files(node)}")
        node.start_snapshotter()
        conftest.wait_until(node.capable)

        run(client, node, "again")

        assert [(entry.id_, entry.target) for entry in layers(node)] == before
        client.remove_image(node.reference(conftest.STORED))
        conftest.wait_until(lambda: not layers(node))


def test_the_doctor_finds_the_node_well(node) -> None:
    command = [nodes.COMMAND, "doctor", "--store", node.place, "--root", node.root]
    command += ["--containerd", node.containerd.address, "--address", node.socket, "--json"]
    environment = {**os.environ, "UIMGACC_VERIFY": "always"}
    done = subprocess.run(
        [*map(str, command), "--deadline", "60"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    conftest.note(done.stdout)

    assert '"layers in use"' in done.stdout
    assert '"dm-verity"' in done.stdout


def test_the_last_use_gone_the_layers_are_unmounted(node, client) -> None:
    for file in node.pods.iterdir():
        file.unlink()
    client.remove_image(node.reference(conftest.STORED))

    conftest.wait_until(lambda: not layers(node))
    loops = pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
    conftest.wait_until(lambda: not [path for path in loops if ".erofs" in path.read_text()])
