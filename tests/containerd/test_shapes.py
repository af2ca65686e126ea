"""What odd images are here is what they are to containerd: the same tree, or refused by both."""

import os
import pathlib
import time

import pytest

from agent import errors
from agent.store.publish import writer
from lab import processes, services
from lab.samples import pushing, shapes
from tests.containerd import conftest, trees

pytestmark = [pytest.mark.root, pytest.mark.containerd]

TREES = {**shapes.trees(), "bottom-removing": [shapes.bottom_removing()]}


@pytest.fixture(scope="session")
def pushed(session: pathlib.Path):
    """A registry with an image of each shape."""
    folder = session / "shapes"
    (folder / "storage").mkdir(parents=True)
    with services.Registry(folder, storage=folder / "storage") as registry:
        pusher = pushing.Pusher(registry.address)
        for name, layers in {**TREES, **shapes.refused()}.items():
            pusher.image(f"shape/{name}", "1", [pushing.layer(entries) for entries in layers])
        pusher.close()
        yield registry


@pytest.fixture(scope="session")
def stocked(session: pathlib.Path, pushed) -> pathlib.Path:
    """A store with the shapes that are not to be refused."""
    root = session / "shapes-store"
    root.mkdir()
    writer.create(root)
    conftest.build(root, pushed, [f"shape/{name}:1" for name in TREES])
    return root


@pytest.fixture
def shaped(version, folder, pushed, stocked):
    """A node of each containerd on that store."""
    yield from conftest.opened(conftest.Node(version, folder, pushed, stocked))


def pulled_tree(node: conftest.Node, name: str, snapshotter: str, target: pathlib.Path) -> dict:
    target.mkdir()
    node.containerd.pull(node.reference(name), snapshotter=snapshotter)
    mount = ("images", "mount", "--snapshotter", snapshotter, node.reference(name), target)
    node.containerd.ctr(*mount)
    try:
        return trees.describe(os.fsencode(target))
    finally:
        node.containerd.ctr("images", "unmount", target)


def test_the_trees_of_odd_images_are_those_of_containerd(shaped, folder) -> None:
    started = time.time_ns()
    faults = []
    for name, image in TREES.items():
        mark = shaped.registry.mark()
        layers = {pushing.layer(entries).digest for entries in image}
        stored = pulled_tree(shaped, f"shape/{name}:1", "uimgacc", folder / f"{name}-stored")
        # The `ctr` of 1.7 fetches a layer beside asking whether there is a snapshot of it.
        fetched = {get.reference for get in shaped.registry.blob_gets(mark)} & layers
        assert shaped.containerd.version == "1.7" or fetched == set()
        right = pulled_tree(shaped, f"shape/{name}:1", "overlayfs", folder / f"{name}-right")
        lines = trees.differences(right, stored, unpacked_after=started)
        faults += [f"{name}: {line}" for line in lines]

    assert faults == []


def test_what_containerd_refuses_is_refused(shaped, tmp_path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    writer.create(store)
    for name in shapes.refused():
        with pytest.raises(processes.LabError, match="failed to extract layer"):
            shaped.containerd.pull(shaped.reference(f"shape/{name}:1"))
        with pytest.raises(errors.PermanentError, match="cannot be unpacked"):
            conftest.build(store, shaped.registry, [f"shape/{name}:1"])
