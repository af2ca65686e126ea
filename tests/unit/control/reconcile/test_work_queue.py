"""The queue of keys, in fake time: one step at a time for each, and none is forgotten."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.control.reconcile import work_queue

pytestmark = pytest.mark.looptime


class Steps:
    """Remembers steps; may be slow, fail, or want to be asked again."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []
        self.now = 0
        self.most = 0
        self.seconds = 0.0
        self.answers: dict[str, list[float | Exception | None]] = {}
        self._running: set[str] = set()

    async def __call__(self, key: str) -> float | None:
        assert key not in self._running, "two steps for one key at a time"
        self._running.add(key)
        self.most = max(self.most, len(self._running))
        self.began.append((key, asyncio.get_running_loop().time()))
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self._running.discard(key)
        answer = self.answers.get(key, [None])
        found = answer.pop(0) if answer else None
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.began]


@contextlib.asynccontextmanager
async def served(steps: Steps, workers: int = 3) -> AsyncIterator[work_queue.Queue[str]]:
    queue: work_queue.Queue[str] = work_queue.Queue()
    tasks = [asyncio.create_task(queue.run(steps)) for _ in range(workers)]
    try:
        yield queue
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_different_keys_side_by_side_the_same_one_after_the_other() -> None:
    steps = Steps()
    steps.seconds = 1.0
    async with served(steps, workers=2) as queue:
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("a")
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(5)

    assert sorted(steps.keys) == ["a", "a", "b"]
    assert steps.most == 2
    assert [at for key, at in steps.began if key == "a"][1] >= 1.0


async def test_the_sooner_of_two_times_counts() -> None:
    steps = Steps()
    async with served(steps) as queue:
        queue.add("a", 100)
        queue.add("a", 10)
        queue.add("a", 50)
        await asyncio.sleep(200)

    assert [at for _, at in steps.began] == pytest.approx([10.0], abs=0.1)


async def test_a_step_says_when_the_next_is_due() -> None:
    steps = Steps()
    steps.answers["a"] = [3.0, 4.0, None]
    async with served(steps) as queue:
        queue.add("a")
        await asyncio.sleep(100)

    assert [at for _, at in steps.began] == pytest.approx([0.0, 3.0, 7.0], abs=0.1)


async def test_failures_come_back_later_each_time_and_obey_what_was_asked_for() -> None:
    steps = Steps()
    steps.answers["a"] = [
        errors.TemporaryError("busy", delay=20.0),
        errors.PermanentError("no"),
        errors.TemporaryError("again"),
        None,
    ]
    async with served(steps) as queue:
        queue.add("a")
        await asyncio.sleep(1)
        queue.add("b")  # the others do not wait for it
        await asyncio.sleep(100)

    times = [at for key, at in steps.began if key == "a"]
    assert times == pytest.approx([0.0, 20.0, 21.0, 23.0], abs=0.1)
    assert [at for key, at in steps.began if key == "b"] == pytest.approx([1.0], abs=0.1)


async def test_a_bug_costs_only_the_object_that_brings_it_to_light(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = Steps()
    steps.answers["a"] = [ValueError("a bug")] * 3
    async with served(steps, workers=1) as queue:
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(100)

    assert (steps.keys.count("a"), steps.keys.count("b")) == (4, 1)
    assert "ValueError: a bug" in caplog.text
