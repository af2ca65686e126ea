"""One image of two: that of mkfs.erofs, and the large files that were written beside it.

mkfs.erofs has made an empty file for each of those. Here each gets an inode that has the data, at
the end of the image, and every name of the empty file leads to that instead. Inodes are found by
their distance from the start of the image, so nothing else moves.

An inode has the layout of chunks where none of its extents is compressed, else that of compressed
data, with an index of eight bytes for each block. Source of the formats: Linux,
fs/erofs/erofs_fs.h.
"""

import functools
import os
import pathlib
import struct
from collections.abc import Iterator

from agent.build import erofs
from agent.build.bulk import extents, spool
from agent.build.tar import detours
from agent.model.erofs import superblock

_COMPRESSED, _CHUNKS = 1, 4
_PLAIN, _HEAD, _NONHEAD = 0, 1, 2
_COUNTED = 1 << 11
"""Marks the number of blocks of a compressed extent, in the second entry of its index."""
_BIG_PCLUSTERS = 2
_ENTRY = struct.Struct("<HHI")
_MAP_HEADER = struct.Struct("<IHBB8x")
_CHUNK_BITS = (extents.BLOCKS - 1).bit_length()

_INODE = 64
_CHECKSUM, _FEATURES, _BLOCKS_AT, _LZ4 = 4, 80, 36, 128
_HAS_CHECKSUM, _HAS_BIG_PCLUSTERS, _HAS_CHUNKS = 1, 2, 4
_COPY = 1 << 20
_BATCH = 1024
"""Extents whose index is in memory at a time."""


