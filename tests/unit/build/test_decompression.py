"""Layer blobs of every compression, and what may follow one."""

import gzip
import io

import pytest
import zstandard

from agent.build import decompression

DATA = bytes(range(256)) * 4000


def decompressed(blob: bytes, *, compressed: bool = True) -> bytes:
    return b"".join(decompression.pieces(io.BytesIO(blob), compressed=compressed))


@pytest.mark.parametrize(
    "junk", [b"", bytes(1000), b"junk", b"\x1f\x8b", b"\x1f\x8bjunk", b"\x1f\x8b\x08junk" * 99]
)
def test_what_follows_gzip_is_ignored(junk: bytes) -> None:
    assert decompressed(gzip.compress(DATA) + gzip.compress(b"more") + junk) == DATA + b"more"


@pytest.mark.parametrize("blob", [gzip.compress(DATA)[:-9], b"\x1f\x8b\x08junk", b"\x1f\x8b\x08"])
def test_gzip_that_is_damaged_or_cut_off_is_refused(blob: bytes) -> None:
    with pytest.raises(decompression.DamagedBlob):
        decompressed(blob)


@pytest.mark.parametrize("window", [27, 28, 29])
def test_zstd_with_a_large_window_is_read(window: int) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window)
    blob = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    assert decompressed(blob.compress(DATA) + blob.flush()) == DATA


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_compressed_blob_whose_type_says_plain_is_refused(compress) -> None:
    with pytest.raises(decompression.DamagedBlob, match="media type says"):
        decompressed(compress(DATA), compressed=False)
    assert decompressed(DATA, compressed=False) == decompressed(DATA) == DATA


class Pieces:
    """A blob in large pieces, as a registry sends it."""

    def __init__(self, blob: bytes) -> None:
        self._file = io.BytesIO(blob)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size if size >= 0 else 1 << 20)


def test_thousands_of_empty_gzip_members_cost_no_more_than_their_bytes() -> None:
    """What follows each was copied: of 50,000, a hundred thousand MiB."""
    blob = gzip.compress(b"", mtime=0) * 50_000 + gzip.compress(DATA)

    assert b"".join(decompression.pieces(Pieces(blob), compressed=True)) == DATA


def test_large_windows_are_decompressed_one_at_a_time() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    making = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = making.compress(DATA) + making.flush()
    first = iter(decompression.pieces(io.BytesIO(blob), compressed=True))
    next(first)

    assert decompression._large_window.locked()
    assert decompressed(zstandard.compress(DATA)) == DATA
    first.close()
    assert not decompression._large_window.locked()


def test_a_later_frame_has_no_larger_window_than_usual() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    making = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = zstandard.compress(b"small") + making.compress(DATA) + making.flush()

    with pytest.raises(decompression.DamagedBlob, match="memory"):
        decompressed(blob)
