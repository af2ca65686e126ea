"""Large files in extents, each compressed by itself, or stored plain where that saves too little.

Of a file of any size, only the extents at work are in memory, and all processors can compress one
file together. Each extent is EROFS's unit of compression (a big pcluster): the kernel reads
and decompresses it as a whole. Of a file with a compressed extent it copies the plain ones, too;
a file of plain extents alone it reads from the disk into the page cache, and copies nothing. So
a file that saves little as a whole is stored plain altogether (`is_worth_it`).
"""

import array
import dataclasses

import lz4
import lz4.block

from agent.model.erofs import superblock

BLOCK = superblock.BLOCK
SIZE = 128 << 10
"""Bytes of an extent, before it is compressed: what a kernel reads ahead of a reader by default."""

BLOCKS = SIZE // BLOCK
WORTH = BLOCKS - BLOCKS // 8
"""Most blocks of a compressed extent: if less is saved, reading it costs more than it gains."""

_FILE_PERCENT = 70
"""Of its blocks a file with compressed extents has at most."""

TOOLCHAIN = f"extents={SIZE >> 10}K,files={_FILE_PERCENT}%,lz4-{lz4.library_version_string()}"
"""What determines the bytes; stands in the records of layers that have such files."""

_ZEROS = bytes(BLOCK)

Buffer = bytes | memoryview


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """Some extents of one file, in order: the data to write, and the size of each extent.

    `blocks` has for each extent its number of blocks, negative where it is compressed.
    """

    buffers: list[Buffer]
    blocks: list[int]


def pack(view: memoryview) -> Packed:
    """Compress the next part of a file. Only the last part may end with an incomplete extent."""
    buffers: list[Buffer] = []
    blocks = []
    for start in range(0, len(view), SIZE):
        plain = view[start : start + SIZE]
        count = -(-len(plain) // BLOCK)
        small = lz4.block.compress(plain, store_size=False)
        needed = -(-len(small) // BLOCK)
        if needed <= count * WORTH // BLOCKS:
            # Compressed data stand at the end of their blocks.
            buffers += [_ZEROS[: -len(small) % BLOCK], small]
            blocks.append(-needed)
        else:
            buffers += [plain, _ZEROS[: -len(plain) % BLOCK]]
            blocks.append(count)
    return Packed([each for each in buffers if len(each)], blocks)


def unpack(stored: bytes, size: int) -> bytes:
    """The `size` bytes that a compressed extent had, of all of its blocks."""
    # No compressed data begin with a zero: that would be a match without anything before it.
    data: bytes = lz4.block.decompress(stored.lstrip(b"\0"), uncompressed_size=size)
    return data


def is_worth_it(stored: int, size: int) -> bool:
    """Whether a file of `size` bytes that takes `stored` blocks has compressed extents."""
    return stored <= -(-size // BLOCK) * _FILE_PERCENT // 100


class Table:
    """Where the extents of a file are stored: for each its first block and its number of blocks."""

    def __init__(self) -> None:
        self.starts = array.array("I")
        self.blocks = array.array("b")
        """As in Packed."""

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, start: int, blocks: int) -> None:
        """Note the next extent."""
        self.starts.append(start)
        self.blocks.append(blocks)
