"""From a layer blob to its tar: gzip (any number of members, eStargz), zstd, or plain.

The media type says whether a blob is compressed, its first bytes say how, as in containerd.
Output comes in bounded pieces, however well the input is compressed. The calls
release the interpreter's lock.
"""

from collections.abc import Generator, Iterator
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip_lib

from agent import errors

IsalError: type[Exception] = cast("type[Exception]", igzip_lib.IsalError)

PIECE = 1 << 20
"""No piece of output is larger, in bytes."""

_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW = 512 << 20
"""What containerd's decoder takes; `zstd --long=31` alone makes larger ones."""


class DamagedBlob(errors.PermanentError):
    """A blob cannot be decompressed. `reason` is what the library says."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the blob cannot be decompressed: {reason}")
        self.reason = reason


class _NoMember(DamagedBlob):
    """What begins as a gzip member does is none."""


class Source(Protocol):
    """The compressed bytes."""

    def read(self, size: int = -1) -> bytes:
        """Some bytes, at most `size` where that is positive; b"" at the end."""


def pieces(source: Source, *, compressed: bool) -> Iterator[bytes]:
    """The tar in pieces of at most PIECE bytes; raise DamagedBlob."""
    first = b""
    while len(first) < 4 and (more := source.read()):
        first += more
    pushed = _Pushed(first, source)
    is_zstd = first.startswith(_ZSTD) or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50)
    if not first.startswith(_GZIP) and not is_zstd:
        return _plain(pushed)
    if not compressed:
        raise DamagedBlob("its media type says that it is not compressed; containerd believes that")
    return _zstd(pushed) if is_zstd else _gzip(pushed)


class _Pushed:
    """A source with some bytes pushed back in front of it."""

    def __init__(self, first: bytes, source: Source) -> None:
        self._first = first
        self._source = source

    def read(self, size: int = -1) -> bytes:
        if self._first:
            count = len(self._first) if size < 0 else size
            data, self._first = self._first[:count], self._first[count:]
            return data
        return self._source.read(size)


def _plain(source: Source) -> Iterator[bytes]:
    while data := source.read(PIECE):
        yield data


def _zstd(source: Source) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
        cast("BinaryIO", source),
        read_size=PIECE,
        read_across_frames=True,
    )
    try:
        while data := reader.read(PIECE):
            yield data
    except zstandard.ZstdError as error:
        raise DamagedBlob(str(error)) from error


def _gzip(source: Source) -> Iterator[bytes]:
    data = source.read()
    is_first = True
    while data.startswith(_GZIP[:2]):
        try:
            data = yield from _member(source, data)
        except _NoMember:
            if is_first:
                raise
            break
        is_first = False
        while len(data) < len(_GZIP) and (more := source.read()):
            data += more
    # What follows the last member is padding, also where it begins as a member does. That no
    # tar is missing is for the diff ID to say, so the blob is read to its end and no more.
    while source.read():
        pass


def _member(source: Source, data: bytes) -> Generator[bytes, None, bytes]:
    """One gzip member that begins with `data`; returns what was read beyond it."""
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    fault: type[DamagedBlob] = _NoMember
    while not member.eof:
        if member.needs_input and not data and not (data := source.read()):
            raise fault("it ends in the middle of a gzip member")
        try:
            piece = member.decompress(data, PIECE)
        except IsalError as error:
            raise fault(str(error)) from error
        data = b""
        if piece:
            fault = DamagedBlob
            yield piece
    return bytes(member.unused_data)
