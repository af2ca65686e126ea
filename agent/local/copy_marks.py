"""Copies that outlive their layers in the store: marked before this node says it holds nothing.

Then the store's files may go, and the node has nothing but its copies. One that is marked is never
removed, nor put behind a mount in exchange for the store's file, while something is mounted from
it; after that it goes, and its mark with it. Blocking, on the local disk.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterable

from agent.kits import files
from agent.local import copy_paths
from agent.model import digests


def keep(root: str, diff_ids: Iterable[str]) -> None:
    """Mark the copies of some layers, durably. Raises OSError."""
    folder = pathlib.Path(copy_paths.of(root).outliving)
    files.make_folder(folder)
    for diff_id in diff_ids:
        (folder / digests.hex_of(diff_id)).touch()
    files.sync_folder(folder)


def marked(folder: str) -> list[str]:
    """The names of the marked layers below a folder of copies."""
    try:
        return os.listdir(copy_paths.CopyPaths(folder).outliving)
    except FileNotFoundError:
        return []


def forget(folder: str, name: str) -> None:
    """Remove a mark, after its copy."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{copy_paths.CopyPaths(folder).outliving}/{name}")
