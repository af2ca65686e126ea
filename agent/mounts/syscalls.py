"""mount(2), umount2(2) and mount namespaces; the only place with ctypes. Standard library only."""

import ctypes
import os

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

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13

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


def set_idle_io(*, idle: bool) -> None:
    """Have the disk's scheduler serve this process last, or as its CPU priority says again.

    Source: ioprio_set(2). Where a kernel or scheduler has no priorities, nothing changes.
    """
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE if idle else 0)


def share(folder: str) -> None:
    """Bind-mount a folder on itself, for the mounts below it to be seen by others."""
    os.makedirs(folder, exist_ok=True)
    mount(folder, folder, "none", _MS_BIND)
    mount("none", folder, "none", _MS_REC | _MS_SHARED)
