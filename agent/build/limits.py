"""What a layer may take of the builder: every limit in one place, and the account of one layer.

The author of an image is not trusted. 2,560 bytes of tar can stand for an exabyte, a small
blob for gigabytes of zeros or of names, and some shapes of names cost work that grows with
their square. So what a layer takes is counted while it streams, and refused where it goes
beyond what an image needs that can run. A refusal is final for the image: pods pull it
as usual.

Limits of manifests, indexes and configs are in `agent.model.oci`, those of the store's records
in `agent.store.lookup.file_reads`. docs/security/limits.md has all of them.
"""

import dataclasses

from agent import errors
from agent.kits import units

EXPANSION = 4
"""Bytes that a layer may unpack to, for each byte that is left of its cache's size."""

RATIO = 100
"""Bytes that a layer may unpack to, for each byte of its blob; text has 20."""

RATIO_FREE = 4 << 30
"""Bytes that a layer may unpack to, however small its blob is."""

PATH_DEPTH = 512
"""Names that a path may have."""

HEADER = 1 << 20
"""Bytes of a PAX header, a GNU long name or the map of a sparse file, as in Go."""

IMPLIED = 16 << 20
"""Bytes of the paths of all directories that a layer has things in but does not name; each counts
for 24 more: nodes read the list of them (agent.model.records)."""
_NAME = 24

STEPS = 30_000_000
"""Names that may be looked at to follow symlinks, and to find what an entry removes."""

COMPARED = 20_000_000_000
"""Names that mkfs.erofs may compare: for each entry, it goes through all of its directory."""

LOOK_BELOW = 10
"""Steps that it counts as to look for a directory in a layer below."""

ENTRY = 640
"""Bytes of memory for a file with a short name, nearly all of it in mkfs.erofs."""

FOLDER = 384
"""Bytes beyond these for a directory: here, where all are known by their names, and there."""

ODD_ENTRY = 640
"""Bytes beyond these for an entry with a long name, xattrs or a link, beside the bytes of those."""

MEMORY = 2 << 30
"""Bytes of memory that a builder has where no limit is set for it: as in its Job."""

OWN_MEMORY = 896 << 20
"""Bytes of memory that a builder needs whatever its layers are: 512 MiB for one zstd window."""

LEAST_MEMORY = 128 << 20
"""Bytes of memory for the entries of one layer, however little memory a builder has."""


class TooMuch(errors.PermanentError):
    """A layer takes more than a build gives one. `reason` says of what."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"it is refused, to protect the builder: {reason}")
        self.reason = reason


class NoRoom(TooMuch):
    """A layer cannot fit into what is left of its cache's size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the builder has: bytes of memory, for `parallel` layers that are made at a time."""

    memory: int = MEMORY
    parallel: int = 3

    @property
    def of_layer(self) -> int:
        """Bytes of memory for the entries of one layer."""
        return max(LEAST_MEMORY, (self.memory - OWN_MEMORY) // self.parallel)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one layer may take.

    `blob` is the size of its blob as its manifest says, `room` what is left of its cache's size,
    `memory` bytes are for its entries.
    """

    blob: int = 0
    room: int = RATIO_FREE
    memory: int = Machine().of_layer
    steps: int = STEPS
    compared: int = COMPARED

    @property
    def unpacked(self) -> int:
        """Bytes that its tar may have."""
        return min(self.room * EXPANSION, RATIO_FREE + self.blob * RATIO)


class Account:
    """What one pass over a layer has taken so far; raises TooMuch. For one thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._most = self._limits.unpacked
        self._unpacked = 0
        self._tar = 0
        self._written = 0
        self._memory = 0
        self._implied = 0
        self._steps = 0

    def write(self, count: int, arrived: int) -> None:
        """Count bytes that are written, of a blob of which so many bytes have arrived.

        What the manifest says of the size of a blob shows as wrong only at its end.
        """
        self._written += count
        most = RATIO_FREE + arrived * RATIO
        if self._written > most:
            self._raise_of_blob(most, arrived)

    def unpack(self, count: int) -> None:
        """Count bytes of the tar before they are handed on."""
        self._unpacked += count
        self._require_room(self._unpacked)

    def read(self, count: int) -> None:
        """Count bytes of the tar as they come, also those that stand for nothing.

        Headers that no entry follows, data of the root, what is after the end: it is decompressed
        and hashed all the same.
        """
        self._tar += count
        self._require_room(self._tar)

    def _require_room(self, count: int) -> None:
        limits = self._limits
        if count <= self._most:
            return
        if count > limits.room * EXPANSION:
            raise NoRoom(
                f"it unpacks to more than {units.size(self._most)}, {EXPANSION} times what is left"
                " of the size of the cache"
            )
        self._raise_of_blob(self._most, limits.blob)

    def _raise_of_blob(self, most: int, blob: int) -> None:
        raise TooMuch(
            f"it unpacks to more than {units.size(most)}, for a blob of {units.size(blob)}"
        )

    def keep(self, count: int) -> None:
        """Count bytes of memory that entries take, here and in mkfs.erofs."""
        self._memory += count
        if self._memory > self._limits.memory:
            raise TooMuch(
                "its files and their names need more memory than the"
                f" {units.size(self._limits.memory)} that a layer may have: give builders more"
            )

    def imply(self, path: bytes) -> None:
        """Count a directory that the tar does not name."""
        self._implied += len(path) + _NAME
        if self._implied > IMPLIED:
            raise TooMuch(
                "the names of the directories that its tar does not name have more than"
                f" {units.size(IMPLIED)}"
            )

    def compare(self, names: int) -> None:
        """Look at the names that mkfs.erofs compares in all."""
        if names > self._limits.compared:
            raise TooMuch(
                "its directories have too many entries: mkfs.erofs would compare more than"
                f" {self._limits.compared:,} names"
            )

    def look(self, steps: int) -> None:
        """Count names that are looked at."""
        self._steps += steps
        if self._steps > self._limits.steps:
            raise TooMuch(
                "to follow its symlinks, and to find what its entries remove, takes more than"
                f" {self._limits.steps:,} steps"
            )
