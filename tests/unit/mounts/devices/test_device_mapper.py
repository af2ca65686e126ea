"""What the kernel is asked for; that it does it is tested in a guest (tests/guest)."""

import os
import struct

import pytest

from agent.mounts.devices import device_mapper

ROOT, SALT = "ab" * 32, "cd" * 32
DATA, OTHER = os.makedev(7, 3), os.makedev(7, 300)


def test_a_tree_in_the_layer_file_begins_behind_its_superblock() -> None:
    """`offset` is where the superblock is; the target wants the block where the tree begins."""
    tree = (ROOT, SALT, 25, 25 * 4096, "")

    assert device_mapper.table(tree, DATA, DATA) == (
        f"1 7:3 7:3 4096 4096 25 26 sha256 {ROOT} {SALT}"
    )


def test_a_tree_of_its_own_begins_behind_its_superblock() -> None:
    tree = (ROOT, SALT, 25, 0, "/store/a.erofs.verity")

    assert device_mapper.table(tree, DATA, OTHER) == (
        f"1 7:3 7:300 4096 4096 25 1 sha256 {ROOT} {SALT}"
    )


def test_a_device_is_named_after_its_layer_and_store_as_far_as_there_is_room() -> None:
    layer = f"/var/lib/uimgacc/store.mounts/nfs-1/sha256/ab/{ROOT}.erofs"
    name, uuid = device_mapper.names(layer, DATA)

    assert ROOT in name
    assert "store.mounts!nfs-1" in uuid
    assert (len(name) <= 127, len(uuid) <= 128) == (True, True)
    long = device_mapper.names(f"/{'long' * 50}/sha256/ab/{ROOT}.erofs", DATA)
    assert [len(each) for each in long] == [len(name), 128]


def test_two_devices_for_one_layer_have_different_names() -> None:
    """The same layer from another mount of the store is mounted over the first one."""
    layer = f"/store/sha256/ab/{ROOT}.erofs"
    first, second = device_mapper.names(layer, DATA), device_mapper.names(layer, OTHER)

    assert first[0] != second[0]
    assert first[1] != second[1]


class Kernel:
    """Answers ioctls as dm-ioctl.c does: with `statuses` by device, in a buffer of limited room."""

    def __init__(self, statuses: dict[int, bytes], *, room: int = 0) -> None:
        self.statuses = statuses
        self.room = room
        self.calls = 0

    def ioctl(self, control: int, request: int, buffer: bytearray) -> int:
        self.calls += 1
        device = struct.unpack_from("<Q", buffer, 40)[0]
        answer = bytes(40) + self.statuses[device] + b"\0"
        if len(buffer) < self.room:
            struct.pack_into("<I", buffer, 28, 1 << 8)
            return 0
        buffer[312 : 312 + len(answer)] = answer
        struct.pack_into("<I", buffer, 12, 312 + len(answer))
        return 0


@pytest.fixture
def control(monkeypatch):
    monkeypatch.setattr(device_mapper, "_CONTROL", "/dev/null")
    return monkeypatch


def test_the_devices_that_have_seen_wrong_bytes_are_named(control) -> None:
    # Later kernels say more behind the letter.
    control.setattr(device_mapper, "fcntl", Kernel({DATA: b"V", OTHER: b"C -"}))

    assert device_mapper.corrupt([DATA, OTHER]) == [OTHER]


def test_the_root_hash_is_read_from_a_devices_table(control) -> None:
    table = device_mapper.table((ROOT, SALT, 25, 0, ""), DATA, DATA).encode()
    control.setattr(device_mapper, "fcntl", Kernel({DATA: table}))

    assert device_mapper.root_hash(DATA) == ROOT


def test_an_answer_that_does_not_fit_is_asked_for_again(control) -> None:
    kernel = Kernel({DATA: b"C"}, room=1 << 17)
    control.setattr(device_mapper, "fcntl", kernel)

    assert device_mapper.corrupt([DATA]) == [DATA]
    assert kernel.calls > 1
