"""A snapshotter that hangs is killed, and its successor goes on where it stood."""

import signal

import pytest

from tests.snapshotter import conftest

pytestmark = pytest.mark.root


class Watched(conftest.Process):
    """A snapshotter that is killed soon after it hangs."""

    options = ("--hang-seconds", "2")


def test_one_that_is_stopped_is_killed_and_its_successor_has_all(folder) -> None:
    process = Watched(folder)
    try:
        process.prepare("a")
        process.commit("c", "a")
        process.prepare("b", "c")
        process.process.send_signal(signal.SIGSTOP)
        status = process.process.wait(timeout=60)
        process.start()

        assert status == -signal.SIGKILL
        assert "the process hangs: killed" in process.log
        assert set(process.walk()) == {"b", "c"}
    finally:
        process.kill()
