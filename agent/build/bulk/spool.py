"""Where the data of a layer's large files are written while its tar streams.

The spool becomes the layer file: room for the image of mkfs.erofs is left at its front, so that
gigabytes are written once (`agent.build.bulk.grafting`). Whatever the number of threads, the
same files give the same bytes.
"""

import concurrent.futures
import dataclasses
import errno
import io
import os
import pathlib
from collections import deque

from agent.build import mkfs_erofs
from agent.build.bulk import extents
from agent.build.tar import detours

FRONT = 16 << 20
"""Bytes that are left free for the image of mkfs.erofs, whose size is not known before its end."""

_BATCH = 8 * extents.SIZE


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A large file, and which extents of the spool's table are its data."""

    detour: detours.Detour
    first: int
    count: int


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
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="bulk")
        self._file: io.FileIO | None = None

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *exc: object) -> None:
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
        at = self.table.starts[-len(packed.blocks)] * extents.BLOCK
        try:
            write_all(self._opened(), packed.buffers, at)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise mkfs_erofs.DiskFull(str(self.path.parent)) from error
            raise
        self._spare.append(batch)

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
