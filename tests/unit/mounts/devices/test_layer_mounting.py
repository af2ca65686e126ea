"""Layers on loop devices, and files that are put behind them while they are mounted."""

import contextlib
import errno
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from agent.mounts import syscalls
from agent.mounts.devices import layer_mounting, loop_devices
from agent.mounts.pages import page_cache
from tests import waiting
from tests.unit.mounts import nodes

pytestmark = pytest.mark.root


@pytest.fixture
def node(tmp_path) -> Iterator[nodes.Node]:
    with contextlib.closing(nodes.Node(tmp_path)) as node:
        yield node


def test_a_layer_of_the_store_is_read_through_the_cache_of_its_file(node) -> None:
    device = node.mount()

    assert node.target.stat().st_dev == device
    assert node.reads(node.stored)
    assert (node.target / "file").read_bytes() == nodes.CONTENT


def test_a_layer_with_a_copy_is_mounted_from_it_without_the_store_being_asked(node) -> None:
    node.make_copy()
    node.stored.unlink()
    node.mount()

    assert node.reads(node.copy)
    assert (node.target / "file").read_bytes() == nodes.CONTENT


@pytest.mark.parametrize("way", [layer_mounting.STORED, layer_mounting.FILE])
def test_without_loop_devices_the_file_itself_is_mounted_where_the_kernel_can(node, way) -> None:
    node.make_copy()
    node.mount(way)

    file = node.stored if way == layer_mounting.STORED else node.copy
    if nodes.FILE_BACKED:
        assert node.sources == [str(file)]
    else:
        assert loop_devices.path_of(node.loop) == str(file)
    assert (node.target / "file").read_bytes() == nodes.CONTENT


@pytest.mark.parametrize("way", [layer_mounting.FILE, layer_mounting.LOOP])
def test_what_a_mount_reads_is_seen_in_its_file(node, way) -> None:
    """What start profiles are made of (agent.node.starts)."""
    with node.stored.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    node.mount(way)
    ((_, before),) = page_cache.units_in_memory([str(node.stored)])
    if before == b"\x7f":
        pytest.skip("the file system keeps its files in memory")

    assert (node.target / "file").read_bytes() == nodes.CONTENT

    ((_, after),) = page_cache.units_in_memory([str(node.stored)])
    (unused,) = page_cache.units_unused([str(node.stored)])
    assert (after, unused) == (b"\x7f", b"\0")


def test_a_copy_of_another_size_is_left_alone(node) -> None:
    node.make_copy()
    os.truncate(node.copy, node.size - 4096)
    node.mount()

    assert node.reads(node.stored)


def test_a_mount_is_taken_that_is_there(node) -> None:
    first = node.mount()

    assert node.mount() == first
    assert node.mount(layer_mounting.STORED) == first
    assert len(node.sources) == 1


def test_a_mount_is_switched_to_a_copy_that_has_come(node) -> None:
    first = node.mount()
    node.make_copy()

    assert node.mount() == first
    assert node.reads(node.copy)
    assert len(node.sources) == 1


def test_a_copy_is_mounted_over_a_file_whose_reads_hang(node, monkeypatch) -> None:
    node.mount()
    node.make_copy()
    monkeypatch.setattr(loop_devices, "_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(loop_devices, "_reads", lambda _: (7, 1))
    node.mount()

    assert len(node.sources) == 2
    assert node.reads(node.copy)


def test_a_mount_from_a_copy_is_taken_without_the_store_being_asked(node) -> None:
    node.make_copy()
    first = node.mount()
    node.stored.unlink()

    for way in (layer_mounting.STORED, layer_mounting.FILE, layer_mounting.LOOP):
        assert node.mount(way) == first


def test_a_layer_is_switched_there_and_back_under_a_reader(node) -> None:
    node.mount()
    node.make_copy()
    with (node.target / "file").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for file_ in [node.copy, node.stored] * 5:
            assert node.switch(file_) == 1
            assert node.reads(file_)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)

            assert file.read() == nodes.CONTENT == mapped[:]
            assert node.switch(file_) == 0
        mapped.close()


def test_what_is_on_no_disk_of_the_machine_is_read_further_ahead(node) -> None:
    """As a server's files are not; those of a tmpfs are not either."""
    node.mount()
    node.make_copy()
    read_ahead = pathlib.Path(f"/sys/block/{node.loop}/queue/read_ahead_kb")
    kib = [int(read_ahead.read_text())]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        elsewhere = pathlib.Path(shutil.copy(node.stored, folder))
        for file in (node.copy, elsewhere, node.stored):
            node.switch(file)
            kib.append(int(read_ahead.read_text()))

    assert kib == [128, 128, loop_devices.FAR_KIB, 128]


