"""Where the data of a layer's large files are written while its tar streams.

The spool becomes the layer file: room for the image of mkfs.erofs is left at its front, so that
gigabytes are written once (`agent.build.bulk.grafting`). Whether a file is worth its compressed
extents is known at its end: if not, these are unpacked, into the room that they had, and behind
the file. Whatever the number of threads, the same files give the same bytes.
"""

import concurrent.futures
import dataclasses
import errno
import io
import itertools
import os
import pathlib
from collections import deque
from typing import NamedTuple

from agent.build import mkfs_erofs
from agent.build.bulk import extents
from agent.build.tar import detours

FRONT = 16 << 20
"""Bytes that are left free for the image of mkfs.erofs, whose size is not known before its end."""

_BATCH = 8 * extents.SIZE
_UNUSED_PART = 16
"""Of a file's blocks one in so many at most stays unused when it is unpacked: of one in which every
other extent compresses it would be up to 44 %."""
_MOST_RUNS = 64
"""Runs of extents that wait to be unpacked: a file may have one for every other extent."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A large file, and which extents of the spool's table are its data."""

    detour: detours.Detour
    first: int
    count: int


class _Move(NamedTuple):
    """A compressed extent: its blocks, and where its `size` bytes go."""

    start: int
    blocks: int
    to: int
    size: int


_Work = tuple[bytearray, concurrent.futures.Future[extents.Packed]]


class Spool:
    """The large files of one layer, which are those that `diverted` takes; use as a context.

    For one thread: they come one after another.
    """

    def __init__(self, path: pathlib.Path, diverted: detours.Detours, *, threads: int) -> None:
        self.path = path
        self.diverted = diverted
        self.table = extents.Table()
        self.files: list[File] = []
        self._threads = threads
        self._promised = 0
        self._end = FRONT
        self._batch = bytearray(_BATCH)
        self._filled = 0
        self._spare: list[bytearray] = []
        """Batches that were written: memory that is reused does not fall to pieces."""
        self._waiting: deque[_Work] = deque()
        self._unpacking: deque[concurrent.futures.Future[None]] = deque()
        self._written = 0
        """Files of which everything is written."""
        self._is_over = False
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="bulk")
        self._file: io.FileIO | None = None

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over = True
        self._pool.shutdown(cancel_futures=True)
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)

    def begin(self, detour: detours.Detour) -> None:
        """A file begins; the one before has got all its data."""
        count = -(-detour.size // extents.SIZE)
        self.files.append(File(detour, self._promised, count))
        self._promised += count

    def write(self, data: memoryview | bytes) -> None:
        """Take the next data of the file; raise mkfs_erofs.DiskFull."""
        view = memoryview(data)
        while view:
            part = view[: _BATCH - self._filled]
            self._batch[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == _BATCH:
                self._submit()

    def end(self) -> None:
        """The file has all its data."""
        if self._filled:
            self._submit()

    def finish(self) -> io.FileIO:
        """Wait until everything is written; the file, which is closed with the spool."""
        while self._waiting:
            self._write_next()
        while self._unpacking:
            self._unpacking.popleft().result()
        assert len(self.table) == self._promised
        return self._opened()

    def _submit(self) -> None:
        data = memoryview(self._batch)[: self._filled]
        self._waiting.append((self._batch, self._pool.submit(extents.pack, data)))
        self._batch = self._spare.pop() if self._spare else bytearray(_BATCH)
        self._filled = 0
        while len(self._waiting) > 2 * self._threads:
            self._write_next()

    def _write_next(self) -> None:
        batch, work = self._waiting.popleft()
        packed = work.result()
        for blocks in packed.blocks:
            self.table.add(self._end // extents.BLOCK, blocks)
            self._end += abs(blocks) * extents.BLOCK
        self._put(packed.buffers, self.table.starts[-len(packed.blocks)])
        self._spare.append(batch)
        while self._unpacking and self._unpacking[0].done():
            self._unpacking.popleft().result()
        file = self.files[self._written]
        if file.first + file.count == len(self.table):
            self._written += 1
            self._decide(file)

    def _decide(self, file: File) -> None:
        """Have the compressed extents of a file unpacked if it is not worth them."""
        blocks = self.table.blocks
        numbers = range(file.first, file.first + file.count)
        stored = sum(map(abs, blocks[numbers.start : numbers.stop]))
        if extents.is_worth_it(stored, file.detour.size):
            return
        grouped = itertools.groupby(numbers, lambda number: blocks[number] < 0)
        runs = [list(run) for is_compressed, run in grouped if is_compressed]
        unused = sum(-sum(blocks[each] for each in run) % extents.BLOCKS for run in runs)
        if unused > stored // _UNUSED_PART:
            return
        for run in runs:
            self._unpack(file, run)

    def _unpack(self, file: File, run: list[int]) -> None:
        """Have the pool unpack extents that follow one another, and note where they will be: the
        first ones in the room that all of them had, the others at the end."""
        starts, blocks = self.table.starts, self.table.blocks
        moves = []
        at, end = starts[run[0]], starts[run[-1]] - blocks[run[-1]]
        for number in run:
            size = min(extents.SIZE, file.detour.size - (number - file.first) * extents.SIZE)
            count = -(-size // extents.BLOCK)
            if at + count > end:
                at = self._end // extents.BLOCK
                end = at + len(run) * extents.BLOCKS
            moves.append(_Move(starts[number], -blocks[number], at, size))
            starts[number], blocks[number] = at, count
            at += count
            self._end = max(self._end, at * extents.BLOCK)
        while len(self._unpacking) >= _MOST_RUNS:
            self._unpacking.popleft().result()
        self._unpacking.append(self._pool.submit(self._move, moves))

    def _move(self, moves: list[_Move]) -> None:
        """Unpack extents of one run. The last one is the first: it is behind what is still to be
        read, as none is smaller unpacked. A spool that is not used ends it: a run has gigabytes."""
        for move in reversed(moves):
            if self._is_over:
                return
            stored = os.pread(
                self._opened().fileno(), move.blocks * extents.BLOCK, move.start * extents.BLOCK
            )
            plain = extents.unpack(stored, move.size)
            self._put([plain, bytes(-move.size % extents.BLOCK)], move.to)

    def _put(self, buffers: list[extents.Buffer], start: int) -> None:
        """Write buffers from a block on; raise mkfs_erofs.DiskFull."""
        try:
            write_all(self._opened(), [each for each in buffers if each], start * extents.BLOCK)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise mkfs_erofs.DiskFull(str(self.path.parent)) from error
            raise

    def _opened(self) -> io.FileIO:
        if self._file is None:
            self._file = io.FileIO(self.path, "x+")
        return self._file


def write_all(file: io.FileIO, buffers: list[extents.Buffer], at: int) -> None:
    """Write buffers one after another at a place of a file."""
    left = [memoryview(each) for each in buffers]
    while left:
        count = os.pwritev(file.fileno(), left, at)
        at += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]
