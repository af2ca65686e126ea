"""Which file a layer's mount reads: one of the store, of which of its mounts, or a local copy.

The source in the mount table says it only where a layer is mounted from its file. Behind a loop
device the file changes (`layer_mounting.switch_layer`), and its path is shown from its file
system's mount on, without what that is mounted on, once the container that opened it has ended. So
files are compared by st_dev and inode, which no path is needed for.

`read` waits while a file is being changed: for workers and threads. Standard library only.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.mounts import mountinfo, mountpoints
from agent.mounts.devices import loop_devices


class LayerFile(NamedTuple):
    """A file by its path, as far as the kernel shows it, its file system's st_dev, and its inode.

    Where a layer is mounted from the file itself the path is whole, and the others are 0.
    """

    path: str
    device: int = 0
    inode: int = 0

    @property
    def name(self) -> str:
        """The file's name: which layer it is."""
        return os.path.basename(self.path)

    def is_at(self, path: str) -> bool:
        """Whether that is the file at a path. Asks the server of it."""
        if not self.device:
            return self.path == os.path.realpath(path)
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (self.device, self.inode) == (status.st_dev, status.st_ino)

    def is_copy(self, target: str) -> bool:
        """Whether that is the local copy of a layer with this mountpoint. Asks no server."""
        return self.is_at(copy_of(target, self.name))


def copies_of(target: str) -> str:
    """The folder of local copies that belongs to a layer's mountpoint `<root>/layers/<short>`."""
    return f"{os.path.dirname(os.path.dirname(target))}/{mountpoints.COPIES}"


def copy_of(target: str, name: str) -> str:
    """Where the local copy of a layer file is, if there is one."""
    return f"{copies_of(target)}/sha256/{name[:2]}/{name}"


def read(source: str) -> LayerFile:
    """The file that a mount with this source reads now."""
    path = mountinfo.backing_file(source)
    if (loop := loop_devices.of_layer(source)) is None:
        return LayerFile(path)
    try:
        status = loop_devices.status(loop)
    except OSError:
        return LayerFile(path)
    return LayerFile(path, status.device, status.inode)


def places(file: LayerFile, table: Sequence[mountinfo.Entry]) -> list[str]:
    """Where a file is in a mount table: its path, or, where that is not whole, all that it may be.

    Those are many where a file system is mounted several times.
    """
    if not file.device or _is_whole(file, table):
        return [file.path]
    of_it = (entry.target for entry in table if entry.device == file.device)
    return [f"{target.rstrip('/')}{file.path}" for target in of_it] or [file.path]


def _is_whole(file: LayerFile, table: Sequence[mountinfo.Entry]) -> bool:
    below = [entry for entry in table if file.path.startswith(f"{entry.target.rstrip('/')}/")]
    # Of two on the same folder the later one hides the earlier.
    mount = max(reversed(below), key=lambda entry: len(entry.target), default=None)
    return mount is not None and mount.device == file.device


def used_files() -> list[str]:
    """Where the files of all layers that are mounted are, as `places`; for workers."""
    table = mountinfo.read()
    sources = {entry.source for entry in table if entry.kind == "erofs"}
    return sorted({place for source in sources for place in places(read(source), table)})


def mounted_files(folder: str) -> dict[str, tuple[int, bool]]:
    """By the sources of the layers that are mounted below a folder through devices: the st_dev of
    the file's file system, and whether the file is a local copy; for workers."""
    return {
        entry.source: (file.device, file.is_copy(entry.target))
        for entry in mounted_below(folder)
        if (file := read(entry.source)).device
    }


def mounted_below(folder: str) -> Iterator[mountinfo.Entry]:
    """The layers that are mounted below a folder."""
    for entry in mountinfo.read():
        if entry.kind == "erofs" and entry.target.startswith(f"{folder}/"):
            yield entry


OPERATIONS = {"mounted_files": mounted_files, "used_files": used_files}
