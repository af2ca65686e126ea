"""A tar in pieces: what is read of it, what passes as it is, what is emitted in its place.

Reading is a generator, because a piece may end anywhere. It yields `NEXT` where it needs the
next piece, and `FULL` where so much is to be handed on that it should be first: a few bytes of
a tar can stand for gigabytes of zeros, which are never in memory at once.
"""

from collections.abc import Generator, Sequence

from agent.build import limits
from agent.build.tar import detours

BLOCK = 512
NEXT, FULL = False, True

_ZEROS = bytes(1 << 20)
_MANY = 256
"""Spans; as many of 1 MiB are the same zeros, others have few KiB."""

Span = memoryview | bytes | detours.Detour
Reading = Generator[bool, None, bytes]
Steps = Generator[bool, None, None]


class Pieces:
    """One tar on its way. `raw` is the piece at hand, `at` the position in it.

    Bytes that are handed on are counted by `account` first.
    """

    def __init__(self, account: limits.Account) -> None:
        self.raw = b""
        self.at = 0
        self.broken_off = False
        """Whether the tar must not end here."""
        self.owed = 0
        """Bytes of padding that a tar which ends here lacks."""
        self._account = account
        self._out: list[Span] = []
        self._view = memoryview(b"")
        self._from = 0

    def begin(self, piece: bytes) -> None:
        """Take the next piece; the one before has been read to its end."""
        self.raw = piece
        self._view = memoryview(piece)
        self.at = self._from = 0

    def end(self) -> None:
        """Hand on what has passed of this piece."""
        self._flush(len(self.raw))

    def taken(self) -> Sequence[Span]:
        """What is to be handed on so far."""
        out, self._out = self._out, []
        return out

    @property
    def is_full(self) -> bool:
        """Whether so much is to be handed on that it should be first."""
        return len(self._out) >= _MANY

    def emit(self, data: bytes) -> None:
        """Hand on something that is not in the piece."""
        self._account.unpack(len(data))
        self._flush(self.at)
        self._out.append(data)

    def divert(self, detour: detours.Detour) -> None:
        """Hand on that the data which follow go elsewhere."""
        self._flush(self.at)
        self._out.append(detour)

    def take(self, count: int) -> Reading:
        """Read bytes and leave them out of the output."""
        self._flush(self.at)
        parts = bytearray()
        while True:
            part = self._view[self.at : self.at + count - len(parts)]
            parts += part
            self.at += len(part)
            self._from = self.at
            if len(parts) == count:
                return bytes(parts)
            yield NEXT

    def let_pass(self, count: int) -> Steps:
        """Let bytes through as they are; they were counted before."""
        while True:
            step = min(count, len(self.raw) - self.at)
            self.at += step
            count -= step
            if not count:
                return
            self._flush(self.at)
            yield NEXT
            if self.owed:
                self.owed = count

    def data(self, size: int) -> Steps:
        """Let the data of an entry through; its padding may be cut off at the end."""
        self.broken_off = True
        yield from self.let_pass(size)
        self.broken_off = False
        self.owed = padded(size) - size
        yield from self.let_pass(self.owed)
        self.owed = 0

    def drop(self, count: int) -> Steps:
        """Leave bytes out of the output without keeping them."""
        self._flush(self.at)
        while True:
            step = min(count, len(self.raw) - self.at)
            self.at += step
            self._from = self.at
            count -= step
            if not count:
                return
            yield NEXT

    def zeros(self, count: int) -> Steps:
        """Hand on zeros; they were counted before."""
        self._flush(self.at)
        while count > 0:
            step = min(count, len(_ZEROS))
            self._out.append(_ZEROS if step == len(_ZEROS) else _ZEROS[:step])
            count -= step
            if self.is_full:
                yield FULL

    def _flush(self, upto: int) -> None:
        """Hand on what has passed unchanged since the last change."""
        if upto > self._from:
            self._out.append(self._view[self._from : upto])
        self._from = upto


def padded(size: int) -> int:
    """A size in whole blocks."""
    return (size + BLOCK - 1) // BLOCK * BLOCK
