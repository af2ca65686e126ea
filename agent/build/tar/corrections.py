"""What a first pass over a tar finds out too late, for a second one; see `stream`."""

import dataclasses
from collections.abc import Mapping, Sequence

from agent.build.tar import headers


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """A whiteout that removes something of its own layer, as `entry`-th of the tar."""

    path: bytes
    entry: int


@dataclasses.dataclass(frozen=True, slots=True)
class Corrections:
    """Of what entries say: what later ones change of it.

    `files` has the hard links that change a file, by the number of the file's entry among
    those that are no directories; `folders` the xattrs that a directory has in the end,
    where another entry for it changes one; `removals` what goes again.
    """

    files: Mapping[int, Sequence[headers.Entry]] = dataclasses.field(default_factory=dict)
    folders: Mapping[bytes, Sequence[tuple[bytes, bytes]]] = dataclasses.field(default_factory=dict)
    removals: Sequence[Removal] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.removals)


NONE = Corrections()