class _Grafting:
    """One image at work: `file` is the spool's, which becomes the layer file."""

    def __init__(self, image: pathlib.Path, spooled: spool.Spool) -> None:
        self._image = image
        self._spool = spooled
        self._table = spooled.table
        self._file = spooled.finish()
        self._front = -(-image.stat().st_size // extents.BLOCK)
        self._order = sorted(range(len(self._table)), key=self._table.starts.__getitem__)
        """The extents as they lie in the file."""
        self._end = self._end_of(self._order[-1])
        self._has_chunks = False

    def run(self) -> None:
        if self._front * extents.BLOCK <= spool.FRONT:
            self._fill_front()
        else:
            self._clear_front()
        with self._image.open("rb") as source:
            at = 0
            while data := source.read(_COPY):
                spool.write_all(self._file, [data], at)
                at += len(data)
        # What was moved away from the end goes: behind it are only zeros.
        os.ftruncate(self._file.fileno(), self._end * extents.BLOCK)
        self._give_inodes()
        self._write_superblock()

    def _fill_front(self) -> None:
        """Have the last extents fill what the image leaves free; less than one stays free."""
        at, end = self._front, spool.FRONT // extents.BLOCK
        for number in reversed(self._order):
            count = abs(self._table.blocks[number])
            if at + count > end:
                return
            self._end = self._table.starts[number]
            self._move(number, at)
            at += count
        self._end = at

    def _clear_front(self) -> None:
        """Move the first extents out of the image's place, to the end."""
        for number in self._order:
            start = self._table.starts[number]
            if start >= self._front:
                rest = bytes((start - self._front) * extents.BLOCK)
                spool.write_all(self._file, [rest], self._front * extents.BLOCK)
                return
            self._end = max(self._end, self._front)
            self._move(number, self._end)
            self._end += abs(self._table.blocks[number])

    def _end_of(self, number: int) -> int:
        return self._table.starts[number] + abs(self._table.blocks[number])

    def _move(self, number: int, start: int) -> None:
        size = abs(self._table.blocks[number]) * extents.BLOCK
        data = os.pread(self._file.fileno(), size, self._table.starts[number] * extents.BLOCK)
        spool.write_all(self._file, [data], start * extents.BLOCK)
        self._table.starts[number] = start

    def _give_inodes(self) -> None:
        """Write an inode for each large file that has a name, and have its names lead to it."""
        files = {each.detour.mark: each for each in self._spool.files}
        made: dict[int, int] = {}
        with erofs.Layer(self._image) as layer:
            for entry_at, inode in layer.regular_files():
                if inode.position not in made:
                    file = files.get(detours.Mark(inode.uid, inode.gid, inode.mtime))
                    if file is None or inode.size:
                        continue
                    old = layer.read(inode.position, _INODE + inode.xattrs_size)
                    made[inode.position] = layer.number_of(self._end * extents.BLOCK)
                    self._write_inode(file, old)
                number = made[inode.position].to_bytes(8, "little")
                spool.write_all(self._file, [number], entry_at)

    def _write_inode(self, file: spool.File, old: bytes) -> None:
        """Write the inode of a large file at the end; it has blocks of its own."""
        at = self._end * extents.BLOCK
        for part in self._inode(file, old):
            spool.write_all(self._file, [part], at)
            at += len(part)
        self._end = -(-at // extents.BLOCK)
        os.ftruncate(self._file.fileno(), self._end * extents.BLOCK)

    def _inode(self, file: spool.File, old: bytes) -> Iterator[bytes]:
        """The inode of a large file, made from that of the empty one, and what follows it."""
        detour = file.detour
        own = slice(file.first, file.first + file.count)
        starts, blocks = self._table.starts[own], self._table.blocks[own]
        is_plain = min(blocks) > 0
        new = bytearray(old)
        (form,) = struct.unpack_from("<H", old)
        form = form & ~0xE | (_CHUNKS if is_plain else _COMPRESSED) << 1
        struct.pack_into("<H", new, 0, form)
        struct.pack_into("<Q", new, 8, detour.size)
        struct.pack_into("<IIqI", new, 24, detour.uid, detour.gid, detour.mtime, detour.mtime_ns)
        if is_plain:
            self._has_chunks = True
            struct.pack_into("<HH", new, 16, _CHUNK_BITS, 0)
            yield bytes(new) + bytes(-len(new) % 4)
            for at in range(0, len(starts), _BATCH):
                part = starts[at : at + _BATCH]
                yield struct.pack(f"<{len(part)}I", *part)
            return
        struct.pack_into("<I", new, 16, sum(map(abs, blocks)))
        yield bytes(new) + bytes(-len(new) % 8) + _MAP_HEADER.pack(0, _BIG_PCLUSTERS, 0, 0)
        # A batch at a time: the index of a file of 100 GB has 200 MB.
        left = -(-detour.size // extents.BLOCK)
        for at in range(0, len(starts), _BATCH):
            index = bytearray()
            for start, count in zip(
                starts[at : at + _BATCH], blocks[at : at + _BATCH], strict=True
            ):
                length = min(left, extents.BLOCKS)
                left -= length
                index += _index(start, length) if count > 0 else _head(start, length, -count)
            yield bytes(index)

    def _write_superblock(self) -> None:
        block = bytearray(os.pread(self._file.fileno(), extents.BLOCK, 0))
        own = memoryview(block)[superblock.OFFSET :]
        (features,) = struct.unpack_from("<I", own, _FEATURES)
        if not features & _HAS_BIG_PCLUSTERS:
            raise erofs.NotReadable(self._image, "it has no big pclusters")
        if self._has_chunks:
            features |= _HAS_CHUNKS
        struct.pack_into("<I", own, _FEATURES, features)
        struct.pack_into("<I", own, _BLOCKS_AT, self._end)
        # After the length of these: the greatest distance, and the most blocks of an extent.
        (most,) = struct.unpack_from("<H", own, _LZ4 + 4)
        struct.pack_into("<H", own, _LZ4 + 4, max(most, extents.WORTH))
        if own[8] & _HAS_CHECKSUM:
            struct.pack_into("<I", own, _CHECKSUM, 0)
            struct.pack_into("<I", own, _CHECKSUM, _crc32c(own))
        spool.write_all(self._file, [bytes(block)], 0)


def graft(image: pathlib.Path, spooled: spool.Spool) -> None:
    """Put the files of a spool into a finished image; nothing changes where it has none."""
    if spooled.files:
        _Grafting(image, spooled).run()
        spooled.path.replace(image)


def _index(start: int, length: int) -> bytes:
    """The index of an extent that is not compressed."""
    return b"".join(_ENTRY.pack(_PLAIN, 0, start + at) for at in range(length))


def _head(start: int, length: int, blocks: int) -> bytes:
    """The index of a compressed extent."""
    return _ENTRY.pack(_HEAD, 0, start) + _rest(length, blocks)


@functools.cache
def _rest(length: int, blocks: int) -> bytes:
    """All entries but the first: how far each is from that, and from the next extent."""
    return b"".join(
        struct.pack("<HHHH", _NONHEAD, 0, blocks | _COUNTED if at == 1 else at, length - at)
        for at in range(1, length)
    )


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc32c(data: memoryview) -> int:
    """As EROFS has it: not inverted at the end."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value
