"""Loop devices, by the ioctls of linux/loop.h.

Each is read-only and is freed by the kernel with its last user, so a process that is killed at
any point leaves none. Another file of the same size can be put behind one that is in use
(`change_file`): readers wait for the moment that this takes.

A device reads its file through the page cache of that file (buffered), or past it (direct).
Buffered, what the kernel or somebody has read ahead from the file serves the device, too; direct,
nothing is cached twice. Of a file on a server more is read ahead of programs than usual: a start
waits for each round trip (docs/operate/nfs.md has the figures).

Which file is behind a device is known by st_dev and inode (`status`). The path that the kernel
shows (`path_of`) begins at the file system's mount once the opener's mount namespace has ended,
which it does with its container. Standard library only.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from agent.mounts.devices import control_files

_CTL_ADD = 0x4C80
_CTL_GET_FREE = 0x4C82
_GET_STATUS64 = 0x4C05
_CHANGE_FD = 0x4C06
_SET_DIRECT_IO = 0x4C08
_CONFIGURE = 0x4C0A
_BLKRASET = 0x1262
_READ_ONLY = 1
_AUTOCLEAR = 4
_DIRECT_IO = 16
# struct loop_config: fd, block_size, loop_info64 (232 bytes, lo_flags at 52), 8 reserved words.
_CONFIG = struct.Struct("<II52xI176x64x")
# struct loop_info64: lo_device, lo_inode, ..., lo_flags at 52; 232 bytes.
_STATUS = struct.Struct("<QQ36xI176x")
_TRIES = 16
_APART = 8
_BLOCK = 4096
"""Of our devices: that of EROFS, and enough for direct I/O from any disk. Of a file whose size is
no multiple of it, the kernel's default."""

_NEAR_KIB, FAR_KIB = 128, 1024
"""Read ahead on devices whose file is on a disk of this machine, as the kernel does, or further
away."""
_SECTORS = 2
"""In a KiB."""

_CONTROL = "/dev/loop-control"
_CONTROL_NUMBER = os.makedev(10, 237)
_DEVICES = "/sys/block"
_DELETED = " (deleted)"
_ANSWER_SECONDS = 2.0
"""For how long no read at all may have ended before a device counts as one whose file hangs."""


class Status(NamedTuple):
    """The file behind a device, by st_dev and inode, and how it is read."""

    device: int
    inode: int
    is_direct: bool


def beneath(source: str) -> list[str]:
    """The loop devices (`loop3`) that a mount's source (`/dev/loop3`, `/dev/dm-1`) stands on."""
    name = source.removeprefix("/dev/")
    if name == source:
        return []
    if name.startswith("dm-"):
        try:
            below = sorted(os.listdir(f"{_DEVICES}/{name}/slaves"))
        except OSError:
            return []
        return [each for each in below if each.startswith("loop")]
    return [name] if name.startswith("loop") else []


def of_layer(source: str) -> str | None:
    """That of them with the layer itself: below a device that verifies it, its hash tree may have
    another one. None: there is none."""
    paths = {name: path_of(name) for name in beneath(source)}
    # The name of the tree's file is the layer's and more.
    known = [(len(os.path.basename(path)), name) for name, path in paths.items() if path]
    return min(known)[1] if known else None


def path_of(name: str) -> str | None:
    """The path of the file behind a device (`loop3`), as the kernel shows it; None: there is none.

    Asks no server, and waits for nothing.
    """
    try:
        with open(f"{_DEVICES}/{name}/loop/backing_file", encoding="utf-8") as file:
            return file.read().rstrip("\n").removesuffix(_DELETED)
    except OSError:
        return None


def status(name: str) -> Status:
    """What is behind a device (`loop3`); OSError: nothing. Waits while that is changed."""
    with _opened(name) as descriptor:
        return _status(descriptor)


@contextlib.contextmanager
def attached(source: str, *, direct: bool = False, far: bool) -> Iterator[tuple[str, int]]:
    """A new device on a file, by its path and number, for as long as something uses it.

    `far`: the file is on a server, and more of it is read ahead of programs.
    """
    backing = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, descriptor = _configured(backing, direct=direct, far=far)
        try:
            yield device, os.fstat(descriptor).st_rdev
        finally:
            os.close(descriptor)
    finally:
        os.close(backing)