def test_after_the_switch_the_file_of_the_store_is_not_needed(node) -> None:
    node.mount()
    node.make_copy()
    node.switch(node.copy)
    os.truncate(node.stored, 0)

    assert (node.target / "file").read_bytes() == nodes.CONTENT


@pytest.mark.parametrize(
    ("number", "prepare"),
    [
        (errno.ENOENT, lambda node: node.copy.unlink()),
        (errno.ENOENT, lambda node: syscalls.unmount(str(node.target))),
        (errno.EUCLEAN, lambda node: os.truncate(node.copy, node.size - 4096)),
        (errno.EUCLEAN, lambda node: node.copy.write_bytes(bytes(node.size))),
    ],
)
def test_what_cannot_be_switched_stays_as_it_is(node, number, prepare) -> None:
    node.mount()
    node.make_copy()
    prepare(node)

    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
        node.switch(node.copy)

    assert caught.value.errno == number


@pytest.mark.skipif(not nodes.FILE_BACKED, reason="this kernel mounts through loop devices only")
def test_a_layer_without_a_loop_device_cannot_be_switched(node) -> None:
    node.mount(layer_mounting.FILE)
    node.make_copy()

    with pytest.raises(OSError, match="without a loop device") as caught:
        node.switch(node.copy)

    assert caught.value.errno == errno.ENOTBLK


def test_another_layer_is_not_put_behind_a_mount(node) -> None:
    node.mount()
    node.make_copy()
    other = node.copy.rename(node.copy.with_name(f"ab{'1' * 62}.erofs"))

    with pytest.raises(OSError, match="is behind loop") as caught:
        node.switch(other)

    assert caught.value.errno == errno.EBUSY


KILLED = """
import os, signal, sys
from agent.mounts import syscalls
from agent.mounts.devices import layer_mounting, loop_devices
from agent.mounts.pages import page_cache

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(function, when):
    def replaced(*arguments):
        result = function(*arguments)
        return die() if when(*arguments) else result
    return replaced

source, target, size, point = sys.argv[1:]
if point == "mount":
    syscalls.mount = die
elif point == "mounted":
    syscalls.mount = die_after(syscalls.mount, lambda *_: True)
else:
    number = getattr(loop_devices, point)
    loop_devices.fcntl.ioctl = die_after(
        loop_devices.fcntl.ioctl, lambda _, request, *more: request == number
    )
if point == "_CHANGE_FD":
    layer_mounting.switch_layer(target, source, int(size))
else:
    layer_mounting.mount_layer(source, target, int(size), None, layer_mounting.LOOP)
"""


def kill_at(point: str, node: nodes.Node, source: pathlib.Path) -> None:
    arguments = [str(source), str(node.target), str(node.size), point]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments])
    assert done.returncode == -signal.SIGKILL


def loops_on(node: nodes.Node) -> list[str]:
    devices = pathlib.Path("/sys/block").glob("loop*")
    paths = {device.name: loop_devices.path_of(device.name) for device in devices}
    return [name for name, path in paths.items() if path in (str(node.stored), str(node.copy))]


@pytest.mark.parametrize("point", ["_CTL_GET_FREE", "_CONFIGURE", "mount"])
def test_a_process_that_is_killed_leaves_no_loop_device(node, point) -> None:
    kill_at(point, node, node.stored)

    assert node.sources == []
    assert waiting.wait_until(lambda: loops_on(node) == []) is not None
    node.mount()
    assert (node.target / "file").read_bytes() == nodes.CONTENT


def test_a_mount_outlives_its_process_and_its_device_goes_with_it(node) -> None:
    kill_at("mounted", node, node.stored)
    assert node.mount() == node.target.stat().st_dev
    assert len(node.sources) == len(loops_on(node)) == 1

    layer_mounting.unmount_layer(str(node.target))
    waiting.wait_until(lambda: loops_on(node) == [])


def test_a_switch_that_was_cut_off_is_completed_by_the_next(node) -> None:
    node.mount()
    node.make_copy()
    kill_at("_CHANGE_FD", node, node.copy)
    assert node.reads(node.copy)

    assert node.switch(node.copy) == 0
    assert node.reads(node.copy)


def test_unused_devices_are_made_ahead() -> None:
    devices = [path.name for path in pathlib.Path("/sys/block").glob("loop*")]
    unused = sum(loop_devices.path_of(name) is None for name in devices)

    # Other tests of this machine may free some meanwhile.
    assert loop_devices.make_spare(unused + 16) > 0
    assert loop_devices.make_spare(1) == 0
