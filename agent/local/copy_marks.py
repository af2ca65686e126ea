"""Copies that outlive their layers in the store: marked before this node says it holds nothing.

Then the store's files may go, and the node has nothing but its copies. One that is marked is not
exchanged for the store's file while something runs on it; after that it goes, with its mark.
Two services of the agent take part, in no order: the one marks and then looks which file is
mounted, the other exchanges and then looks for a mark. Blocking, on the local disk.
"""

import pathlib
from collections.abc import Iterable

from agent.kits import files
from agent.local import copy_paths
from agent.model import digests


def keep(root: str, diff_ids: Iterable[str]) -> None:
    """Mark the copies of some layers, durably. Raises OSError."""
    where = copy_paths.of(root)
    folder = pathlib.Path(where.outliving)
    files.make_folder(folder)
    for diff_id in diff_ids:
        pathlib.Path(where.outliver(digests.hex_of(diff_id))).touch()
    files.sync_folder(folder)
