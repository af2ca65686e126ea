"""From a layer blob to its tar: gzip (any number of members, eStargz), zstd, or plain.

The media type says whether a blob is compressed, its first bytes say how, as in containerd.
Output comes in bounded pieces, however well the input is compressed. The calls
release the interpreter's lock.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip_lib

from agent import errors

IsalError: type[Exception] = cast("type[Exception]", igzip_lib.IsalError)

PIECE = 1 << 20
"""No piece of output is larger, in bytes."""

_FRAME_HEADER = 18
"""The most bytes of a zstd frame before its content."""

_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW = 512 << 20
"""What containerd's decoder takes; `zstd --long=31` alone makes larger ones."""

_USUAL_WINDOW = 128 << 20
"""That of `zstd --ultra -22`. Blobs with a larger one are decompressed one at a time."""

_FIRST_SLICE = 4096
"""Bytes. A blob may be millions of empty gzip members, and each copies what it is given beyond its
end."""

_large_window = threading.Lock()


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
    while len(first) < _FRAME_HEADER and (more := source.read()):
        first += more
    pushed = _Pushed(first, source)
    is_zstd = first.startswith(_ZSTD) or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50)
    if not first.startswith(_GZIP) and not is_zstd:
        return _plain(pushed)
    if not compressed:
        raise DamagedBlob("its media type says that it is not compressed; containerd believes that")
    return _zstd(pushed, first) if is_zstd else _gzip(pushed)


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


def _zstd(source: Source, first: bytes) -> Iterator[bytes]:
    is_usual = _window(first) <= _USUAL_WINDOW
    with contextlib.nullcontext() if is_usual else _large_window:
        reader = zstandard.ZstdDecompressor(
            max_window_size=_USUAL_WINDOW if is_usual else _ZSTD_WINDOW
        ).stream_reader(
            cast("BinaryIO", source),
            read_size=PIECE,
            read_across_frames=True,
        )
        try:
            while data := reader.read(PIECE):
                yield data
        except zstandard.ZstdError as error:
            raise DamagedBlob(str(error)) from error


def _window(first: bytes) -> int:
    """The window of the first frame, which those after it do not exceed; a large one in doubt."""
    try:
        frame = zstandard.get_frame_parameters(first)
    except zstandard.ZstdError:
        return _ZSTD_WINDOW
    # A frame with its content in one segment has no window: it takes as much as the content.
    return frame.window_size or _ZSTD_WINDOW


def _gzip(source: Source) -> Iterator[bytes]:
    blob = _Rewound(source)
    is_first = True
    while blob.begins_with(_GZIP[:2]):
        try:
            yield from _member(blob)
        except _NoMember:
            if is_first:
                raise
            break
        is_first = False
    # What follows the last member is padding, also where it begins as a member does. That no
    # tar is missing is for the diff ID to say, so the blob is read to its end and no more.
    while source.read():
        pass


def _member(blob: "_Rewound") -> Iterator[bytes]:
    """One gzip member; what was read beyond it is put back."""
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    fault: type[DamagedBlob] = _NoMember
    size = _FIRST_SLICE
    while not member.eof:
        data = b""
        if member.needs_input:
            data = blob.take(size)
            size = min(2 * size, PIECE)
            if not data:
                raise fault("it ends in the middle of a gzip member")
        try:
            piece = member.decompress(data, PIECE)
        except IsalError as error:
            raise fault(str(error)) from error
        if piece:
            fault = DamagedBlob
            yield piece
    blob.put_back(len(member.unused_data))


class _Rewound:
    """The bytes of a source, of which the last ones that were taken can be put back."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._data = b""
        self._at = 0

    def begins_with(self, magic: bytes) -> bool:
        """Whether these bytes are next."""
        while len(self._data) - self._at < len(magic) and (more := self._source.read()):
            self._data, self._at = self._data[self._at :] + more, 0
        return self._data.startswith(magic, self._at)

    def take(self, size: int) -> bytes:
        """Some bytes, at most `size`; b"" at the end."""
        if self._at == len(self._data):
            self._data, self._at = self._source.read(), 0
        part = self._data[self._at : self._at + size]
        self._at += len(part)
        return part

    def put_back(self, count: int) -> None:
        """Have the last `count` bytes that were taken follow again."""
        self._at -= count