def change_file(name: str, backing: int, *, far: bool) -> bool:
    """Put the open file `backing` behind a device (`loop3`), buffered; whether another was there.

    `far`: as for `attached`.

    Raises OSError: EINVAL where its size is another one, EAGAIN where reads of the present file
    hang: the kernel would wait for their end, for as long as the server is away.
    """
    with _opened(name) as descriptor:
        before = _status(descriptor)
        wanted = os.fstat(backing)
        is_other = (before.device, before.inode) != (wanted.st_dev, wanted.st_ino)
        if not is_other and not before.is_direct:
            return False
        _wait_until_answered(name)
        if before.is_direct:
            fcntl.ioctl(descriptor, _SET_DIRECT_IO, 0)
        if is_other:
            fcntl.ioctl(descriptor, _CHANGE_FD, backing)
        _set_read_ahead(descriptor, far=far)
        return is_other


def make_spare(least: int) -> int:
    """Have so many unused devices ready; how many were made. Raises OSError."""
    names = (name.removeprefix("loop") for name in os.listdir(_DEVICES))
    numbers = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    unused = 0
    # The kernel gives the lowest ones first: of thousands the last are not used.
    for number in numbers:
        unused += not os.path.exists(f"{_DEVICES}/loop{number}/loop")
        if unused >= least:
            return 0
    made = range(max(numbers, default=-1) + 1, max(numbers, default=-1) + 1 + least - unused)
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        for number in made:
            # Somebody else may have just made it.
            with contextlib.suppress(FileExistsError):
                fcntl.ioctl(control, _CTL_ADD, number)
    return len(made)


def _configured(backing: int, *, direct: bool, far: bool) -> tuple[str, int]:
    """A free device with this file: its path and an open descriptor, its only user.

    Another process may take the free device between the two calls, so it is
    tried again a few times.
    """
    flags = _READ_ONLY | _AUTOCLEAR | (_DIRECT_IO if direct else 0)
    block = 0 if os.fstat(backing).st_size % _BLOCK else _BLOCK
    with control_files.opened(_CONTROL, _CONTROL_NUMBER) as control:
        for number in range(_TRIES):
            name = _free(control, apart=number == 0)
            descriptor = os.open(_node(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, _CONFIG.pack(backing, block, flags))
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
            else:
                _set_read_ahead(descriptor, far=far)
                return f"/dev/{name}", descriptor
    raise OSError(errno.EBUSY, "no loop device could be had", _CONTROL)


def _set_read_ahead(descriptor: int, *, far: bool) -> None:
    """It holds for files that are opened from then on; failing costs time only."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _BLKRASET, (FAR_KIB if far else _NEAR_KIB) * _SECTORS)


def _free(control: int, *, apart: bool) -> str:
    """A device that is free now; with `apart` another one than most other threads get: while one
    of them is configured, the others would wait for that."""
    first: int = fcntl.ioctl(control, _CTL_GET_FREE)
    if apart:
        name = f"loop{first + threading.get_native_id() % _APART}"
        if os.path.exists(f"{_DEVICES}/{name}") and path_of(name) is None:
            return name
    return f"loop{first}"


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    descriptor = os.open(_node(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _node(name: str) -> str:
    """The device's file. A container's /dev is filled when it starts: it is made where it lacks."""
    path = f"/dev/{name}"
    if not os.path.exists(path):
        with open(f"{_DEVICES}/{name}/dev", encoding="ascii") as file:
            major, _, minor = file.read().strip().partition(":")
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    return path


def _status(descriptor: int) -> Status:
    buffer = bytearray(_STATUS.size)
    fcntl.ioctl(descriptor, _GET_STATUS64, buffer)
    device, inode, flags = _STATUS.unpack(buffer)
    return Status(device, inode, is_direct=bool(flags & _DIRECT_IO))


def _wait_until_answered(name: str) -> None:
    """Return as soon as no read is under way or one has ended; else OSError EAGAIN."""
    ended, waiting = _reads(name)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while waiting:
        if time.monotonic() > deadline:
            raise OSError(errno.EAGAIN, "reads of its present file hang", f"/dev/{name}")
        time.sleep(0.005)
        ended_now, waiting = _reads(name)
        if ended_now != ended:
            return


def _reads(name: str) -> tuple[int, int]:
    """How many reads have ended, and how many are under way (the kernel's block/stat.rst)."""
    with open(f"{_DEVICES}/{name}/stat", encoding="ascii") as file:
        fields = file.read().split()
    return int(fields[0]), int(fields[8])
