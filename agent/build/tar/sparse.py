"""Sparse files: where the data that a tar has of one belong; pure."""

from collections.abc import Sequence

from agent.build.tar import headers


def pieces_of(numbers: Sequence[int], *, data: int, size: int) -> list[tuple[int, int]]:
    """The map of a sparse file, offsets and lengths in turns, as pairs of both.

    `data` are the bytes that the tar has of it, `size` is the file's. Raises LayerTarError where
    the pieces are out of order, outside of the file, or not as long as the data together.
    """
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pieces:
        if offset < end or offset + length > size:
            raise headers.LayerTarError("a sparse map that contradicts itself")
        end = offset + length
    if sum(length for _, length in pieces) != data:
        raise headers.LayerTarError("a sparse file with more or less data than its map says")
    return pieces
