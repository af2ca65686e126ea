"""Nothing of a demo or a benchmark outlives it, whatever ends it."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from lab import processes, scratch

CHECKOUT = pathlib.Path(__file__).parents[2]
DEMO = """
import signal, sys, time
from lab import processes, scratch
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
with scratch.folder("test") as folder:
    daemon = processes.Process(["/bin/sh", "-c", "sleep 1000; :", folder / "x"], folder / "log")
    try:
        daemon.start()
        while not processes.children(daemon.pid):
            time.sleep(0.01)
        print(folder, daemon.pid, *processes.children(daemon.pid), flush=True)
        time.sleep(1000)
    finally:
        daemon.end()
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Start a demo with a daemon that has a child; its process, its folder, and those two."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = []

    def start(hangup: str = "SIG_DFL"):
        process = subprocess.Popen(
            [sys.executable, "-c", DEMO, hangup],
            cwd=CHECKOUT,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        folder, *pids = process.stdout.readline().split()
        started.append((process, [int(pid) for pid in pids]))
        return process, pathlib.Path(folder), [int(pid) for pid in pids]

    yield start
    for process, pids in started:
        for pid in (process.pid, *pids):
            processes.kill(pid)
        process.wait()
        process.stdout.close()


def wait_until_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(processes.is_dead(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlived the demo"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_all_of_it(demo, number) -> None:
    process, folder, (daemon, _) = demo()

    process.send_signal(number)

    assert process.wait(timeout=60) != 0
    wait_until_dead([daemon])
    assert not folder.exists()


def test_nohup_is_heeded(demo) -> None:
    process, folder, _ = demo("SIG_IGN")

    process.send_signal(signal.SIGHUP)
    assert scratch.sweep() == []  # it runs
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not folder.exists()


def test_what_a_killed_one_left_is_swept(demo) -> None:
    process, folder, pids = demo()
    process.kill()
    process.wait(timeout=60)

    assert scratch.sweep() == [folder]

    wait_until_dead(pids)
    assert not folder.exists()
