"""Copying one file of the store to the node's disk, in slices; blocking, for workers.

A copy is a session of one worker: `begin`, `more` until all bytes are there, `finish`. Between
two slices the caller decides whether to go on, so a pod that starts or a disk that fills up
stops it at once. A worker that is killed leaves a draft, and the next session goes on behind it,
for the store's bytes are the dear ones: what the draft has is read again from the disk, and the
digest is taken of all that was read. A draft that a power cut has spoilt is found out by it.

Running containers come first. They read the store through the page cache of its files, so a
copy goes by it on both sides (O_DIRECT, where the file systems have it). It has the lowest
priority for processor and disk. No disk scheduler sees the network: while containers read
through the `devices` of their layers, the copy takes small pieces and rests after each for several
times as long as it took.

Standard library only.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import pathlib
import time
from collections.abc import Iterator, Sequence

from agent.kits import files
from agent.mounts import syscalls

_PIECE = 1 << 20
"""Bytes that are read at once."""
_SMALL_PIECE = 128 << 10
"""The same beside containers that read: at 1 Gbit/s they wait 1 ms for it at most."""
_REST = 14
"""Times as long as a small piece took: containers have the link for themselves most of the time."""
_READING_SECONDS = 1.0
"""For which containers count as reading after they have."""
_LOOK_SECONDS = 0.02
_ALIGNED = 4096
_RWF_DONTCACHE = 0x80
"""Drop from the page cache what only this read has brought there. Linux 6.14."""
_SCHEDULED_LOW = 19

Progress = tuple[int, int, int]
"""Bytes of the copy so far, of these the bytes that this slice has read from the store, and the
free bytes of the disk."""


class _Readers:
    """Whether containers read through loop devices, by these devices' counters."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices
        self._sectors = self._count()
        self._looked_at = time.monotonic()
        self._read_at = 0.0

    def _count(self) -> int:
        sectors = 0
        for device in self.devices:
            # One that is gone reads nothing any more.
            with (
                contextlib.suppress(OSError, IndexError, ValueError),
                open(f"/sys/block/{device}/stat", encoding="ascii") as file,
            ):
                sectors += int(file.read().split()[2])
        return sectors

    def are_reading(self) -> bool:
        """Whether they have read lately; also where there is no device to ask."""
        now = time.monotonic()
        if now >= self._looked_at + _LOOK_SECONDS:
            self._looked_at = now
            sectors = self._count()
            if sectors != self._sectors:
                self._sectors, self._read_at = sectors, now
        return not self.devices or now < self._read_at + _READING_SECONDS


class _Source:
    """A file of the store, read past the page cache where that can be."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._flags = 0
        self._buffer = mmap.mmap(-1, _PIECE)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._open_cached()
        actual = os.fstat(self._file).st_size
        if actual != size:
            os.close(self._file)
            raise OSError(errno.EUCLEAN, f"has {actual} bytes, its record says {size}", path)

    def _open_cached(self) -> None:
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._flags = _RWF_DONTCACHE

    def read(self, offset: int, count: int) -> memoryview:
        """Up to `count` bytes (a multiple of 4096) at `offset`, valid until the next call."""
        view = memoryview(self._buffer)
        try:
            got = os.preadv(self._file, [view[:count]], offset, self._flags)
        except OSError as error:
            if error.errno == errno.EINVAL and not self._flags:
                os.close(self._file)
                self._open_cached()
            elif error.errno == errno.EOPNOTSUPP and self._flags:
                self._flags = 0
            else:
                raise
            got = os.preadv(self._file, [view[:count]], offset, 0)
        if not got:
            raise OSError(errno.EUCLEAN, f"is cut off after {offset} bytes", self._path)
        return view[:got]

    def close(self) -> None:
        os.close(self._file)


class _Draft:
    """The copy while it is made. What it had from before ends at a whole piece."""

    def __init__(self, path: str, size: int, *, anew: bool) -> None:
        self._path = path
        self._direct: int | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A worker of an agent that was killed may still be at work on it.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            had = os.fstat(self._file).st_size
            self.had = 0 if anew or had > size else had - had % _PIECE
            os.ftruncate(self._file, self.had)
            with contextlib.suppress(OSError):
                self._direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except BaseException:
            os.close(self._file)
            raise

    def read(self, offset: int, count: int) -> bytes:
        """Bytes that it had from before."""
        with self._named():
            data = os.pread(self._file, count, offset)
        os.posix_fadvise(self._file, offset, len(data), os.POSIX_FADV_DONTNEED)
        if not data:
            raise OSError(errno.EIO, "is shorter than it was", self._path)
        return data

    def write(self, data: memoryview, offset: int) -> None:
        """Add bytes; those of a whole number of blocks go to the disk at once."""
        aligned = len(data) - len(data) % _ALIGNED
        if self._direct is not None and aligned and offset % _ALIGNED == 0:
            try:
                with self._named():
                    written = os.pwrite(self._direct, data[:aligned], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(self._direct)
                self._direct = None
            else:
                data, offset = data[written:], offset + written
        with self._named():
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written

    def settle(self, offset: int) -> None:
        """Write out what is in the page cache, and drop it from there, from `offset` on."""
        if self._direct is None:
            with self._named():
                os.fdatasync(self._file)
            os.posix_fadvise(self._file, offset, 0, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say by the file's name that it is this disk that fails, not the store."""
        try:
            yield
        except OSError as error:
            error.filename = self._path
            raise

    @property
    def free(self) -> int:
        """The free bytes of its disk."""
        file_system = os.fstatvfs(self._file)
        return file_system.f_bavail * file_system.f_frsize

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
        os.close(self._file)


