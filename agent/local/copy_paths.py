"""Where things are in the folder of local copies: arithmetic on paths, for workers as well.

It is laid out like a store (agent.store.layout), so that what reads a store can read it. A file
under its final name is complete, verified and durable; work in progress is in `tmp`.
"""

import dataclasses

from agent.mounts import mountpoints
from agent.store.lookup import chain_index


@dataclasses.dataclass(frozen=True, slots=True)
class CopyPaths:
    """The paths below `folder`. A layer is named by the 64 hex digits of its diff ID."""

    folder: str

    @property
    def layer_files(self) -> str:
        """The folder of all copies."""
        return f"{self.folder}/sha256"

    @property
    def tmp(self) -> str:
        """Work in progress."""
        return f"{self.folder}/tmp"  # noqa: S108 - not the system's

    @property
    def marks(self) -> str:
        """The folder of the marks of layers that had wrong bytes in the store."""
        return f"{self.folder}/damaged"

    @property
    def profiles(self) -> str:
        """The folder of the start profiles that were made on this node."""
        return f"{self.folder}/profiles"

    @property
    def lock(self) -> str:
        """Locked by the agent that makes and removes copies: one at a time."""
        return f"{self.folder}/lock"

    def layer(self, name: str) -> str:
        """The copy of a layer."""
        return chain_index.file_of(self.folder, name)

    def tree(self, name: str) -> str:
        """The copy of its hash tree, where that is a file of its own in the store, too."""
        return f"{self.layer(name)}.verity"

    def draft(self, name: str) -> str:
        """A copy that is not complete."""
        return f"{self.tmp}/{name}.erofs"

    def tree_draft(self, name: str) -> str:
        """A copy of a hash tree that is not complete."""
        return f"{self.draft(name)}.verity"

    def record(self, name: str) -> str:
        """The layer's record, by which the copy was verified."""
        return f"{self.folder}/meta/layers/{name[:2]}/{name}.json"

    def mark(self, name: str) -> str:
        """Says by its time when wrong bytes of a layer were read from the store."""
        return f"{self.marks}/{name}"

    @property
    def outliving(self) -> str:
        """The folder of the marks of layers that the store may have deleted: see copy_marks."""
        return f"{self.folder}/outliving"

    def outliver(self, name: str) -> str:
        """The mark of such a layer; it goes with the copy."""
        return f"{self.outliving}/{name}"


def of(root: str) -> CopyPaths:
    """The folder in the root folder of a snapshotter."""
    return CopyPaths(f"{root}/{mountpoints.COPIES}")
