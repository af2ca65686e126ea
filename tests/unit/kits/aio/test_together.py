"""Work side by side: the first failure is raised, and the task can go on using deadlines."""

import asyncio

import pytest

from agent.kits.aio import tasks


async def fail(seconds: float, text: str) -> None:
    await asyncio.sleep(seconds)
    raise ValueError(text)


async def test_results_are_in_order() -> None:
    async def echo(value: int) -> int:
        await asyncio.sleep(0.01 / value)
        return value

    assert await tasks.together(echo(1), echo(2), echo(3)) == [1, 2, 3]
    assert await tasks.together() == []


async def test_the_first_failure_cancels_the_others_and_is_raised_as_it_is() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(1)

    with pytest.raises(ValueError, match="early"):
        await tasks.together(fail(0.02, "late"), fail(0.0, "early"), wait())

    assert ended == [1]


async def test_deadlines_work_after_a_failure() -> None:
    """With a TaskGroup and Python 3.11.2 the second one ended the whole task."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(ValueError, match="early"):
        await tasks.together(fail(0.01, "early"), asyncio.sleep(600))

    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(600)


async def test_a_cancelled_caller_cancels_the_work() -> None:
    started = asyncio.Event()
    ended = []

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(1)

    task = asyncio.get_running_loop().create_task(tasks.together(wait()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == [1]
