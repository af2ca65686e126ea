"""Sparse files: where the data that a tar has of one belong, and zeros in its holes."""

from collections.abc import Generator, Sequence

from agent.build import limits
from agent.build.tar import headers, pieces

_Map = Generator[bool, None, tuple[int, Sequence[int]]]


def read(tar: pieces.Pieces, sparse: headers.Sparse, stored: int) -> _Map:
    """The map of a sparse file, of which the tar has `stored` bytes.

    Returns how many of those the map took, and its numbers: offsets and lengths in turns.
    """
    if not sparse.inline:
        return 0, sparse.numbers
    used, lines, wanted = 0, [b""], 1
    while len(lines) <= wanted:
        if used + pieces.BLOCK > stored or used > limits.HEADER:
            raise headers.LayerTarError("a sparse map that does not end")
        block = yield from tar.take(pieces.BLOCK)
        used += pieces.BLOCK
        first, *more = block.split(b"\n")
        lines[-1] += first
        lines += more
        if wanted == 1 and more:
            wanted = 1 + 2 * headers.decimal(lines[0])
    return used, [headers.decimal(line) for line in lines[1:wanted]]


def require_sound(numbers: Sequence[int], *, data: int, size: int) -> Sequence[int]:
    """The map; raise LayerTarError where it is not one of a file of `size` with so many `data`.

    Its pieces are in order, within the file, and together as long as the data.
    """
    if size < 0:
        raise headers.LayerTarError("a sparse file of negative size")
    end = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=False):
        # A negative length would have the tar read again from further ahead, for ever.
        if offset < end or length < 0 or offset + length > size:
            raise headers.LayerTarError("a sparse map that contradicts itself")
        end = offset + length
    if sum(numbers[1::2]) != data:
        raise headers.LayerTarError("a sparse file with more or less data than its map says")
    return numbers


def fill(tar: pieces.Pieces, numbers: Sequence[int], *, stored: int, size: int) -> pieces.Steps:
    """Hand on the data of a sparse file with zeros in its holes."""
    at = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=False):
        yield from tar.zeros(offset - at)
        yield from tar.let_pass(length)
        at = offset + length
        if tar.is_full:
            yield pieces.FULL
    yield from tar.zeros(pieces.padded(size) - at)
    yield from tar.drop(pieces.padded(stored) - stored)
