"""mount(2), umount2(2) and loop devices; the only place with ctypes.

These functions run in children of agent.kits.processes.workers (see OPERATIONS): whatever
opens a file of the shared store may hang. Standard library only.

mount(8) of util-linux < 2.39 makes a loop device of every regular file, so
mount(2) is called directly: kernels >= 6.12 mount EROFS from a file
(CONFIG_EROFS_FS_BACKED_BY_FILE), older ones answer ENOTBLK and get a loop device.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from agent.model.erofs import superblock
from agent.mounts import device_mapper, mountinfo

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_NOATIME = 1 << 10
MNT_DETACH = 2
_MS_BIND = 1 << 12
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18
_MS_SHARED = 1 << 20
_CLONE_NEWNS = 0x00020000

# linux/loop.h
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
# struct loop_config: fd, block_size, loop_info64 (232 bytes, lo_flags at 52), 8 reserved words.
_LOOP_CONFIG = struct.Struct("<II52xI176x64x")
_LOOP_TRIES = 16
_LOOP_MAJOR = 7

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2); raises OSError."""
    arguments = (
        source.encode(),
        target.encode(),
        kind.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if _libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2); raises OSError (EBUSY while it is in use and `flags` is 0)."""
    if _libc.umount2(target.encode(), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def enter_private_namespace() -> None:
    """Give this process mounts of its own, which no other process sees and which end with it."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    mount("none", "/", "none", _MS_REC | _MS_PRIVATE)


def enter_mounts_of(process: str) -> None:
    """See and change the mounts of another process from now on; in a child with one thread."""
    descriptor = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"/proc/{process}/ns/mnt")
    finally:
        os.close(descriptor)


def share(folder: str) -> None:
    """Bind-mount a folder on itself, for the mounts below it to be seen by others."""
    os.makedirs(folder, exist_ok=True)
    mount(folder, folder, "none", _MS_BIND)
    mount("none", folder, "none", _MS_REC | _MS_SHARED)


def mount_layer(source: str, target: str, size: int, tree: device_mapper.Tree | None = None) -> int:
    """Mount the layer file `source` of `size` bytes on the folder `target`; return its st_dev.

    Checks the file before the kernel sees it: a size or superblock that is not
    what the record says raises OSError EUCLEAN. With `tree` the kernel checks each block
    that it reads; OSError EBADMSG where one that the mount needs has not its hash. If another
    worker has mounted it in the meantime (the same layer for another chain, or one that
    was given up), that mount is taken. The same layer from another place, where the store
    was before, or without the checks that are wanted, is covered by the new mount: there is no
    moment without one, and what runs on the old one goes on. If something else is mounted
    there, OSError EBUSY.
    """
    with _alone_at(target):
        # The mount table is to say which of several mounts of the store it comes from.
        return _mount_layer(os.path.realpath(source), target, size, tree)


@contextlib.contextmanager
def _alone_at(target: str) -> Iterator[None]:
    """Keep other workers from mounting there at the same time, until this one ends or dies."""
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mount_layer(source: str, target: str, size: int, tree: device_mapper.Tree | None) -> int:
    mounted = _mounted_source(target)
    if mounted == source and not _is_verified(target, tree):
        mounted = None
    if mounted is None or _is_elsewhere(mounted, source):
        _check(source, size)
        if tree is not None:
            _mount_verified(source, target, tree)
        else:
            _mount_plain(source, target)
    elif mounted != source:
        raise OSError(errno.EBUSY, f"{mounted} is mounted there", target)
    return os.stat(target).st_dev


def _mount_plain(source: str, target: str) -> None:
    try:
        mount(source, target, "erofs", MS_RDONLY)
    except OSError as error:
        if error.errno not in (errno.ENOTBLK, errno.EINVAL):
            raise
        try:
            _mount_on_loop(source, target)
        except OSError as second:
            reason = f"{error.strerror}; through a loop device: {second}"
            raise OSError(second.errno, reason, source) from second


