"""Somebody who reads a container's files again and again, and never from memory."""

import contextlib
import hashlib
import os
import pathlib
import stat
import threading
import time
from collections.abc import Iterator

from agent.store import layout

_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_PAUSES_PER_ROUND = 2
"""Between two rounds, for longer than a round takes, nothing is read: others want to read, too."""


class Reader:
    """Reads all files in `folders` of the container of process `pid`, round after round; a context.

    What the kernel remembers of a file is dropped before each reading, in the container's
    overlay and in the layers of `store` below it, so that EROFS reads it anew. `errors` has
    what failed or had another content than at first; leaving the context asserts that it is
    empty and that there was at least one round.
    """

    def __init__(self, pid: int, store: pathlib.Path, *, folders: tuple[str, ...]) -> None:
        self._roots = [f"/proc/{pid}/root{folder}" for folder in folders]
        layers = layout.Layout(store).layer_files.rglob("*.erofs")
        self._layers = [os.fspath(path) for path in layers]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cold reader")
        self._paths = [path for root in self._roots for path in _files(root)]
        self._first = {path: _read(path) for path in self._paths}
        self.rounds = 0
        self.errors: list[str] = []

    def __enter__(self) -> "Reader":
        assert self._paths
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=60)
        if kind is None:
            assert not self._thread.is_alive()
            assert self.errors == []
            assert self.rounds > 0

    def wait_for_round(self) -> None:
        """Return when all files have been read once more, from now on."""
        wanted = self.rounds + 2
        deadline = time.monotonic() + 60
        while self.rounds < wanted:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._over.is_set():
            started = time.monotonic()
            for layer in self._layers:
                # A layer that its last cache has left may be gone.
                with contextlib.suppress(FileNotFoundError):
                    _forget(layer)
            for path in self._paths:
                self._read_again(path)
            self.rounds += 1
            pause = _PAUSES_PER_ROUND * (time.monotonic() - started)
            self._over.wait(max(_PAUSE_SECONDS, min(pause, _LONGEST_PAUSE_SECONDS)))

    def _read_again(self, path: str) -> None:
        try:
            _forget(path)
            if _read(path) != self._first[path]:
                self.errors.append(f"{path}: has another content")
        except OSError as error:
            self.errors.append(f"{path}: {error}")


def _files(root: str) -> Iterator[str]:
    """The regular files below a folder; of several names of one the first."""
    seen = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_ino not in seen:
                seen.add(found.st_ino)
                yield path


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _forget(path: str) -> None:
    """Drop the pages of a file that are in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
