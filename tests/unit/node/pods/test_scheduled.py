"""Pods from an API that is scripted, over times that no test can wait for."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from agent import errors
from agent.clients.kube import refusals, selection
from agent.model import pods
from agent.node.pods import scheduled

ONE = pods.Pod(namespace="d", name="one", uid="1")
TWO = pods.Pod(namespace="d", name="two", uid="2")


def entry(pod: pods.Pod) -> selection.Entry[pods.Pod]:
    return selection.Entry(uid=pod.uid, item=pod)


class Ignores:
    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        pass

    def gone(self, key: str) -> None:
        pass


class Scripted:
    """An API with one pod that is away from one time to another, on the loop's clock."""

    def __init__(self, *, away: tuple[float, float], error: errors.AgentError) -> None:
        self.away = away
        self.error = error
        self.asked: list[float] = []
        self.watched: list[str] = []
        self.new: asyncio.Event = asyncio.Event()
        self._born = asyncio.get_running_loop().time()

    @property
    def age(self) -> float:
        return asyncio.get_running_loop().time() - self._born

    def _answer(self) -> None:
        self.asked.append(self.age)
        if self.away[0] <= self.age < self.away[1]:
            raise self.error

    async def list(self, *, not_older_than: str) -> AsyncGenerator[selection.Part[pods.Pod]]:
        self._answer()
        yield selection.Part(version="5", entries={"d/one": entry(ONE)})

    async def watch(self, version: str) -> AsyncGenerator[selection.Change[pods.Pod]]:
        self._answer()
        self.watched.append(version)
        yield selection.Change(version=version)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.away[0] - self.age) or 300):
                await self.new.wait()
                yield selection.Change(version="9", key="d/two", entry=entry(TWO))
                await asyncio.Event().wait()
        self._answer()


async def told(source: scheduled.Scheduled, until: str, *, seconds: float) -> list[str]:
    found = []
    async with asyncio.timeout(seconds), contextlib.aclosing(source.changes()) as changes:
        async for change in changes:
            found.append(f"{'-' if change.pod is None else '+'}{change.key}")
            if change.key == until:
                break
    return found


@pytest.mark.looptime
async def test_ten_minutes_without_an_api_server_change_nothing() -> None:
    api = Scripted(away=(60, 660), error=refusals.Unavailable("down"))
    source = scheduled.Scheduled(api, Ignores())
    loop = asyncio.get_running_loop()
    problems: list[str] = []
    loop.call_later(600, lambda: problems.append(source.problem))
    # Pauses are of up to 45 s: whatever chance says, it has asked again by then.
    loop.call_later(720, lambda: problems.append(source.problem))
    loop.call_later(730, api.new.set)

    assert await told(source, "d/two", seconds=1000) == ["+d/one", "+d/two"]
    assert problems == ["down (1 pods stay known)", ""]
    # Where it ended: nobody lists the pods again for a cut.
    assert api.watched == ["5", "5"]
    tries = [moment for moment in api.asked if 60 <= moment < 660]
    assert 600 / 45 <= len(tries) <= 600 / 15 + 8


@pytest.mark.looptime
async def test_an_api_server_that_is_down_at_the_start_is_found_when_it_comes() -> None:
    api = Scripted(away=(0, 600), error=refusals.Unavailable("down"))
    source = scheduled.Scheduled(api, Ignores())

    assert await told(source, "d/one", seconds=700) == ["+d/one"]
    assert 600 <= api.age <= 646


@pytest.mark.looptime
async def test_an_api_server_that_asks_for_time_gets_it() -> None:
    status = refusals.Refusal(request="GET", status=429, reason="", text="busy")
    api = Scripted(away=(0, 1), error=refusals.TooMany(status, delay=90))
    source = scheduled.Scheduled(api, Ignores())

    assert await told(source, "d/one", seconds=100) == ["+d/one"]
    assert api.age == pytest.approx(90, abs=0.5)


@pytest.mark.looptime
async def test_a_watch_that_ends_at_once_each_time_is_not_begun_without_pause() -> None:
    class Hasty(Scripted):
        async def watch(self, version: str) -> AsyncGenerator[selection.Change[pods.Pod]]:
            self._answer()
            yield selection.Change(version=version)

    api = Hasty(away=(9999, 9999), error=refusals.Unavailable(""))
    source = scheduled.Scheduled(api, Ignores())
    with pytest.raises(TimeoutError):
        await told(source, "d/two", seconds=300)

    assert "at once" in source.problem
    assert len(api.asked) < 30
