"""Extents of large files: compressed where that is worth it, each at the end of its blocks."""

import random

import lz4.block

from agent.build.bulk import extents

RANDOM = random.Random(1).randbytes(2 * extents.SIZE + 5000)


def test_what_does_not_compress_is_plain() -> None:
    packed = extents.pack(memoryview(RANDOM))

    assert packed.blocks == [extents.BLOCKS, extents.BLOCKS, 2]
    stored = b"".join(bytes(each) for each in packed.buffers)
    assert stored == RANDOM.ljust(66 * extents.BLOCK, b"\0")


def test_what_compresses_ends_where_its_blocks_do() -> None:
    text = b"".join(b"line %d of a text\n" % number for number in range(10_000))[: extents.SIZE]

    packed = extents.pack(memoryview(text))

    (blocks,) = packed.blocks
    stored = b"".join(bytes(each) for each in packed.buffers)
    assert 0 < -blocks < extents.WORTH
    assert len(stored) == -blocks * extents.BLOCK
    compressed = stored.lstrip(b"\0")
    assert lz4.block.decompress(compressed, uncompressed_size=len(text)) == text


def test_each_extent_is_decided_alone() -> None:
    mixed = RANDOM[: extents.SIZE] + bytes(extents.SIZE) + RANDOM[: extents.SIZE]

    assert extents.pack(memoryview(mixed)).blocks == [extents.BLOCKS, -1, extents.BLOCKS]


def test_too_little_gain_is_none() -> None:
    zeros = extents.SIZE // 16
    mixed = RANDOM[: extents.SIZE - zeros] + bytes(zeros)

    assert extents.pack(memoryview(mixed)).blocks == [extents.BLOCKS]
