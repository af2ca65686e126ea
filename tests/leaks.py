"""What a test leaves behind: asyncio tasks, child processes and mounts.

`tests/conftest.py` compares what there is before a test with what there is after the test and its
fixtures. What is on its way out gets some seconds. What stays fails the test, and is ended, so that
the tests that follow are not disturbed.

Fixtures of a longer life are set up before the first look, so that what they keep is no leak.
A service that a test starts again has a new process with the same arguments: that is none either.
"""

import asyncio
import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

from agent.mounts import mountinfo
from lab import processes

MARK = "UIMGACC_TEST_RUN"
"""Each run of the tests has this variable with an id of its own; what it starts inherits it."""

_NOWHERE = pathlib.Path("/nonexistent")
_SECONDS = 10.0
_EXEC_SECONDS = 5.0


def mark_run() -> None:
    """Mark what this process starts from now on as this run's, in the environment.

    Worker pools give their children PATH alone: it has the id, too, in a folder that is none.
    """
    os.environ[MARK] = run = uuid.uuid4().hex
    os.environ["PATH"] += f"{os.pathsep}{_NOWHERE / run}"


class LeakError(Exception):
    """A test has left something behind; the message says what."""


@contextlib.contextmanager
def checked(*folders: pathlib.Path, seconds: float = _SECONDS) -> Iterator[None]:
    """Fail if there are new children of this process, or new mounts below `folders`, at the end."""
    children, mounts = _arguments(_children()), set(_mounts(folders))
    yield
    left = [
        *_wait(lambda: _new(_children(), children), _kill, seconds),
        *_wait(lambda: sorted({*_mounts(folders)} - mounts), _unmount, seconds),
    ]
    if left:
        raise LeakError("left behind: " + "; ".join(left))


@contextlib.contextmanager
def orphans_checked() -> Iterator[None]:
    """Fail if there are new processes at the end that this run has started and that lost their
    parent."""
    before = _arguments(_orphans())
    yield
    if left := _wait(lambda: _new(_orphans(), before), _kill, _SECONDS):
        raise LeakError("left behind: " + "; ".join(left))


async def wait_for_tasks(seconds: float = 1.0) -> None:
    """Fail if the event loop has tasks beside the one that asks."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=seconds)
    if left:
        raise LeakError("left behind: " + "; ".join(f"task {task!r}" for task in left))


def _wait(look: Callable[[], list], end: Callable[[list], list[str]], seconds: float) -> list[str]:
    """What is there after a while, ended and described; [] where it went away by itself."""
    deadline = time.monotonic() + seconds
    while left := look():
        if time.monotonic() > deadline:
            return end(left)
        time.sleep(0.02)
    return []


def _new(pids: Iterable[int], before: collections.Counter[bytes]) -> list[int]:
    """Those of `pids` that are not as many as before with the same arguments."""
    allowed = before.copy()
    new = []
    for pid in pids:
        arguments = _read(pid, "cmdline")
        if allowed[arguments] > 0:
            allowed[arguments] -= 1
        elif arguments:  # those of a zombie, and of a process in exec, are empty
            new.append(pid)
    return new


def _arguments(pids: Iterable[int]) -> collections.Counter[bytes]:
    """What the processes are called with. In the middle of exec that is not known for a moment."""
    deadline = time.monotonic() + _EXEC_SECONDS
    pids = list(pids)
    while any(_is_in_exec(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)
    return collections.Counter(_read(pid, "cmdline") for pid in pids)


def _is_in_exec(pid: int) -> bool:
    state = _read(pid, "stat").rpartition(b")")[2].split()[:1]
    return not _read(pid, "cmdline") and state not in ([], [b"Z"], [b"X"])


def _children() -> list[int]:
    return processes.children(os.getpid())


def _orphans() -> list[int]:
    """Processes of this run whose parent has ended; not those of runs beside it."""
    run = os.environ[MARK].encode()
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in pids if _parent(pid) == 1 and run in _read(pid, "environ")]


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _mounts(folders: Iterable[pathlib.Path]) -> list[str]:
    below = tuple(f"{folder}/" for folder in folders)
    text = pathlib.Path("/proc/self/mountinfo").read_text()
    lines = (line for line in text.splitlines() if any(folder in line for folder in below))
    entries = mountinfo.parse("\n".join(lines))
    return [entry.target for entry in entries if entry.target.startswith(below)]


def _kill(pids: list[int]) -> list[str]:
    texts = []
    for pid in pids:
        words = _read(pid, "cmdline").decode(errors="replace").replace("\0", " ").strip()
        texts.append(f"process {pid} ({words[:200]})")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return texts


def _unmount(points: list[str]) -> list[str]:
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], capture_output=True)
    return [f"mount {point}" for point in points]