def _mount_verified(source: str, target: str, tree: device_mapper.Tree) -> None:
    """Mount through a dm-verity device on loop devices; all of them end with the mount."""
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(_loop(source))[1]
        hashes = stack.enter_context(_loop(tree[4]))[1] if tree[4] else data
        with device_mapper.verified(source, tree, data=data, hashes=hashes) as device:
            mount(device, target, "erofs", MS_RDONLY)


def _is_verified(target: str, tree: device_mapper.Tree | None) -> bool:
    """Whether a mounted layer is verified by this tree, where it is to be verified.

    One at which a byte was seen that is not what was built is mounted anew: the store may be
    sound again.
    """
    if tree is None:
        return True
    device = os.stat(target).st_dev
    return device_mapper.root_hash(device) == tree[0] and not device_mapper.corrupt([device])


def _is_elsewhere(mounted: str, source: str) -> bool:
    """Whether what is mounted is the same layer from another place: its file is named after it."""
    return mounted != source and os.path.basename(mounted) == os.path.basename(source)


def _check(source: str, size: int) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        actual = os.fstat(descriptor).st_size
        if actual != size:
            raise OSError(errno.EUCLEAN, f"has {actual} bytes, its record says {size}", source)
        if os.pread(descriptor, 4, superblock.OFFSET) != superblock.MAGIC:
            raise OSError(errno.EUCLEAN, "has no EROFS superblock", source)
    finally:
        os.close(descriptor)


def _mounted_source(target: str) -> str | None:
    """The source of the topmost mount on `target`, None when it is an ordinary folder."""
    if os.stat(target).st_dev == os.stat(os.path.dirname(target)).st_dev:
        return None
    sources = [entry.source for entry in mountinfo.read() if entry.target == target]
    return mountinfo.backing_file(sources[-1]) if sources else None


def _mount_on_loop(source: str, target: str) -> None:
    with _loop(source) as (device, _):
        mount(device, target, "erofs", MS_RDONLY)


@contextlib.contextmanager
def _loop(source: str) -> Iterator[tuple[str, int]]:
    """A loop device on a file, and its number; the kernel frees it with its last user.

    Another process may take the free device between the two calls, so it is
    tried again a few times.
    """
    backing = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, descriptor = _configure_loop(backing)
        try:
            yield device, os.fstat(descriptor).st_rdev
        finally:
            os.close(descriptor)
    finally:
        os.close(backing)


def _configure_loop(backing: int) -> tuple[str, int]:
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
    for _ in range(_LOOP_TRIES):
        with open("/dev/loop-control", "rb") as control:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        device = f"/dev/loop{number}"
        # A container's /dev is filled when it starts: it lacks what the kernel made since.
        with contextlib.suppress(FileExistsError):
            os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(backing, 0, flags))
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.EBUSY:
                raise
        else:
            return device, descriptor
    raise OSError(errno.EBUSY, "no loop device could be had", "/dev/loop-control")


def unmount_layer(target: str) -> None:
    """Unmount a layer that nothing uses and remove its mountpoint; else OSError EBUSY.

    Never detached: a process that has a file open there would read on from a layer that
    no mount table shows any more, and whose file the collector would then delete.
    Stacked mounts (two workers, one of which had been given up) go together.
    """
    while True:
        try:
            unmount(target)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            break
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(target)


def corrupt_layers(folder: str) -> list[str]:
    """The layers mounted below `folder`, by the names of their files, that had wrong bytes."""
    devices: dict[int, str] = {}
    for entry in mountinfo.read():
        if entry.target.startswith(f"{folder}/") and mountinfo.is_verified(entry.source):
            devices[entry.device] = os.path.basename(mountinfo.backing_file(entry.source))
    return [devices[device] for device in device_mapper.corrupt(list(devices))] if devices else []


OPERATIONS = {
    "corrupt_layers": corrupt_layers,
    "mount_layer": mount_layer,
    "remove_unused_devices": device_mapper.remove_unused,
    "unmount_layer": unmount_layer,
}