class _Copy:
    """One session."""

    def __init__(self, source: str, draft: str, size: int, *, anew: bool) -> None:
        self._size = size
        self._digest = hashlib.sha256()
        self._not_before = 0.0
        self._readers = _Readers(())
        self.position = 0
        self.draft = _Draft(draft, size, anew=anew)
        try:
            self._source = _Source(source, size)
        except BaseException:
            self.draft.close()
            raise

    def work(self, seconds: float, rate: int, devices: Sequence[str]) -> int:
        """Go on for a while; how many bytes were read from the store."""
        if self._readers.devices != devices:
            self._readers = _Readers(devices)
        until = time.monotonic() + seconds
        begun, read = self.position, 0
        while self.position < self._size:
            now = time.monotonic()
            if max(now, self._not_before) >= until:
                time.sleep(max(0.0, until - now))
                break
            time.sleep(max(0.0, self._not_before - now))
            read += self._step(rate)
        self.draft.settle(begun)
        return read

    def _step(self, rate: int) -> int:
        """Take one piece, and say by when the next one may come."""
        started = time.monotonic()
        position = self.position
        gentle = self._readers.are_reading()
        count = _SMALL_PIECE if gentle else _PIECE
        if position < self.draft.had:
            data: bytes | memoryview = self.draft.read(position, count)
        else:
            data = self._source.read(position, count)
            self.draft.write(data, position)
        self._digest.update(data)
        self.position += len(data)
        took = time.monotonic() - started
        pause = took * _REST if gentle else 0.0
        if rate:
            pause = max(pause, len(data) / rate - took)
        self._not_before = started + took + pause
        return len(data) if position >= self.draft.had else 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def close(self) -> None:
        self._source.close()
        self.draft.close()


_sessions: dict[str, _Copy] = {}
"""The session of this worker, by its draft; at most one."""


def begin(source: str, draft: str, size: int, anew: bool = False) -> bool:
    """Begin to copy `source`; whether that goes on behind a draft. `anew`: never.

    OSError EUCLEAN where the source has not `size` bytes, EAGAIN where another worker copies it.
    """
    abandon()
    session = _sessions[draft] = _Copy(source, draft, size, anew=anew)
    return session.draft.had > 0


def more(draft: str, seconds: float, rate: int, devices: Sequence[str]) -> Progress:
    """Go on for about some seconds, with `rate` bytes a second at most (0: no bound).

    OSError ESTALE where this worker has no such session.
    """
    session = _session(draft)
    with _in_background():
        read = session.work(seconds, rate, devices)
    return session.position, read, session.draft.free


def finish(draft: str, target: str, sha256: str) -> bool:
    """Put a copy to its place if it has the digest, else remove it; whether it has."""
    session = _session(draft)
    is_right = session.digest == sha256
    if is_right:
        files.publish(pathlib.Path(draft), pathlib.Path(target))
    else:
        os.unlink(draft)
    abandon()
    return is_right


def abandon() -> None:
    """End this worker's session; its draft stays."""
    while _sessions:
        _sessions.popitem()[1].close()


def _session(draft: str) -> _Copy:
    session = _sessions.get(draft)
    if session is None:
        raise OSError(errno.ESTALE, "another worker has begun this copy", draft)
    return session


@contextlib.contextmanager
def _in_background() -> Iterator[None]:
    """Let everything else on the node go first."""
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, _SCHEDULED_LOW)
    syscalls.set_idle_io(idle=True)
    try:
        yield
    finally:
        # What this worker does next may hold a lock that containers wait for.
        syscalls.set_idle_io(idle=False)
        os.setpriority(os.PRIO_PROCESS, 0, priority)


OPERATIONS = {"abandon": abandon, "begin": begin, "finish": finish, "more": more}
