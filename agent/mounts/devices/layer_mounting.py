"""Layers mounted, switched to other files, and unmounted; operations for kits.processes.workers.

They run in children that can be killed: whatever opens a file of the shared store may hang.
Standard library only.

There are three ways to mount a layer. `STORED` is the file of the store, as it is: kernels
>= 6.12 mount EROFS from a file (CONFIG_EROFS_FS_BACKED_BY_FILE), older ones answer ENOTBLK and get
a loop device. mount(8) of util-linux < 2.39 makes a loop device of every regular file, so
mount(2) is called directly. With the other two a copy on the node's disk, for a layer at
`<root>/layers/<short>` the file `<root>/local/sha256/ab/<hex>.erofs`, is mounted instead where
there is one: `FILE` mounts as `STORED` does, `LOOP` through a loop device, whose file can be
changed under the running mount.

Where SELinux is active all are mounted through loop devices. Of a layer that is mounted from a file
the kernel has each reader, so each container, checked against the label of that file, which
is one of NFS or of containerd's folder; a loop device's file the kernel itself reads.
"""

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.model.erofs import superblock
from agent.mounts import mountinfo, syscalls
from agent.mounts.devices import device_mapper, layer_files, layer_labels, loop_devices

STORED, FILE, LOOP = "stored", "file", "loop"

_Attached = Callable[[str], contextlib.AbstractContextManager[tuple[str, int]]]


class Place(NamedTuple):
    """The folder that layers are mounted in, the way in which they are, and their SELinux label."""

    folder: str
    way: str = STORED
    label: str = ""


def mount_layer(
    source: str,
    target: str,
    size: int,
    tree: device_mapper.Tree | None = None,
    way: str = STORED,
    label: str = "",
) -> int:
    """Mount the layer file `source` of `size` bytes on the folder `target`; return its st_dev.

    Checks the file before the kernel sees it: a size or superblock that is not
    what the record says raises OSError EUCLEAN. With `tree` the kernel checks each block
    that it reads; OSError EBADMSG where one that the mount needs has not its hash. If another
    worker has mounted it in the meantime (the same layer for another chain, or one that
    was given up), that mount is taken, and so is one of a local copy. The same layer from another
    place, where the store was before, or without the checks or the SELinux label that are wanted,
    is covered by the new mount: there is no moment without one, and what runs on the old one goes
    on. If something else is mounted there, OSError EBUSY.
    """
    with _alone_at(target):
        copy = layer_files.copy_of(target, os.path.basename(source))
        if way != STORED and _is_sound(copy, size):
            return _mount_layer(copy, target, size, _beside(copy, tree), way, label)
        # The mount table is to say which of several mounts of the store it comes from.
        return _mount_layer(os.path.realpath(source), target, size, tree, way, label)


def switch_layer(target: str, source: str, size: int) -> int:
    """Have the mounts of a layer read the file `source` of `size` bytes from now on, as they are.

    That is every mount at the folder `target`, below a device that verifies it, too. What runs on
    them notices nothing.
    Returns how many loop devices were changed: 0 where they read that file already. Raises OSError:

    - ENOENT: the file is not there, or no layer is mounted;
    - ENOTBLK: it is mounted without a loop device, and cannot be switched;
    - EBUSY: what is mounted is another layer;
    - EUCLEAN: the file has another size, or no superblock;
    - EAGAIN: reads of the present file hang. The kernel would wait for them.
    """
    with _alone_at(target):
        return _switch_layer(target, source, size)


@contextlib.contextmanager
def _alone_at(target: str) -> Iterator[None]:
    """Keep other workers from what is mounted there, until this one ends or dies."""
    while True:
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(target)):
                yield
                return
            # It was mounted, or covered, while this one waited for the lock of what was there.
        finally:
            os.close(descriptor)


def _mount_layer(
    source: str, target: str, size: int, tree: device_mapper.Tree | None, way: str, label: str
) -> int:
    if (mounted := _mounted_at(target)) is not None:
        entry, file = mounted
        if file.name != os.path.basename(source):
            raise OSError(errno.EBUSY, f"{file.path} is mounted there", target)
        if _is_verified(target, tree) and label in ("", layer_labels.of(entry)):
            if file.is_copy(target) or file.is_at(source):
                return os.stat(target).st_dev
            if loop_devices.beneath(entry.source) and way == LOOP and _is_copy(source, target):
                # Reads of the store's file may hang: then the copy is mounted over it.
                with contextlib.suppress(OSError):
                    _switch_layer(target, source, size)
                    return os.stat(target).st_dev
    _check(source, size)
    # Buffered, the kernel reads ahead also from one small file to the next: all files of an image,
    # cold, from a copy on the same disk in 5.6 s, and with direct I/O in 10 s.
    attached = functools.partial(
        loop_devices.attached,
        direct=way == STORED,
        far=way != STORED and _is_far(source, target),
    )
    mount = functools.partial(_mount_erofs, target=target, label=label)
    if tree is not None:
        _mount_verified(source, tree, attached, mount)
    else:
        loop_first = way == LOOP or layer_labels.is_active()
        _mount_plain(source, attached, mount, loop_first=loop_first)
    return os.stat(target).st_dev


