"""Real child processes: there is nothing to fake about killing."""

import asyncio
import errno
import marshal
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from agent.kits.processes import worker_child, workers

MODULE = "tests.unit.kits.operations"


@pytest.fixture
async def pool():
    async with workers.Pool(MODULE, name="test", size=2, max_stuck=2) as opened:
        yield opened


async def test_results_come_back(pool) -> None:
    assert await pool.call("echo", {"a": [1, b"x", None]}, deadline=10) == {"a": [1, b"x", None]}


async def test_an_os_error_is_raised_as_it_was(pool) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await pool.call("open_missing", deadline=10)

    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nowhere")


async def test_another_error_names_its_kind(pool) -> None:
    with pytest.raises(workers.OperationError) as caught:
        await pool.call("fail", deadline=10)

    assert (caught.value.kind, caught.value.text) == ("ValueError", "no")


async def test_a_call_over_its_deadline_is_killed_and_the_next_one_works(pool) -> None:
    with pytest.raises(workers.DeadlineError):
        await pool.call("hang", deadline=0.3)

    assert await pool.call("echo", 1, deadline=10) == 1


async def test_hanging_calls_do_not_starve_others_for_longer_than_their_deadline(pool) -> None:
    async with asyncio.TaskGroup() as group:
        hanging = [group.create_task(expect_deadline(pool)) for _ in range(4)]
        working = group.create_task(pool.call("echo", 1, deadline=10))

    assert working.result() == 1
    assert all(task.result() for task in hanging)


async def expect_deadline(pool) -> bool:
    try:
        await pool.call("hang", deadline=0.3)
    except workers.DeadlineError:
        return True
    return False


async def test_of_the_workers_of_a_burst_one_stays(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_SPARE_SECONDS", 0.2)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(pool.call("pid_after", 0.3, deadline=10)) for _ in range(2)]
    burst = {call.result() for call in calls}

    async with asyncio.timeout(20):
        while sum(pathlib.Path(f"/proc/{pid}").exists() for pid in burst) > 1:
            await asyncio.sleep(0.02)

    assert len(burst) == 2
    assert await pool.call("pid_after", 0, deadline=10) in burst


async def test_a_worker_killed_from_outside_is_reported_and_replaced(pool) -> None:
    first = await pool.call("pid", deadline=10)
    with pytest.raises(workers.WorkerDied):
        await pool.call("kill_self", deadline=10)

    assert await pool.call("pid", deadline=10) != first


async def test_a_worker_killed_while_idle_is_replaced_without_an_error(pool) -> None:
    first = await pool.call("pid", deadline=10)
    os.kill(first, signal.SIGKILL)
    for _ in range(100):
        if not os.path.exists(f"/proc/{first}/fd/0"):
            break
        await asyncio.sleep(0.01)

    assert await pool.call("pid", deadline=10) != first


async def test_a_cancelled_call_leaves_no_worker_in_an_unknown_state(pool) -> None:
    task = asyncio.get_running_loop().create_task(pool.call("hang", deadline=60))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await pool.call("echo", 1, deadline=10) == 1


async def test_stuck_workers_are_bounded(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in D state survives its kill; here: kill() does nothing for a while."""
    monkeypatch.setattr("subprocess.Popen.kill", lambda process: None)
    for _ in range(2):
        with pytest.raises(workers.DeadlineError):
            await pool.call("hang_deaf", deadline=0.3)
    await asyncio.sleep(0.6)
    with pytest.raises(workers.StuckError):
        await pool.call("echo", 1, deadline=10)
    monkeypatch.undo()
    for worker in pool._killed:
        worker.process.kill()
        worker.process.wait()

    assert await pool.call("echo", 1, deadline=10) == 1


def test_a_worker_whose_parent_has_ended_before_the_answer_is_silent() -> None:
    """As after each kill -9 of a snapshotter or an agent: the worker shares its stderr."""
    ours, theirs = socket.socketpair()
    folder = str(pathlib.Path(__file__).parents[4])
    with theirs:
        child = subprocess.Popen(
            [sys.executable, worker_child.__file__, str(theirs.fileno()), folder, MODULE],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    with ours:
        request = marshal.dumps(("pid_after", (0.3,)))
        ours.sendall(worker_child.LENGTH.pack(len(request)) + request)
    _, errors = child.communicate(timeout=20)

    assert (child.returncode, errors) == (0, b"")
