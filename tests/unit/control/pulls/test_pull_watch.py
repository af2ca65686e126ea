"""Each event of a pull is taken in once, whatever the API server does."""

import contextlib
from typing import Any

import msgspec
import pytest

from agent.clients.kube import rest_client
from agent.control.pulls import pull_events, pull_watch
from agent.metrics import registries


def event(version: int, text: str = "app", *, count: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": f"p.{version}", "namespace": "team", "resourceVersion": str(version)},
        "involvedObject": {"kind": "Pod", "namespace": "team", "name": "p"},
        "message": f'Successfully pulled image "{text}" in 5s (5s including waiting)',
        "source": {"component": "kubelet", "host": "n1"},
        "count": count,
    }


class Client:
    """Lists what it has, and a watch that ends after what is to come."""

    def __init__(self) -> None:
        self.version = 0
        self.held: dict[str, dict[str, Any]] = {}
        self.coming: list[rest_client.Event] = []

    def put(self, body: dict[str, Any]) -> None:
        self.held[body["metadata"]["name"]] = body
        self.version = int(body["metadata"]["resourceVersion"])

    async def pages(self, resource, *, fields="", limit=None):
        assert (resource, fields) == (rest_client.EVENTS, pull_events.SELECTOR)
        for body in self.held.values():
            yield rest_client.Page(
                raw=[msgspec.Raw(msgspec.json.encode(body))], version=str(self.version)
            )

    async def watch(self, resource, *, version, fields="", silence=0.0):
        assert (resource, fields, silence > 600) == (
            rest_client.EVENTS,
            pull_events.SELECTOR,
            True,
        )
        bookmark = {"metadata": {"resourceVersion": version}}
        yield rest_client.Event(rest_client.Kind.BOOKMARK, bookmark)
        for each in self.coming:
            yield each


class World:
    def __init__(self, *, seen: int = 0) -> None:
        self.client = Client()
        self.taken: list[pull_events.Pull] = []
        self.watch = pull_watch.PullWatch(self.client, self.taken.append, seen=seen)

    @property
    def count(self) -> int:
        return sum(each.times for each in self.taken)

    async def read(self) -> None:
        async with contextlib.aclosing(self.watch.list(not_older_than="")) as parts:
            assert [dict(part.entries) async for part in parts] == [{}] * len(self.client.held)

    async def follow(self, *events: tuple[rest_client.Kind, dict[str, Any]]) -> list[str]:
        self.client.coming = [rest_client.Event(*each) for each in events]
        changes = self.watch.watch(str(self.watch.seen))
        async with contextlib.aclosing(changes):
            return [change.version async for change in changes]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_list_that_is_repeated_counts_nothing_twice(world: World) -> None:
    world.client.put(event(5, count=3))
    await world.read()
    world.client.put(event(6))
    await world.read()
    await world.read()

    assert world.count == 4
    assert world.watch.seen == 6


async def test_a_list_that_broke_off_counts_nothing_twice(world: World) -> None:
    world.client.put(event(5))
    world.client.put(event(6))
    async with contextlib.aclosing(world.watch.list(not_older_than="")) as parts:
        await anext(parts)
    assert not world.watch.is_whole

    await world.read()

    assert (world.count, world.watch.seen, world.watch.is_whole) == (2, 6, True)


async def test_an_event_that_is_counted_up_is_one_more_pull(world: World) -> None:
    world.client.put(event(5, count=3))
    await world.read()

    versions = await world.follow(
        (rest_client.Kind.ADDED, event(7)),
        (rest_client.Kind.MODIFIED, event(8, count=4)),
        (rest_client.Kind.DELETED, event(9)),
    )

    assert versions == ["5", "7", "8", "9"]
    assert (world.count, world.watch.seen) == (5, 9)


async def test_a_list_after_a_watch_that_broke_has_what_was_missed(world: World) -> None:
    await world.follow((rest_client.Kind.ADDED, event(7)))
    world.client.put(event(7))
    world.client.put(event(9, count=5))

    await world.read()

    # Of the last one it is not known how much of it was counted.
    assert (world.count, world.watch.seen) == (2, 9)


async def test_the_next_leader_goes_on_from_where_the_last_one_was() -> None:
    world = World(seen=7)
    world.client.put(event(7))
    world.client.put(event(8))

    await world.read()

    assert world.count == 1


async def test_after_a_restored_database_new_events_count(world: World) -> None:
    world.watch.seen = 1000
    world.client.put(event(5))
    await world.read()
    world.client.put(event(6))
    await world.read()

    assert world.count == 1


async def test_what_is_not_understood_is_counted_and_left_out(world: World) -> None:
    def unknown() -> float:
        return (
            registries.CONTROLLER.get_sample_value(
                "uimgacc_pull_events_total", {"result": "unknown"}
            )
            or 0.0
        )

    before = unknown()
    await world.follow(
        (rest_client.Kind.ADDED, event(7) | {"message": "pulled, somehow"}),
        (rest_client.Kind.ADDED, event(8) | {"involvedObject": None}),
    )

    assert (world.taken, unknown() - before, world.watch.seen) == ([], 2.0, 8)
