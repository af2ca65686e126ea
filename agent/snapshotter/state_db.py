"""The snapshotter's SQLite file: opened, set aside where it is damaged, durable before a reply.

Writes run in one thread, which commits as many as are waiting with a single
fsync: a hundred containers created at once cost a few. Reads use a connection of
their own on the event loop's thread: the database is small, local and in the page
cache, and WAL readers wait for no writer (measured: 30 microseconds).
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from agent import errors
from agent.snapshotter import tables

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FILES = ("", "-wal")
"""What the name of the database's file ends with where changes are kept; -shm has none."""
_BATCH = 64
_WAITING = 512
"""Changes that may wait for the thread, which takes them in batches; more wait to be queued."""


class NewerError(errors.PermanentError):
    """The database at `path` was made by a later version of uimgacc, and this one may not use it.

    `version` is that of its tables.
    """

    def __init__(self, path: pathlib.Path, version: int) -> None:
        super().__init__(
            f"{path} was made by a newer uimgacc, and this one cannot work with it (tables of"
            f" version {version}; {tables.VERSION} is the newest known here): go back to the newer"
            f" version; or move {path.name}* out of {path.parent}, and the snapshotter starts"
            " without it: running containers go on, images of this node are made present again"
        )
        self.path = path
        self.version = version


def _is_damage(error: sqlite3.Error) -> bool:
    # The low byte: SQLITE_CORRUPT_INDEX and its like are SQLITE_CORRUPT with more above it.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def _is_moved(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED


def _identity(path: pathlib.Path) -> list[tuple[int, int] | None]:
    """Which files are at the places of the database; None where there is none."""
    identities: list[tuple[int, int] | None] = []
    for suffix in _FILES:
        try:
            status = os.stat(f"{path}{suffix}")
        except OSError:  # any other would end the thread that writes
            identities.append(None)
        else:
            identities.append((status.st_dev, status.st_ino))
    return identities


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -2000")
    return connection


def _make_tables(connection: sqlite3.Connection, path: pathlib.Path) -> None:
    version = tables.version_of(connection)
    if version <= tables.VERSION:
        tables.make(connection)
    elif not tables.is_readable(connection):
        raise NewerError(path, version)
    else:
        logger.info(
            "the database is of a newer version that this one can work with",
            extra={"version": version, "known": tables.VERSION},
        )


def _open(path: pathlib.Path) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        # Not quick_check: it passes indexes with wrong entries, and then each start would.
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict == "ok":
            _make_tables(connection, path)
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    damage = sqlite3.DatabaseError(verdict)
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    raise damage


def _open_or_replace(path: pathlib.Path) -> sqlite3.Connection:
    """Open the database; a damaged one is set aside and replaced by an empty one.

    The node agent then removes what containerd still believes to be here.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        # Only damage: a full disk or a lock is no reason to forget everything.
        if not _is_damage(error):
            raise
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    logger.error("the database is damaged and starts anew", extra={"kept_as": str(aside)})
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return _open(path)


class Database:
    """The database file `path` and the thread that writes it."""

    def __init__(self, path: pathlib.Path) -> None:
        self._writing = _open_or_replace(path)
        self._reading = _connect(path)
        self._path = path
        self._identity = _identity(path)
        self.read = tables.Reader(self._reading)
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._queue: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._free = asyncio.Semaphore(_WAITING)
        self._thread = threading.Thread(target=self._run, name="metadata", daemon=True)
        self._thread.start()

    async def write(self, change: Callable[[tables.Transaction], Result]) -> Result:
        """Apply a change and return its result once it is durable.

        Raises what the change raised (it then did nothing), or sqlite3.Error.
        A caller that is cancelled does not take the change back once it is queued.
        """
        return await self._enqueue(change)

    async def wait_written(self) -> None:
        """Wait until `read` shows all changes so far, also those whose callers have gone."""
        await self._enqueue(lambda _: None)

    async def _enqueue(self, change: Callable[[tables.Transaction], Result]) -> Result:
        await self._free.acquire()
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.put(_Change(change, future))
        return await future

    def close(self) -> None:
        """Finish the writes that are waiting, then close."""
        self._queue.put(None)
        self._thread.join(timeout=10)
        self._writing.close()
        self._reading.close()

    def _run(self) -> None:
        transaction = tables.Transaction(self._writing)
        while True:
            first = self._queue.get()
            batch = [first]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            changes = [change for change in batch if change is not None]
            if changes:
                outcomes = self._apply(transaction, changes)
                self._loop.call_soon_threadsafe(self._deliver, changes, outcomes)
            if len(changes) < len(batch):
                return

    def _apply(self, transaction: tables.Transaction, changes: "list[_Change]") -> "list[_Outcome]":
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            outcomes = [self._apply_one(transaction, change) for change in changes]
            self._writing.execute("COMMIT")
            self._check_place()
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._writing.execute("ROLLBACK")
            return [_Outcome(error=error)] * len(changes)
        return outcomes

    def _check_place(self) -> None:
        """Raise sqlite3.OperationalError where what was written is lost with this process.

        SQLite goes on with a file that was deleted or replaced, which no process finds again.
        """
        if _identity(self._path) != self._identity:
            moved = sqlite3.OperationalError(
                f"{self._path} was deleted or replaced: what is written is lost"
            )
            moved.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
            raise moved

    def _apply_one(self, transaction: tables.Transaction, change: "_Change") -> "_Outcome":
        self._writing.execute("SAVEPOINT change")
        try:
            outcome = _Outcome(result=change.apply(transaction))
        except Exception as error:
            # Whatever it is: if this thread ended, every write after it would hang.
            # Of SQLite's errors only this one leaves the other changes as they are.
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            self._writing.execute("ROLLBACK TO change")
            outcome = _Outcome(error=error)
        self._writing.execute("RELEASE change")
        return outcome

    def _deliver(self, changes: "list[_Change]", outcomes: "list[_Outcome]") -> None:
        for change, outcome in zip(changes, outcomes, strict=True):
            self._free.release()
            if change.future.done():
                continue
            if outcome.error is None:
                change.future.set_result(outcome.result)
            else:
                change.future.set_exception(outcome.error)

    async def wait_failed(self) -> None:
        """Return never, raise sqlite3.Error once the database is found to be damaged or gone."""
        await self._failed

    def report(self, error: sqlite3.Error) -> None:
        """Take note of an error of the database; one that a restart repairs ends `wait_failed`."""
        if (_is_damage(error) or _is_moved(error)) and not self._failed.done():
            self._failed.set_exception(error)


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    apply: Callable[[tables.Transaction], Any]
    future: asyncio.Future[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    result: Any = None
    error: Exception | None = None
