"""Real processes that hang in all the ways there are, and their watchers."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from agent.kits.processes import heartbeat_child

PROJECT = pathlib.Path(__file__).parents[4]
SCRIPT = """
import asyncio, sys, time
from agent.kits.aio import tasks
from agent.kits.processes import heartbeat

async def work():
    await asyncio.sleep(0.1)
    print("works", flush=True)
    if sys.argv[2] == "stuck":
        time.sleep(1000)
    if sys.argv[2] == "holding the interpreter's lock":
        sum(range(10**12))
    await asyncio.sleep(1000)

async def main():
    await tasks.together(heartbeat.run(float(sys.argv[1])), work())

asyncio.run(main())
"""


class Watched:
    """A process with a watcher; `how` is in which way it hangs."""

    def __init__(self, how: str = "", *, seconds: float = 1, stderr: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(seconds), how],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "works\n"

    @property
    def watchers(self) -> list[int]:
        pid = self.process.pid
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]

    def end(self) -> tuple[int, str]:
        """Wait for its end; the exit status, and what it said last."""
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


@contextlib.contextmanager
def watched(how: str = "", **settings: float) -> Iterator[Watched]:
    made = Watched(how, **settings)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its parent may not have waited for it yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_process_that_hangs_is_killed_and_says_where() -> None:
    with (
        watched("stuck") as stuck,
        watched("holding the interpreter's lock") as holding,
        watched() as stopped,
    ):
        stopped.process.send_signal(signal.SIGSTOP)
        ends = [each.end() for each in (stuck, holding, stopped)]

    assert [status for status, _ in ends] == [-signal.SIGKILL] * 3
    assert all('"the process hangs: killed"' in said for _, said in ends)
    assert [bool(re.search(r"line \d+ in work", said)) for _, said in ends] == [True, True, False]


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_process_whose_log_is_what_hangs_is_killed_too(how: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while how == "full":
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    with watched("stuck", stderr=writing) as process:
        os.close(writing)
        if how == "closed":
            os.close(reading)

        assert process.end()[0] == -signal.SIGKILL
    if how == "full":
        os.close(reading)


def test_a_watcher_ends_with_its_process() -> None:
    with watched(seconds=100) as process:
        (watcher,) = process.watchers
        process.process.kill()
        process.end()

        wait_until(lambda: is_gone(watcher))


def test_another_watcher_takes_over_from_one_that_was_killed() -> None:
    with watched(seconds=3) as process:
        (first,) = process.watchers
        subprocess.run(["kill", "-9", str(first)], check=True)
        wait_until(lambda: process.watchers not in ([], [first]))

        assert process.process.poll() is None


class Beats:
    """A socket that gives beats, or none within the time that is waited."""

    def __init__(self, *heard: bytes | None) -> None:
        self._heard = list(heard)
        self.waited: list[float] = []

    def settimeout(self, seconds: float) -> None:
        self.waited.append(seconds)

    def recv(self, _size: int) -> bytes:
        heard = self._heard.pop(0)
        if heard is None:
            raise TimeoutError
        return heard


@pytest.mark.parametrize(
    ("heard", "killed", "waited"),
    [
        ([b".", b"...", b""], False, [60, 60, 60]),
        # A watcher that continues after a pause before its parent does.
        ([b".", None, b".", None, b".", b""], False, [60, 60, 5, 60, 5, 60]),
        ([b".", None, None], True, [60, 60, 5]),
        ([None, b""], False, [60, 5]),
    ],
)
def test_a_parent_that_sends_no_beat_twice_is_killed(heard, killed, waited, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(heartbeat_child, "end", lambda parent, _seconds: ended.append(parent))
    beats = Beats(*heard)
    heartbeat_child.watch(beats, 7, 60)

    assert (bool(ended), beats.waited) == (killed, waited)
