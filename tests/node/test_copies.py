"""A node that has started an image has its layers on its own disk a moment later."""

import pathlib
import signal
from collections.abc import Iterator

import pytest

from agent.local import copy_paths
from agent.model import digests, images
from agent.mounts import mountinfo
from agent.mounts.devices import loop_devices
from agent.store import layout
from agent.store.lookup import direct_reader
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

store = containerds.store

IMAGE = "lab/layers40:1"
READ_ALL = "find / -xdev -type f | sort | xargs md5sum | md5sum"


@pytest.fixture
def node(folder: pathlib.Path, registry, store: pathlib.Path) -> Iterator[conftest.Node]:
    """A node that copies at once, also on a disk that is nearly full; on a store of its own."""
    settings = {"UIMGACC_LOCAL": "before-start", "UIMGACC_LOCAL_FREE": "0"}
    made = conftest.Node(folder / "n", registry, store, agent_environment=settings)
    made.agent.command += ["--canary-seconds", "0.2"]
    made.snapshotter.command += ["--verify-seconds", "0.2"]
    with conftest.running(made, registry) as running:
        running.warm_up()
        yield running


def files(node: conftest.Node) -> list[pathlib.Path]:
    """The file that each mounted layer reads."""
    below = f"{node.root}/layers/"
    sources = [each.source for each in mountinfo.read() if each.target.startswith(below)]
    loops = [loop for source in sources for loop in loop_devices.beneath(source)]
    return [pathlib.Path(loop_devices.path_of(loop) or "") for loop in loops]


def is_independent(node: conftest.Node) -> bool:
    read = files(node)
    return bool(read) and all(path.is_relative_to(node.root / "local") for path in read)


def contents(node: conftest.Node, pod) -> str:
    code, output = node.client.execute(pod.containers[0], ["sh", "-c", READ_ALL])
    assert code == 0, output
    return output


def test_what_was_started_goes_on_without_the_store_and_through_all_restarts(node, store) -> None:
    manifest = node.manifest("pod", IMAGE)
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has(IMAGE))
    with node.client.pod(manifest) as pod:
        before = contents(node, pod)
        conftest.wait_until(lambda: is_independent(node), seconds=60)
        store.rename(store.with_name("away"))
        for process in (node.agent, node.snapshotter):
            process.end(signal.SIGKILL)
        node.start_snapshotter()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")

        assert contents(node, pod) == before
        store.with_name("away").rename(store)
        node.start_agent()
        assert is_independent(node)
        conftest.wait_until(lambda: node.metric("uimgacc_local_copies") == len(files(node)))
    assert node.metric("uimgacc_local_failures_total") == 0


def test_a_layer_with_wrong_bytes_is_pulled_and_what_runs_goes_on(node, store) -> None:
    """Nothing has been found by `store check`: the copy is the first to see all bytes."""
    place = layout.Layout(store)
    record = direct_reader.Reader(place).image(images.parse_reference(node.reference(IMAGE)))
    assert record is not None
    diff_id = record.platforms[0].layers[-1].diff_id
    # In the hash tree, which nothing reads here but the copy.
    with place.layer(diff_id).open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))
    manifest = node.manifest("pod", IMAGE)
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has(IMAGE))
    with node.client.pod(manifest) as running:
        before = contents(node, running)
        conftest.wait_until(lambda: not node.has(IMAGE), seconds=60)
        with node.client.pod(node.manifest("next", IMAGE)) as pod:
            assert pod.pulled == [node.reference(IMAGE)]
            assert contents(node, pod) == before
        assert contents(node, running) == before
    marks = copy_paths.of(str(node.root)).marks
    assert [path.name for path in pathlib.Path(marks).iterdir()] == [digests.hex_of(diff_id)]
