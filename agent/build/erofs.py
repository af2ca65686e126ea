"""Directories and symlinks of a finished layer file, read without mounting it.

The builder is unprivileged, yet must know what a directory of a layer below looks
like (see `agent.build.tar.inheritance`). So this reads as much of EROFS as mkfs.erofs
writes for a layer: superblock, inodes, directory blocks, xattrs. Source of the
format: Linux, fs/erofs/erofs_fs.h.
"""

import os
import pathlib
import stat
import struct
from collections.abc import Iterator

from agent import errors
from agent.build.tar import rooted_path, stream
from agent.model.erofs import superblock

_PLAIN, _INLINE = 0, 2
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}


class NotReadable(errors.PermanentError):
    """A layer file is not as mkfs.erofs writes it. `path` is the file."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class NotADirectory(errors.PermanentError):
    """A path leads through something that is no directory. `path` is that."""

    def __init__(self, path: bytes) -> None:
        super().__init__(f"{path.decode(errors='backslashreplace')[:200]} is not a directory")
        self.path = path


class Inode:
    """An inode; `position` is where it is in the file, in bytes."""

    def __init__(self, layer: "Layer", number: int) -> None:
        self.position: int = layer.meta + number * 32
        data = layer.read(self.position, 64)
        self._xattr_count: int
        form, self._xattr_count, mode = struct.unpack_from("<HHH", data)
        self.mode = mode
        self.layout = form >> 1 & 7
        self.extended = bool(form & 1)
        self.block: int
        self.size: int
        (self.block,) = struct.unpack_from("<I", data, 16)
        self.mtime_ns = 0
        if self.extended:
            (self.size,) = struct.unpack_from("<Q", data, 8)
            self.uid, self.gid, self.mtime, self.mtime_ns = struct.unpack_from("<IIqI", data, 24)
        else:
            (self.size,) = struct.unpack_from("<I", data, 8)
            self.uid, self.gid = struct.unpack_from("<HH", data, 24)
            self.mtime = layer.build_time

    @property
    def xattrs_at(self) -> int:
        """Where its xattrs are."""
        return self.position + (64 if self.extended else 32)

    @property
    def xattrs_size(self) -> int:
        """Their bytes, and the numbers of those that it shares with others."""
        return 12 + 4 * (self._xattr_count - 1) if self._xattr_count else 0


class Layer:
    """One open layer file; use as a context. `look` counts the names that are looked at."""

    def __init__(self, path: pathlib.Path, look: rooted_path.Look = lambda _: None) -> None:
        self._path = path
        self._look = look
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        block = self.read(superblock.OFFSET, 128)
        self._bits: int = block[12]
        (self._root,) = struct.unpack_from("<H", block, 14)
        (self.build_time,) = struct.unpack_from("<q", block, 24)
        meta, self._shared = struct.unpack_from("<II", block, 40)
        self.meta: int = meta << self._bits
        self._known: dict[bytes, Inode | None] = {}
        self._last: tuple[bytes, dict[bytes, int]] | None = None

    def __enter__(self) -> "Layer":
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def read(self, position: int, size: int) -> bytes:
        """Some bytes of the file; as many as there are."""
        return os.pread(self._descriptor, size, position)

    def find(self, path: bytes) -> stream.DirInfo | bool:
        """What a directory looks like; True for something else there, False for nothing.

        Symlinks are followed, as containerd does within the one layer, the last one, too.
        Raises NotADirectory, and TooManyLinksError of rooted_path.
        """
        inode = self._look_up(rooted_path.resolve(path, self._readlink, self._look))
        if inode is None:
            return False
        if not stat.S_ISDIR(inode.mode):
            return True
        return stream.DirInfo(
            mode=stat.S_IMODE(inode.mode),
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
            mtime_ns=inode.mtime_ns,
            xattrs=tuple(
                (name, value)
                for name, value in self._xattrs(inode)
                if not name.startswith(b"trusted.")
            ),
        )

    def regular_files(self) -> Iterator[tuple[int, Inode]]:
        """For each name of a regular file: where its number stands in the file, and the inode."""
        folders = [self._root]
        while folders:
            for name, number, at in self._entries(Inode(self, folders.pop())):
                inode = Inode(self, number)
                if stat.S_ISDIR(inode.mode):
                    if name not in (b".", b".."):
                        folders.append(number)
                elif stat.S_ISREG(inode.mode):
                    yield at, inode

    def number_of(self, position: int) -> int:
        """The number that an inode has at a place of the file."""
        return (position - self.meta) // 32

    def _look_up(self, path: bytes) -> Inode | None:
        """The inode at a path, whose symlinks are not followed; None where there is none."""
        if not path:
            return Inode(self, self._root)
        if path not in self._known:
            folder, _, name = path.rpartition(b"/")
            above = self._look_up(folder)
            number = None
            if above is not None:
                if not stat.S_ISDIR(above.mode):
                    raise NotADirectory(folder)
                number = self._children(folder, above).get(name)
            self._known[path] = None if number is None else Inode(self, number)
        return self._known[path]

    def _children(self, path: bytes, folder: Inode) -> dict[bytes, int]:
        """The numbers of a directory's inodes by name; of the last directory without reading."""
        if self._last is None or self._last[0] != path:
            self._last = path, {name: number for name, number, _ in self._entries(folder)}
            self._look(len(self._last[1]))
        return self._last[1]

    def _readlink(self, path: bytes) -> bytes | None:
        inode = self._look_up(path)
        if inode is None or not stat.S_ISLNK(inode.mode):
            return None
        return self.read(self._place(inode, 0, inode.size), inode.size)

    def _entries(self, folder: Inode) -> Iterator[tuple[bytes, int, int]]:
        """Names and numbers, and where in the file the numbers are."""
        size = 1 << self._bits
        for start in range(0, folder.size, size):
            count = min(size, folder.size - start)
            place = self._place(folder, start, count)
            block = self.read(place, count)
            if len(block) < 12:
                raise NotReadable(self._path, "a directory is cut off")
            (first,) = struct.unpack_from("<H", block, 8)
            offsets = [struct.unpack_from("<QH", block, at) for at in range(0, first, 12)]
            ends = [offset for _, offset in offsets[1:]] + [count]
            for at, ((number, offset), end) in enumerate(zip(offsets, ends, strict=True)):
                yield block[offset:end].rstrip(b"\0"), number, place + 12 * at

    def _place(self, folder: Inode, start: int, count: int) -> int:
        if folder.layout == _INLINE and start + count == folder.size and count < 1 << self._bits:
            return folder.xattrs_at + folder.xattrs_size
        if folder.layout not in (_PLAIN, _INLINE):
            raise NotReadable(self._path, f"an inode has data layout {folder.layout}")
        return (folder.block << self._bits) + start

    def _xattrs(self, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        data = self.read(inode.xattrs_at, inode.xattrs_size)
        if not data:
            return
        shared = data[4]
        for at in range(12, 12 + 4 * shared, 4):
            (number,) = struct.unpack_from("<I", data, at)
            position = (self._shared << self._bits) + 4 * number
            yield _xattr(self.read(position, 4 + 255 + 65536), 0)[:2]
        at = 12 + 4 * shared
        while at + 4 <= len(data):
            name, value, at = _xattr(data, at)
            yield name, value


def _xattr(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    length, index, size = struct.unpack_from("<BBH", data, at)
    start = at + 4
    name = _PREFIXES.get(index, b"trusted.unknown.") + data[start : start + length]
    end = start + length + size
    return name, data[start + length : end], (end + 3) // 4 * 4
