"""What a container sees is what containerd's own unpack would have given it."""

import os
import pathlib
import time

import pytest

from tests.containerd import trees

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def mounted_tree(node, name: str, snapshotter: str, target: pathlib.Path) -> dict:
    target.mkdir()
    reference = node.reference(name)
    arguments = ("--snapshotter", snapshotter, "--plain-http", reference)
    node.containerd.ctr("images", "pull", *arguments)
    node.containerd.ctr("images", "mount", "--snapshotter", snapshotter, reference, target)
    try:
        return trees.describe(os.fsencode(target))
    finally:
        node.containerd.ctr("images", "unmount", target)


@pytest.mark.parametrize("name", ["lab/odd:1", "lab/layers40:1", "lab/zstd:1", "lab/layers127:1"])
def test_the_tree_of_an_image_is_that_of_the_ordinary_unpack(node2, folder, name: str) -> None:
    started = time.time_ns()
    mark = node2.registry.mark()
    ours = mounted_tree(node2, name, "uimgacc", folder / "ours")
    assert node2.registry.layer_gets(mark) == []
    theirs = mounted_tree(node2, name, "overlayfs", folder / "theirs")

    assert len(theirs) > 5
    assert trees.differences(theirs, ours, unpacked_after=started) == []
