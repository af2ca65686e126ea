"""Changes of layer records by several builders at once: none is lost.

A record is replaced as a whole, so two that read it, add to it and write it would lose what one
of them added. So each change is made under a lock at the server of the store (one for the records
of each folder), from the record as it is at that moment.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator

from agent import errors
from agent.kits import files
from agent.model import records
from agent.store import decoding, layout
from agent.store.lookup import file_reads
from agent.store.publish import writer

Change = Callable[[records.LayerRecord | None], records.LayerRecord | None]
"""From the record as it is (None: none, or one that cannot be read) to what it should be.

The same object, or None, changes nothing."""

_DEADLINE = 120.0
"""Seconds. A lock is held for some milliseconds; that of a machine that has died ends with its
lease at the server, after 90 s by default."""

_PAUSE = 0.02


class RecordsBusy(errors.TemporaryError):
    """Another process keeps some layer records locked. `path` is the lock's file."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"another process has held the lock {path} for {_DEADLINE:g} s:"
            " is one of the builders stopped, or its machine?"
        )
        self.path = path


def apply(place: layout.Layout, diff_id: str, change: Change) -> records.LayerRecord | None:
    """Change the record of a layer; returns the record that is there afterwards.

    Raises RecordsBusy, RecordTooLarge and StoreFull; then the record is what it was.
    """
    path = place.layer_record(diff_id)
    with locked(place, diff_id):
        there = _read(path, diff_id)
        if there is None:
            _look_anew(path.parent)
            there = _read(path, diff_id)
        wanted = change(there)
        if wanted is None or wanted is there:
            return there
        writer.write_record(place, path, wanted)
        return wanted


@contextlib.contextmanager
def locked(place: layout.Layout, diff_id: str) -> Iterator[None]:
    """Be the only one who changes the record of a layer; raise RecordsBusy."""
    path = place.record_lock(diff_id)
    files.make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: pathlib.Path) -> None:
    end = time.monotonic() + _DEADLINE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                return  # This file system has no locks. An addition may be lost: it is made again.
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return
        if time.monotonic() > end:
            raise RecordsBusy(str(path))
        time.sleep(_PAUSE)


def _read(path: pathlib.Path, diff_id: str) -> records.LayerRecord | None:
    try:
        return decoding.layer(file_reads.read(str(path), file_reads.LOOKUP_LIMIT), diff_id)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return None
    except records.RecordError:
        return None


def _look_anew(folder: pathlib.Path) -> None:
    """Have an NFS client forget that a file was not there: it does where the folder changes."""
    files.make_folder(folder)
    probe = folder / f".now.{secrets.token_hex(6)}"
    probe.touch()
    probe.unlink()