def _mount_erofs(source: str, *, target: str, label: str) -> None:
    syscalls.mount(source, target, "erofs", syscalls.MS_RDONLY, layer_labels.options(label))


def _mount_plain(
    source: str, attached: _Attached, mount: Callable[[str], None], *, loop_first: bool
) -> None:
    """Mount as a file or through a loop device; the other way where this machine lacks the one."""

    def as_file() -> None:
        mount(source)

    def on_loop() -> None:
        with attached(source) as (device, _):
            mount(device)

    first, second = (on_loop, as_file) if loop_first else (as_file, on_loop)
    try:
        first()
    except OSError as error:
        if not loop_first and error.errno not in (errno.ENOTBLK, errno.EINVAL):
            raise
        try:
            second()
        except OSError as other:
            way = "without" if loop_first else "through"
            reason = f"{error.strerror}; {way} a loop device: {other}"
            raise OSError(other.errno, reason, source) from other


def _mount_verified(
    source: str, tree: device_mapper.Tree, attached: _Attached, mount: Callable[[str], None]
) -> None:
    """Mount through a dm-verity device on loop devices; all of them end with the mount."""
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(attached(source))[1]
        hashes = data
        if tree[4]:
            hashes = stack.enter_context(attached(tree[4]))[1]
        with device_mapper.verified(source, tree, data=data, hashes=hashes) as device:
            mount(device)


def _switch_layer(target: str, source: str, size: int) -> int:
    _check(source, size)
    name = os.path.basename(source)
    far = _is_far(source, target)
    table = [each for each in mountinfo.read() if each.target == target and each.kind == "erofs"]
    if not table:
        raise OSError(errno.ENOENT, "no layer is mounted there", target)
    loops = [loop_devices.beneath(entry.source) for entry in table]
    if not loops[-1]:
        raise OSError(errno.ENOTBLK, "the layer is mounted without a loop device", target)
    changed = 0
    with contextlib.ExitStack() as stack:
        # All files first: a layer is not to be left with the hash tree of another place.
        files: dict[str, int] = {}
        for loop in dict.fromkeys(loop for each in loops for loop in each):
            file = os.path.basename(loop_devices.path_of(loop) or "")
            if not file.startswith(name):
                raise OSError(errno.EBUSY, f"{file or 'nothing'} is behind {loop}", target)
            path = f"{os.path.dirname(source)}/{file}"
            files[loop] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, files[loop])
        for loop, backing in files.items():
            changed += loop_devices.change_file(loop, backing, far=far)
    return changed


def _is_far(source: str, target: str) -> bool:
    """Whether a file is on a server: no copy, and its file system has no device of this machine.

    From a disk, more read-ahead on a loop device makes it slower: all files of an image with
    libraries of gigabytes in 15 s with 1 MiB, in 8 s with the kernel's 128 KiB.
    """
    return not _is_copy(source, target) and os.major(os.stat(source).st_dev) == 0


def _is_verified(target: str, tree: device_mapper.Tree | None) -> bool:
    """Whether a mounted layer is verified by this tree, where it is to be verified.

    One at which a byte was seen that is not what was built is mounted anew: the store may be
    sound again.
    """
    if tree is None:
        return True
    device = os.stat(target).st_dev
    return device_mapper.root_hash(device) == tree[0] and not device_mapper.corrupt([device])


def _is_copy(source: str, target: str) -> bool:
    return source.startswith(f"{layer_files.copies_of(target)}/")


def _beside(copy: str, tree: device_mapper.Tree | None) -> device_mapper.Tree | None:
    """The tree, from the file beside a copy where it has one of its own there."""
    if tree is None or not tree[4]:
        return tree
    file = f"{os.path.dirname(copy)}/{os.path.basename(tree[4])}"
    return (*tree[:4], file) if os.path.exists(file) else tree


def _is_sound(copy: str, size: int) -> bool:
    try:
        _check(copy, size)
    except OSError:
        return False
    return True


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


def _mounted_at(target: str) -> tuple[mountinfo.Entry, layer_files.LayerFile] | None:
    """The topmost mount on `target` with its file, None when it is an ordinary folder."""
    if os.stat(target).st_dev == os.stat(os.path.dirname(target)).st_dev:
        return None
    entries = [entry for entry in mountinfo.read() if entry.target == target]
    return (entries[-1], layer_files.read(entries[-1].source)) if entries else None


def unmount_layer(target: str) -> None:
    """Unmount a layer that nothing uses and remove its mountpoint; else OSError EBUSY.

    Never detached: a process that has a file open there would read on from a layer that
    no mount table shows any more, and whose file the collector would then delete.
    Stacked mounts (two workers, one of which had been given up) go together.
    """
    while True:
        try:
            syscalls.unmount(target)
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
    **layer_files.OPERATIONS,
    "corrupt_layers": corrupt_layers,
    "mount_layer": mount_layer,
    "remove_unused_devices": device_mapper.remove_unused,
    "spare_devices": loop_devices.make_spare,
    "switch_layer": switch_layer,
    "unmount_layer": unmount_layer,
}
