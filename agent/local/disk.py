"""What is in the folder of local copies, and on its disk; blocking, for workers.

Standard library only. Everything here may be killed between any two lines.
"""

import contextlib
import os
import pathlib
import stat
import time
from collections.abc import Sequence

from agent.kits import files
from agent.local import copy_paths

Copy = tuple[str, int, float]
"""The name of a layer, the bytes that its copy takes, and its last use in seconds since 1970."""

Look = tuple[list[Copy], int, int]
"""All copies, and the free and all bytes of their file system."""

MARKED_SECONDS = 3600.0
"""For which a layer that had wrong bytes is not served on this node."""

_FOLDER_MODE = 0o700


def prepare(folder: str) -> None:
    """Make the folder and those in it."""
    where = copy_paths.CopyPaths(folder)
    for each in (folder, where.layer_files, where.tmp, where.marks):
        os.makedirs(each, _FOLDER_MODE, exist_ok=True)


def sweep(folder: str) -> None:
    """Remove what an agent that was killed has left in `tmp`; under the lock.

    Drafts of copies stay: they are gone on with, or replaced.
    """
    where = copy_paths.CopyPaths(folder)
    for entry in os.scandir(where.tmp):
        if not _is_draft(where, entry):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


def clear_drafts(folder: str, kept: str = "") -> None:
    """Remove all drafts but those of one layer: there is never more than one on the disk."""
    where = copy_paths.CopyPaths(folder)
    for entry in os.scandir(where.tmp):
        if _is_draft(where, entry) and not (kept and entry.name.startswith(kept)):
            os.unlink(entry.path)


def _is_draft(where: copy_paths.CopyPaths, entry: "os.DirEntry[str]") -> bool:
    name = entry.name.partition(".")[0]
    return entry.path in (where.draft(name), where.tree_draft(name))


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
    return copies, *room(folder)


def room(folder: str) -> tuple[int, int]:
    """The free and all bytes of a folder's file system, as the kubelet counts them."""
    file_system = os.statvfs(folder)
    unit = file_system.f_frsize
    return file_system.f_bavail * unit, file_system.f_blocks * unit


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def touch(folder: str, names: Sequence[str]) -> None:
    """Note that copies are used now."""
    where = copy_paths.CopyPaths(folder)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.utime(where.layer(name))


def remove(folder: str, name: str) -> None:
    """Remove the copy of a layer; what reads it reads on."""
    where = copy_paths.CopyPaths(folder)
    # First what says that the copy is there.
    for path in (where.layer(name), where.tree(name), where.record(name), where.outliver(name)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def write_record(folder: str, name: str, data: bytes) -> None:
    """Keep the record that a copy is verified by; before the copy is at its place."""
    where = copy_paths.CopyPaths(folder)
    files.write(pathlib.Path(where.record(name)), data, tmp=pathlib.Path(where.tmp))


def read_record(folder: str, name: str) -> bytes:
    """The record that a copy was verified by, b"" where it has none."""
    try:
        with open(copy_paths.CopyPaths(folder).record(name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def mark(folder: str, name: str, text: str) -> None:
    """Mark a layer that had wrong bytes, and forget the marks that count no more."""
    where = copy_paths.CopyPaths(folder)
    for entry in os.scandir(where.marks):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < time.time() - MARKED_SECONDS:
                os.unlink(entry.path)
    data = f"{text}\n".encode()
    files.write(pathlib.Path(where.mark(name)), data, tmp=pathlib.Path(where.tmp))


def outliving(folder: str) -> list[str]:
    """The layers whose copies are all that this node may have of them: see copy_marks."""
    try:
        return os.listdir(copy_paths.CopyPaths(folder).outliving)
    except FileNotFoundError:
        return []


OPERATIONS = {
    "clear_drafts": clear_drafts,
    "look": look,
    "mark": mark,
    "outliving": outliving,
    "prepare": prepare,
    "read_record": read_record,
    "remove": remove,
    "sweep": sweep,
    "touch": touch,
    "write_record": write_record,
}
