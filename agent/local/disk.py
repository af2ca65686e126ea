"""What is in the folder of local copies, and on its disk; blocking, for workers.

Standard library only. Everything here may be killed between any two lines.
"""

import contextlib
import os
import stat

from agent.local import copy_paths

Copy = tuple[str, int, float]
"""The name of a layer, the bytes that its copy takes, and its last use in seconds since 1970."""

Look = tuple[list[Copy], int, int]
"""All copies, and the free and all bytes of their file system."""

_FOLDER_MODE = 0o700


def prepare(folder: str) -> None:
    """Make the folder, and remove what an agent that was killed has left in `tmp`.

    Drafts of copies stay: they are resumed, or replaced.
    """
    where = copy_paths.CopyPaths(folder)
    for each in (folder, where.layer_files, where.tmp, where.marks):
        os.makedirs(each, _FOLDER_MODE, exist_ok=True)
    for entry in os.scandir(where.tmp):
        if entry.path != where.draft(entry.name.removesuffix(".erofs")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


def look(folder: str) -> Look:
    """List the copies and measure the disk."""
    where = copy_paths.CopyPaths(folder)
    copies = []
    for shelf in os.scandir(where.layer_files):
        for entry in os.scandir(shelf.path):
            name = entry.name.removesuffix(".erofs")
            if entry.path == where.layer(name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        size = status.st_size + _size_of(where.tree(name))
                        copies.append((name, size, status.st_mtime))
    file_system = os.statvfs(folder)
    unit = file_system.f_frsize
    return copies, file_system.f_bavail * unit, file_system.f_blocks * unit


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


OPERATIONS = {"look": look, "prepare": prepare}
