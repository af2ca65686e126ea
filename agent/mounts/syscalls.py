"""mount(2), umount2(2), idmapped mounts, namespaces and mincore(2); the only place with ctypes.

Standard library only.
"""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterator

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
_CLONE_NEWUSER = 0x10000000

# The same on every architecture: the table of system calls is common since 5.x.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR_IDMAP = 0x00100000

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13

PAGE = os.sysconf("SC_PAGE_SIZE")
_CAP_FOWNER = 3
_PROT_READ = 1
_MAP_SHARED = 1
_MADV_RANDOM = 1
_MADV_SEQUENTIAL = 2
_PFN = (1 << 55) - 1
_KPF_USED = 1 << 2 | 1 << 6
"""KPF_REFERENCED, KPF_ACTIVE: linux/kernel-page-flags.h."""
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


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


def pages_in_memory(descriptor: int, start: int, length: int) -> bytes:
    """Which pages of a part of a file are in memory: one byte a page, 1 for those that are.

    mincore(2) on a mapping that nothing touches: neither reads the file. Raises OSError, EPERM
    where the file is neither owned nor to be written: the kernel then calls all pages present.
    """
    if not may_know_pages(descriptor):
        raise PermissionError(errno.EPERM, "the kernel does not say what of it is in memory")
    mapping = ctypes.c_void_p(_mapped(descriptor, start, length)), ctypes.c_size_t(length)
    try:
        pages = ctypes.create_string_buffer(-(-length // PAGE))
        if _libc.mincore(*mapping, pages) != 0:
            raise _error()
        return pages.raw
    finally:
        _libc.munmap(*mapping)


def pages_used(descriptor: int, start: int, pages: bytes) -> bytes:
    """Which pages of a part of a file were read since they came into memory, of those in `pages`.

    `pages` is as `pages_in_memory` gives it, the result likewise. The kernel reads ahead by itself,
    megabytes on mounts of far servers; but only pages that a program has read are marked as
    referenced. To see these marks each page is mapped for a moment, in a mapping of random access,
    for which the kernel reads nothing ahead. When it is unmapped it is one of sequential access:
    that leaves no mark itself, also on kernels before 6.3 (zap_pte_range(); vma_has_recency()).
    Raises OSError, EPERM without CAP_SYS_ADMIN, ENOENT where the kernel shows no flags of pages.
    """
    length = len(pages) * PAGE
    address = _mapped(descriptor, start, length)
    mapping = ctypes.c_void_p(address), ctypes.c_size_t(length)
    used = bytearray(len(pages))
    try:
        if _libc.madvise(*mapping, _MADV_RANDOM) != 0:
            raise _error()
        with open("/proc/self/pagemap", "rb") as frames, open("/proc/kpageflags", "rb") as flags:
            first = pages.find(1)
            while first >= 0:
                end = pages.find(0, first)
                end = len(pages) if end < 0 else end
                for page in range(first, end):
                    ctypes.string_at(address + page * PAGE, 1)
                numbers = _numbers(frames.fileno(), address // PAGE + first, end - first)
                for at, flag in enumerate(_flags(flags.fileno(), numbers)):
                    used[first + at] = flag & _KPF_USED != 0
                first = pages.find(1, end)
    finally:
        _libc.madvise(*mapping, _MADV_SEQUENTIAL)
        _libc.munmap(*mapping)
    return bytes(used)


def _numbers(file: int, start: int, count: int) -> list[int]:
    """64-bit numbers of a file of such; of /proc/self/pagemap the numbers of page frames."""
    data = os.pread(file, 8 * count, 8 * start)
    return [number & _PFN for (number,) in struct.iter_unpack("<Q", data)]


def _flags(file: int, frames: list[int]) -> Iterator[int]:
    """The flags of page frames, neighbours in one read."""
    at = 0
    while at < len(frames):
        end = at + 1
        while end < len(frames) and frames[end] == frames[at] + end - at:
            end += 1
        if not frames[at]:
            raise PermissionError(errno.EPERM, "the kernel does not say where pages are")
        yield from _numbers(file, frames[at], end - at)
        at = end


def _mapped(descriptor: int, start: int, length: int) -> int:
    """The address of a new mapping of a part of a file."""
    address = _libc.mmap(
        None,
        ctypes.c_size_t(length),
        _PROT_READ,
        _MAP_SHARED,
        descriptor,
        ctypes.c_long(start),
    )
    if address == _MAP_FAILED:
        raise _error()
    return int(address)


def may_know_pages(descriptor: int) -> bool:
    """Whether the kernel says what of a file is in memory: to its owner, or with CAP_FOWNER.

    Its can_do_mincore() accepts write permission as well, which no file of the store gives.
    """
    if os.fstat(descriptor).st_uid == os.geteuid():
        return True
    with open("/proc/self/status", encoding="ascii") as file:
        capabilities = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(capabilities.split()[1], 16) >> _CAP_FOWNER & 1)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


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


def user_namespace(uid_map: str, gid_map: str) -> int:
    """A descriptor of a new user namespace with these maps, in the form of /proc/PID/uid_map.

    The namespace needs a process for a moment: one is forked, so this is for a child with one
    thread. Source: user_namespaces(7). Raises OSError, EINVAL for maps that the kernel refuses.
    """
    ready, ready_end = os.pipe()
    gate, gate_end = os.pipe()
    child = os.fork()
    if child == 0:
        # Neither exceptions nor buffers of the parent's may run in here. It ends with the parent,
        # however that ends.
        os.close(gate_end)
        number = ctypes.get_errno() if _libc.unshare(_CLONE_NEWUSER) != 0 else 0
        os.write(ready_end, bytes([number]))
        os.read(gate, 1)
        os._exit(0)
    try:
        os.close(ready_end)
        number = (os.read(ready, 1) or bytes([errno.ECHILD]))[0]
        if number:
            raise OSError(number, os.strerror(number), "unshare")
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            # By one write(2): the kernel takes no second one.
            file = os.open(f"/proc/{child}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready, gate, gate_end):
            os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def mount_idmapped(source: str, target: str, namespace: int) -> None:
    """Show the folder `source` at `target`, read-only, its owners mapped by a user namespace.

    Only that folder's own mount: what is mounted below it is not there. Source:
    mount_setattr(2). Raises OSError, EINVAL where its file system cannot be mapped.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, source.encode(), flags), source)
    try:
        attributes = struct.pack(
            "=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_IDMAP, 0, _MS_PRIVATE, namespace
        )
        size = ctypes.c_size_t(len(attributes))
        changed = _libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, size)
        _checked(changed, source)
        flags = _MOVE_MOUNT_F_EMPTY_PATH
        moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), flags)
        _checked(moved, target)
    finally:
        os.close(tree)


def _checked(result: int, path: str) -> int:
    """The result of a system call; raises OSError where that is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


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
