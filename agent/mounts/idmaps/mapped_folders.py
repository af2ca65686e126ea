"""Folders shown elsewhere with their owners mapped; operations for kits.processes.workers.

Standard library only, and no file is read: a mounted layer's root folder is in memory.
"""

import contextlib
import os
import pathlib

from agent.mounts import mountinfo, syscalls

Shown = tuple[str, str, str, str]
"""A folder, where it is to be seen, and the maps of user and group ids in the kernel's form."""


def is_shown(source: str, target: str) -> bool:
    """Whether a folder is seen at another place: it is the same one there."""
    try:
        original, seen = os.stat(source), os.stat(target)  # noqa: PTH116 - hot, and a str
    except OSError:
        return False
    return (original.st_dev, original.st_ino) == (seen.st_dev, seen.st_ino)


def show_folders(wanted: list[Shown]) -> None:
    """Show folders that are not shown yet. Raises OSError, EINVAL where one cannot be mapped."""
    namespaces: dict[tuple[str, str], int] = {}
    try:
        for source, target, *maps in wanted:
            if is_shown(source, target):
                continue
            pathlib.Path(target).mkdir(mode=0o700, parents=True, exist_ok=True)
            uids, gids = maps
            if (uids, gids) not in namespaces:
                namespaces[uids, gids] = syscalls.user_namespace(uids, gids)
            syscalls.mount_idmapped(source, target, namespaces[uids, gids])
    finally:
        for namespace in namespaces.values():
            os.close(namespace)


def hide_folders(folders: list[str]) -> None:
    """Unmount all that is shown below some folders, and remove these.

    What runs on it goes on: an overlay has copies of its lower mounts. A folder in which
    something stays is left. Raises OSError.
    """
    below = {f"{spelling}/" for each in folders for spelling in (each, os.path.realpath(each))}
    targets = [entry.target for entry in mountinfo.read()]
    for target in reversed(targets):
        if target.startswith(tuple(below)):
            syscalls.unmount(target, syscalls.MNT_DETACH)
    for folder in folders:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                pathlib.Path(path).rmdir()


OPERATIONS = {"hide_folders": hide_folders, "show_folders": show_folders}
