"""Files behind mounts, also where the kernel does not know their whole paths any more."""

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.mounts import mount_users, mountinfo, syscalls
from agent.mounts.devices import layer_files, layer_mounting, loop_devices
from tests.unit.mounts import nodes

pytestmark = pytest.mark.root

ELSEWHERE = """
import sys
from agent.mounts import syscalls
from agent.mounts.devices import loop_devices

folder, volume, file, direct = sys.argv[1:]
syscalls.enter_private_namespace()
syscalls.mount(folder, volume, "none", 1 << 12)
with loop_devices.attached(f"{volume}/{file}", direct=bool(direct), far=False) as (device, _):
    print(device, flush=True)
    sys.stdin.read()
"""


KEEPS = """
import sys
from agent.mounts import syscalls

root, volume, layer = sys.argv[1:]
syscalls.enter_private_namespace()
syscalls.mount(root, volume, "none", 1 << 12 | 1 << 14)
syscalls.unmount(f"{root}/{layer}")
print("ready", flush=True)
sys.stdin.read()
"""
"""Keeps a copy of a root's mounts at another path only, as a container that sees the host does."""


@pytest.fixture
def node(tmp_path) -> Iterator[nodes.Node]:
    with contextlib.closing(nodes.Node(tmp_path)) as node:
        yield node


def mount_in_a_container(node: nodes.Node, folder: pathlib.Path, file: pathlib.Path) -> None:
    """Mount a file as a container does whose volume is `folder`, and which has ended since."""
    volume = folder.parent / "volume"
    volume.mkdir()
    arguments = [folder, volume, file.relative_to(folder), ""]
    command = [sys.executable, "-c", ELSEWHERE, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as container:
        assert container.stdout is not None
        device = container.stdout.readline().strip()
        syscalls.mount(device, str(node.target), "erofs", syscalls.MS_RDONLY)
        container.communicate("")


def test_a_file_is_known_where_its_path_is_not_whole(node) -> None:
    store = node.stored.parent.parent.parent
    mount_in_a_container(node, store, node.stored)
    (source,) = node.sources
    file = layer_files.read(source)

    assert file.path == f"/sha256/ab/{nodes.HEX}.erofs"
    assert file.is_at(str(node.stored))
    assert not file.is_copy(str(node.target))
    assert node.mount() == os.stat(node.target).st_dev
    assert len(node.sources) == 1
    assert not mount_users.with_copies(str(node.target.parent)).copied
    files = layer_files.mounted_files(str(node.target.parent))
    assert files == {source: (node.stored.stat().st_dev, False)}


def test_a_copy_is_known_where_its_path_is_not_whole(node) -> None:
    node.make_copy()
    mount_in_a_container(node, node.copy.parents[3], node.copy)
    file = layer_files.read(node.sources[0])

    assert file.path == f"/local/sha256/ab/{nodes.HEX}.erofs"
    assert file.is_copy(str(node.target))
    assert mount_users.with_copies(str(node.target.parent)).copied == {nodes.HEX[:16]}
    assert node.mount(layer_mounting.STORED) == os.stat(node.target).st_dev
    assert len(node.sources) == 1

    assert node.switch(node.stored) == 1
    assert mount_users.with_copies(str(node.target.parent)).copied == frozenset()


def test_a_layer_is_of_the_store_while_one_of_its_mounts_is(node) -> None:
    node.mount(layer_mounting.STORED)
    node.make_copy()
    with loop_devices.attached(str(node.copy), far=False) as (device, _):
        syscalls.mount(device, str(node.target), "erofs", syscalls.MS_RDONLY)

    assert mount_users.with_copies(str(node.target.parent)).copied == frozenset()


def test_an_old_mount_that_another_namespace_has_at_another_path_counts(node) -> None:
    node.mount(layer_mounting.STORED)
    root, volume = node.copy.parents[3], node.copy.parents[4] / "volume"
    volume.mkdir()
    command = [sys.executable, "-c", KEEPS, root, volume, node.target.relative_to(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "ready\n"
        syscalls.unmount(str(node.target))
        node.make_copy()
        node.mount()
        held = mount_users.with_copies(str(node.target.parent))
        container.communicate("")

    assert (held.mounted.keys(), held.copied) == ({nodes.HEX[:16]}, frozenset())
    assert mount_users.with_copies(str(node.target.parent)).copied == {nodes.HEX[:16]}


def test_the_same_layer_of_another_node_on_this_machine_does_not_count(node, tmp_path) -> None:
    """As a node in a container has it, or the node of another test."""
    node.make_copy()
    node.mount()
    with contextlib.closing(nodes.Node(tmp_path / "other")) as other:
        other.mount(layer_mounting.STORED)

        assert mount_users.with_copies(str(node.target.parent)).copied == {nodes.HEX[:16]}
        assert mount_users.with_copies(str(other.target.parent)).copied == frozenset()


def test_a_copy_that_was_removed_counts_as_a_file_of_the_store(node) -> None:
    """It may be: then nothing is deleted that is still read."""
    node.make_copy()
    node.mount()
    assert mount_users.with_copies(str(node.target.parent)).copied
    node.copy.unlink()

    assert mount_users.with_copies(str(node.target.parent)).copied == frozenset()


def entry(target: str, device: int) -> mountinfo.Entry:
    return mountinfo.Entry(device, "/", target, "nfs4", "server:/", "ro")


def test_a_path_that_is_not_whole_is_below_all_mounts_of_its_file_system() -> None:
    table = [entry("/", 1), entry("/s/1", 7), entry("/s/2", 8), entry("/s/3", 7)]

    file = layer_files.LayerFile("/sha256/ab/x.erofs", 7, 1)
    assert layer_files.places(file, table) == ["/s/1/sha256/ab/x.erofs", "/s/3/sha256/ab/x.erofs"]
    whole = file._replace(path="/s/3/sha256/ab/x.erofs")
    assert layer_files.places(whole, table) == [whole.path]
    without = layer_files.LayerFile("/s/2/x.erofs")
    assert layer_files.places(without, table) == ["/s/2/x.erofs"]
    gone = file._replace(device=9)
    assert layer_files.places(gone, table) == [gone.path]
