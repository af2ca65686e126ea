"""What a container sees is what containerd's own unpack would have given it."""

import os
import pathlib
import time

import pytest

from lab import places, processes
from tests.containerd import trees
from tests.node import conftest as nodes

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def pulled_tree(node, name: str, snapshotter: str, target: pathlib.Path) -> dict:
    target.mkdir()
    reference = node.reference(name)
    arguments = ("--snapshotter", snapshotter, "--plain-http", reference)
    node.containerd.ctr("images", "pull", *arguments)
    node.containerd.ctr("images", "mount", "--snapshotter", snapshotter, reference, target)
    try:
        return trees.describe(os.fsencode(target))
    finally:
        node.containerd.ctr("images", "unmount", target)


@pytest.mark.parametrize("name", ["lab/odd:1", "lab/zstd:1", "lab/layers127:1"])
def test_the_tree_of_a_pulled_image_is_that_of_the_ordinary_unpack(node2, folder, name) -> None:
    started = time.time_ns()
    mark = node2.registry.mark()
    ours = pulled_tree(node2, name, "uimgacc", folder / "ours")
    assert node2.registry.layer_gets(mark) == []
    theirs = pulled_tree(node2, name, "overlayfs", folder / "theirs")

    assert len(theirs) > 5
    assert trees.differences(theirs, ours, unpacked_after=started) == []


def container_tree(node, name: str, *, snapshotter: str, namespace: str) -> dict:
    """What a running container of an image that is there has as its root."""
    container = name.translate(str.maketrans("/:", "--"))
    arguments = ("run", "-d", "--snapshotter", snapshotter, node.reference(name), container)
    node.containerd.ctr(*arguments, namespace=namespace)
    tasks = node.containerd.state / "io.containerd.runtime.v2.task"
    found = trees.describe(os.fsencode(tasks / namespace / container / "rootfs"))
    node.containerd.ctr("tasks", "kill", "-s", "KILL", container, namespace=namespace)
    return found


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("1.7", ["lab/odd:1", "lab/layers40:1"]),
        *((each, ["lab/odd:1", "lab/layers127:1"]) for each in places.CONTAINERDS if each != "1.7"),
    ],
)
def test_a_container_of_an_image_made_present_has_the_tree_of_the_ordinary_unpack(
    version, names, folder, registry, pristine
) -> None:
    """What pods get from the agent: one snapshot has all layers, and containerd has no blob."""
    made = nodes.Node(folder / "n", registry, pristine, version=version)
    with nodes.running(made, registry) as node:
        started = time.time_ns()
        mark = registry.mark()
        for name in names:
            node.schedule(node.manifest(name.translate(str.maketrans("/:", "--")), name))
        for name in names:
            nodes.wait_until(lambda name=name: node.has(name), seconds=60)
            ours = container_tree(node, name, snapshotter="uimgacc", namespace="k8s.io")
            assert registry.layer_gets(mark) == []
            node.containerd.pull(node.reference(name), namespace="ordinary")
            theirs = container_tree(node, name, snapshotter="overlayfs", namespace="ordinary")
            mark = registry.mark()

            assert len(theirs) > 5
            assert trees.differences(theirs, ours, unpacked_after=started) == []


def test_what_the_builder_refuses_containerd_does_not_unpack_either(node2) -> None:
    for why, words in (
        ("sparse", "unhandled tar header type 83"),
        ("contiguous", "unhandled tar header type 55"),
        ("link", "no such file or directory"),
    ):
        with pytest.raises(processes.LabError, match=f"failed to extract layer.*{words}"):
            node2.containerd.pull(node2.reference(f"lab/refused-{why}:1"))
