"""dm-verity devices, by the ioctls of /dev/mapper/control (linux/dm-ioctl.h).

Each verified layer is mounted from a device of its own. The kernel checks each block that is
read from the store against the hash tree, and answers EIO where they differ. A device is marked
for removal as soon as it is open: the kernel removes it with its last user, as it does with
loop devices. A process that is killed before that leaves a device that nothing uses;
`remove_unused` removes those.

Standard library only: it runs in children without site-packages.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from agent.mounts.devices import control_files

_CONTROL = "/dev/mapper/control"
_CONTROL_NUMBER = os.makedev(10, 236)
_PREFIX = "uimgacc-"
_SUFFIX = ".erofs"
_SLASH = "!"
"""Stands for "/" in the names of devices, as the kernel has it."""
_NAME_ROOM, _UUID_ROOM = 127, 128

# struct dm_ioctl: version (3), data_size, data_start, target_count, open_count, flags, event_nr,
# padding, dev, name, uuid, data; then what belongs to the command.
_HEAD = struct.Struct("<3I3Ii2I4xQ128s129s7x")
# struct dm_target_spec: sector_start, length, status, next, target_type.
_TARGET = struct.Struct("<QQiI16s")
# struct dm_name_list: dev, next; then the name.
_NAME = struct.Struct("<QI")
_VERSION = (4, 0, 0)

_REMOVE, _LIST, _CREATE, _RESUME = 4, 2, 3, 6
_LOAD, _STATUS, _TARGET_VERSION = 9, 12, 17
_READ_ONLY = 1 << 0
_STATUS_TABLE = 1 << 4
_BUFFER_FULL = 1 << 8
_DEFERRED_REMOVE = 1 << 17

_ROOM = 16 << 10
_MOST_ROOM = 4 << 20
_SECTOR = 512
_BLOCK = 4096
_ROOT_HASH_FIELD = 8

Tree = tuple[str, str, int, int, str]
"""What is needed of a layer's hash tree: root hash, salt, blocks of data, where the tree begins
in the layer file, and the file that it is in if that is another one, else ""."""


def table(tree: Tree, data: int, hashes: int) -> str:
    """The parameters of the target, for devices by their numbers (the kernel's verity.rst)."""
    root_hash, salt, blocks, offset, _ = tree
    # The superblock has a block of its own in front of the tree.
    start = offset // _BLOCK + 1
    devices = " ".join(f"{os.major(each)}:{os.minor(each)}" for each in (data, hashes))
    return f"1 {devices} {_BLOCK} {_BLOCK} {blocks} {start} sha256 {root_hash} {salt}"


def names(source: str, data: int) -> tuple[str, str]:
    """Name and UUID of the device for a layer file: for people, which layer of which store it was.

    Each device keeps its loop device `data`, so no other one has that number. Which file is read
    now, that loop device says (devices.layer_files).
    """
    store, _, _, file = source.rsplit("/", 3)
    name = f"{_PREFIX}{file.removesuffix(_SUFFIX)}-{os.minor(data)}"
    place = f"{_PREFIX}{os.minor(data)}-{store.replace('/', _SLASH)}"
    return name[:_NAME_ROOM], place[:_UUID_ROOM]


@contextlib.contextmanager
def verified(source: str, tree: Tree, *, data: int, hashes: int) -> Iterator[str]:
    """A new device for the layer file `source`, on loop devices; its path.

    It lives for as long as something uses it. Raises OSError: EBADMSG where a block that
    was read in the context, successfully or not, does not have its hash.
    """
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        parameters = table(tree, data, hashes)
        number = _create(control, names(source, data), parameters, blocks=tree[2])
        path = f"/dev/dm-{os.minor(number)}"
        try:
            # A container's /dev is filled when it starts.
            with contextlib.suppress(FileExistsError):
                os.mknod(path, stat.S_IFBLK | 0o600, number)
            user = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            # Removed at once where it could not be opened, else with its last user.
            _call(control, _REMOVE, device=number, flags=_DEFERRED_REMOVE)
        try:
            yield path
        finally:
            try:
                if _is_corrupt(control, number):
                    raise OSError(errno.EBADMSG, "its bytes do not have the hashes of its record")
            finally:
                os.close(user)


def corrupt(devices: list[int]) -> list[int]:
    """Those of some devices, by number, at which a block was read that has not its hash."""
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        return [device for device in devices if _is_corrupt(control, device)]


def root_hash(device: int) -> str:
    """The root hash that a device verifies by; "" where it is none of these devices."""
    try:
        with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
            fields = _status(control, device, _STATUS_TABLE).split()
    except OSError:
        return ""
    return fields[_ROOT_HASH_FIELD] if len(fields) > _ROOT_HASH_FIELD else ""


def remove_unused() -> int:
    """Remove the devices of processes that were killed while they made them; how many.

    Raises OSError where layers cannot be verified here.
    """
    removed = 0
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        _find_target(control)
        for name in _existing(control):
            if name.startswith(_PREFIX):
                # In use: it fails, and the device goes with its last user anyway.
                with contextlib.suppress(OSError):
                    _call(control, _REMOVE, name=name)
                    removed += 1
    return removed


def check() -> None:
    """Raise OSError unless this kernel has dm-verity, and this process may use it."""
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        _find_target(control)


def _find_target(control: int) -> None:
    """Have the kernel load the module, where it is one."""
    try:
        _call(control, _TARGET_VERSION, name="verity")
    except OSError as error:
        raise OSError(error.errno, "this kernel has no dm-verity") from error


def _create(control: int, names: tuple[str, str], parameters: str, *, blocks: int) -> int:
    number: int = _call(control, _CREATE, name=names[0], uuid=names[1])[0]
    try:
        text = parameters.encode() + b"\0"
        text += bytes(-len(text) % 8)
        target = _TARGET.pack(0, blocks * _BLOCK // _SECTOR, 0, _TARGET.size + len(text), b"verity")
        _call(control, _LOAD, device=number, flags=_READ_ONLY, data=target + text, targets=1)
        _call(control, _RESUME, device=number)
    except OSError:
        with contextlib.suppress(OSError):
            _call(control, _REMOVE, device=number)
        raise
    return number


def _is_corrupt(control: int, device: int) -> bool:
    return _status(control, device, 0).startswith("C")


def _status(control: int, device: int, flags: int) -> str:
    _, data = _call(control, _STATUS, device=device, flags=flags)
    return data[_TARGET.size :].partition(b"\0")[0].decode()


def _existing(control: int) -> list[str]:
    _, data = _call(control, _LIST)
    found = []
    at = 0
    while at + _NAME.size < len(data):
        number, following = _NAME.unpack_from(data, at)
        if number:
            found.append(data[at + _NAME.size :].partition(b"\0")[0].decode())
        if not following:
            break
        at += following
    return found


def _call(
    control: int,
    command: int,
    *,
    name: str = "",
    uuid: str = "",
    device: int = 0,
    flags: int = 0,
    data: bytes = b"",
    targets: int = 0,
) -> tuple[int, bytes]:
    """One ioctl; the device's number, and what belongs to the answer. Raises OSError."""
    request = 3 << 30 | _HEAD.size << 16 | 0xFD << 8 | command
    room = _ROOM
    while True:
        size = _HEAD.size + max(room, len(data))
        texts = (name.encode(), uuid.encode())
        head = _HEAD.pack(*_VERSION, size, _HEAD.size, targets, 0, flags, 0, device, *texts)
        buffer = bytearray(head + data).ljust(size, b"\0")
        fcntl.ioctl(control, request, buffer)
        _, _, _, end, start, _, _, answered, _, number, _, _ = _HEAD.unpack_from(buffer)
        if not answered & _BUFFER_FULL or room >= _MOST_ROOM:
            return number, bytes(buffer[start:end])
        room *= 4
