"""Pods that wait for a cache hear how far it is, at most once a minute. In fake time."""

import asyncio
import contextlib
import dataclasses
import itertools

import pytest

from agent.matching import decisions
from agent.model import caches, pods
from agent.node.pods import build_progress, served_pods
from agent.store.lookup import catalog
from tests.unit.matching import making

pytestmark = pytest.mark.looptime

CACHE = caches.id_of_name("tools")
PINNED = {"uimgacc.io/image-cache": "tools"}


class Setting:
    """One node, and the store that says how far builds are."""

    def __init__(self) -> None:
        self.current: dict[str, served_pods.Served] = {}
        self.percents: dict[str, int] = {}
        self.away = False
        self.read: list[float] = []
        self.heard: list[tuple[float, str, str]] = []
        self.progress = build_progress.BuildProgress(self, self, self)

    def add(self, name: str = "pod", annotated: dict[str, str] | None = None, **pod) -> None:
        """A pod that was served."""
        made = making.pod("registry.example.com/app:1", annotated=annotated or PINNED)
        made = dataclasses.replace(made, name=name, uid=f"u-{name}", **pod)
        decision = making.decide(made, [], [])
        served = served_pods.Served(made)
        served.result = _Result(decision)
        self.current[f"default/{name}"] = served

    async def builds(self) -> dict[str, int]:
        self.read.append(asyncio.get_running_loop().time())
        if self.away:
            raise catalog.StoreUnavailable("read", "no answer")
        return self.percents

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        assert event.reason == "ImageCacheBuilding"
        at = asyncio.get_running_loop().time()
        self.heard.append((at, pod.name, event.message.rpartition(": ")[2]))

    async def run(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.progress.run()

    def said(self) -> list[tuple[str, str]]:
        return [(name, what) for _, name, what in self.heard]


@dataclasses.dataclass
class _Result:
    decision: decisions.Decision


async def test_a_pod_hears_of_each_percent_at_most_once_a_minute() -> None:
    given = Setting()
    given.add()

    async def build() -> None:
        for percent in range(100):
            given.percents[CACHE] = percent
            await asyncio.sleep(3)

    async with asyncio.TaskGroup() as group:
        building = group.create_task(build())
        await given.run(290)
        building.cancel()

    times = [at for at, _, _ in given.heard]
    assert times[0] < 7
    assert 4 <= len(times) <= 5
    assert all(later - at >= 60 for at, later in itertools.pairwise(times))


async def test_a_build_that_stands_still_is_not_told_twice() -> None:
    given = Setting()
    given.add()
    given.percents[CACHE] = 40
    await given.run(600)

    assert given.said() == [("pod", "40 %.")]


async def test_a_cache_that_is_made_for_the_pod_is_waited_for() -> None:
    given = Setting()
    given.add(annotated={"uimgacc.io/image-cache": "auto"})
    served = given.current["default/pod"]
    (awaited,) = served.result.decision.awaited
    given.percents[awaited] = 7
    await given.run(30)

    assert given.said() == [("pod", "7 %.")]


@pytest.mark.parametrize(
    ("annotated", "pod"),
    [(PINNED, {"phase": "Running"}), ({}, {})],
)
async def test_a_pod_that_runs_or_has_not_asked_hears_nothing(annotated, pod) -> None:
    given = Setting()
    given.add(annotated={"other": "1", **annotated}, **pod)
    given.percents[CACHE] = 7
    await given.run(300)

    assert (given.heard, given.read) == ([], [])


async def test_many_pods_cost_one_reading_and_more_rarely_where_nothing_is_built() -> None:
    given = Setting()
    for number in range(50):
        given.add(f"pod-{number}")
    await given.run(3600)

    assert given.heard == []
    assert len(given.read) < 3600 / 5
    late = [at for at in given.read if at > 1800]
    one = Setting()
    one.add()
    await one.run(3600)
    assert len(one.read) <= 75
    assert len(late) <= 1800 / 4


async def test_a_store_that_is_away_is_asked_again_later() -> None:
    given = Setting()
    given.add()
    given.away = True
    given.percents[CACHE] = 7
    await given.run(100)
    assert given.heard == []

    given.away = False
    await given.run(100)
    assert given.said() == [("pod", "7 %.")]


async def test_a_pod_of_the_same_name_is_another() -> None:
    given = Setting()
    given.add()
    given.percents[CACHE] = 7
    await given.run(20)
    given.current.clear()
    await given.run(20)
    given.add(deleting=False)
    await given.run(20)

    assert given.said() == [("pod", "7 %."), ("pod", "7 %.")]
