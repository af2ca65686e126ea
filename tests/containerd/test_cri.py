"""Pulls and pods through the CRI, as the kubelet makes them, on containerd 1.7 and 2."""

import shutil

import pytest

from agent.store import layout
from lab.runtime import cri
from lab.web import registries
from tests.containerd import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]


@pytest.fixture
def node(version, folder, registry, store):
    """A node of either version, on a store that the test may damage."""
    yield from conftest.opened(conftest.Node(version, folder, registry, store))


@pytest.fixture
def client(node):
    with node.containerd.cri() as opened:
        yield opened


def pull(node, client, name: str) -> int:
    """Pull for a pod of our runtime handler; how many layer blobs were fetched."""
    mark = node.registry.mark()
    client.pull_image(node.reference(name), handler="uimgacc")
    return len(node.registry.layer_gets(mark))


def run(node, client, name: str) -> str:
    manifest = cri.manifest(
        "pod",
        node.reference(name),
        command=["sh", "-c", "ls /layers; echo done"],
        handler="uimgacc",
    )
    with client.pod(manifest) as pod:
        assert client.wait_for_exit(pod) == [0]
        return str(pod.output)


@pytest.mark.parametrize("name", ["lab/layers2:1", "lab/layers40:1", "lab/layers127:1"])
def test_a_stored_image_by_tag(node, client, name: str) -> None:
    assert pull(node, client, name) == 0
    assert "done" in run(node, client, name)


def test_a_stored_image_by_digest(node, client) -> None:
    name = f"lab/layers2@{registries.catalogue()['lab/layers2:1']['manifest']}"

    assert pull(node, client, name) == 0
    assert "done" in run(node, client, name)


def test_a_partial_hit(node, client, store) -> None:
    image = registries.catalogue()["lab/layers40:1"]
    for path in (layout.Layout(store).root / "meta" / "chains").rglob("*.json"):
        if image["diff_ids"][-1] in path.read_text():
            path.unlink()

    assert pull(node, client, "lab/layers40:1") == 1
    assert "done" in run(node, client, "lab/layers40:1")


def test_a_miss(node, client) -> None:
    assert pull(node, client, "lab/estargz:1") == 2


def test_a_damaged_record_and_a_store_that_is_gone(node, client, store) -> None:
    lowest = registries.catalogue()["lab/layers2:1"]["diff_ids"][0]
    layout.Layout(store).layer_record(lowest).write_text("{}")
    assert pull(node, client, "lab/layers2:1") == 2
    assert "done" in run(node, client, "lab/layers2:1")
    client.remove_image(node.reference("lab/layers2:1"))
    shutil.rmtree(store)

    # The sandbox of the pod has left the lowest layer here: the pause image stands on it, too.
    assert pull(node, client, "lab/layers40:1") >= 39
    assert "done" in run(node, client, "lab/layers40:1")


def test_the_file_system_of_images_is_one_that_the_kubelet_can_measure(node, client) -> None:
    assert client.image_file_systems()
