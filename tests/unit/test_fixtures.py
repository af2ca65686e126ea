"""The tests' own means: waiting for a state, and what a test leaves behind."""

import asyncio
import os
import pathlib
import subprocess

import pytest

from tests import leaks, waiting


def test_waiting_fails_at_once_with_the_reason_of_a_check() -> None:
    with (
        waiting.failing_on(lambda: "the helper ended: no module named x"),
        pytest.raises(AssertionError, match="no module named x"),
    ):
        waiting.wait_until(lambda: False, seconds=60)


def test_waiting_ends_with_the_state() -> None:
    states = iter([False, False, True])

    waiting.wait_until(lambda: next(states))


def sleeping() -> subprocess.Popen[bytes]:
    """A process that has its arguments: in the middle of exec it has none, and is not looked at."""
    child = subprocess.Popen(["sleep", "100"])
    waiting.wait_until(pathlib.Path(f"/proc/{child.pid}/cmdline").read_bytes)
    return child


def test_a_child_process_that_is_left_behind_is_found_and_ended() -> None:
    child = None
    with (
        pytest.raises(leaks.LeakError, match=r"process \d+ \(sleep 100\)"),
        leaks.checked(seconds=0),
    ):
        child = sleeping()

    assert child is not None
    assert child.wait(60) != 0


def test_a_service_that_was_started_again_is_no_leak() -> None:
    before = subprocess.Popen(["sleep", "100"])
    try:
        with leaks.checked(seconds=0):
            before.kill()
            before.wait()
            before = subprocess.Popen(["sleep", "100"])
    finally:
        before.kill()
        before.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mount(2)")
def test_a_mount_that_is_left_behind_is_found_and_unmounted(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "m"
    target.mkdir()
    with pytest.raises(leaks.LeakError, match=r"mount .*/m"), leaks.checked(tmp_path, seconds=0):
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)

    assert not target.is_mount()


async def test_a_task_that_is_left_behind_is_found() -> None:
    task = asyncio.create_task(asyncio.sleep(100), name="forgotten")

    with pytest.raises(leaks.LeakError, match="forgotten"):
        await leaks.wait_for_tasks(seconds=0.01)
    task.cancel()
