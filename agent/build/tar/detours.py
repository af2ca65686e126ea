"""Large files leave the tar on its way to mkfs.erofs, which gets an empty file in their place.

mkfs.erofs keeps what it has compressed of a file in memory, and compresses nothing before the
tar has ended. So the data of large files are written beside it (`agent.build.bulk`), and the
empty file is found again in the finished image by owner and time: a hash of the layer's name, which
no tar can contain, for the name is the digest of the tar.
"""

import dataclasses
import hashlib

from agent.build.tar import headers

LEAST = 1 << 20
"""Bytes of the smallest file that takes the detour."""

_SMALL_NUMBERS, _TIMES = 8**7, 8**11
"""What fits into the fields of a plain header."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What the empty file has in place of its own owner and time."""

    uid: int
    gid: int
    mtime: int


@dataclasses.dataclass(frozen=True, slots=True)
class Detour:
    """The next `size` bytes of a tar are data of this file, `padding` bytes after them of none."""

    mark: Mark
    size: int
    padding: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int


class Detours:
    """Sends the files of one layer on their way."""

    def __init__(self, layer: str, *, least: int = LEAST) -> None:
        self._layer = layer
        self._least = least
        self._count = 0

    @classmethod
    def none(cls) -> "Detours":
        """Lets all files stay in the tar."""
        return cls("", least=1 << 63)

    def takes(self, kind: bytes, size: int) -> bool:
        """Whether an entry is such a file."""
        return size >= self._least and kind == b"0"

    def send(self, entry: headers.Entry) -> tuple[headers.Entry, Detour]:
        """The entry of the empty file, and what the data are that follow."""
        mark = self._mark()
        empty = dataclasses.replace(
            entry, size=0, uid=mark.uid, gid=mark.gid, mtime=mark.mtime, mtime_ns=0, sparse=None
        )
        return empty, Detour(
            mark=mark,
            size=entry.size,
            padding=-entry.size % 512,
            uid=entry.uid,
            gid=entry.gid,
            mtime=entry.mtime,
            mtime_ns=entry.mtime_ns,
        )

    def _mark(self) -> Mark:
        text = f"uimgacc detour {self._layer} {self._count}"
        self._count += 1
        digest = hashlib.sha256(text.encode()).digest()
        uid, gid, mtime = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
        # Not zero: mkfs.erofs gives a file of that time a small inode, without one.
        return Mark(uid % _SMALL_NUMBERS, gid % _SMALL_NUMBERS, 1 + mtime % (_TIMES - 1))
