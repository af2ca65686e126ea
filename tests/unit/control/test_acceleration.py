"""UCloud's actions by several controllers at once: what one begins, the others see."""

import asyncio
import dataclasses
import datetime

import pytest

from agent.control import acceleration, exclusion, ucloud
from agent.model import images
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


class Objects:
    """The objects of a cluster; a list is on its way for a second."""

    def __init__(self) -> None:
        self.there: list[acceleration.Accelerated] = []
        self.enabled = True

    async def all(self) -> list[acceleration.Accelerated]:
        found = list(self.there)
        await asyncio.sleep(1)
        return found

    async def create(self, name: str, original: str, target: str) -> None:
        each = acceleration.Accelerated(name=name, uid="u", original=original, target=target)
        self.there = [*(other for other in self.there if other.name != name), each]

    async def delete(self, each: acceleration.Accelerated) -> None:
        self.there.remove(each)
        self.there.append(dataclasses.replace(each, deleted=NOW))

    async def switch(self) -> acceleration.Switch:
        return acceleration.Switch(enabled=self.enabled)

    async def turn(self, wanted: ucloud.Enable | None) -> None:
        self.enabled = wanted is not None


def controller(objects: Objects, api: fakes.Api, nfs: str = "h:/p") -> acceleration.Actions:
    turns = exclusion.Turns(api, namespace="system", wall_clock=lambda: NOW)
    return acceleration.Actions(objects, turns, nfs=nfs, store_problem=str, clock=lambda: NOW)


def create(tag: str) -> ucloud.Create:
    return ucloud.Create(
        images.parse_reference(f"r.io/app:{tag}"), images.parse_reference(f"r.io/app:{tag}-acc")
    )


async def outcome(actions: acceleration.Actions, request: ucloud.Request) -> str:
    try:
        await actions.do(request)
    except ucloud.ApiError as error:
        return error.code.name
    return "done"


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("second", [create("2"), ucloud.Disable(), create("1")])
async def test_of_two_operations_at_the_same_moment_one_begins(second, several: bool) -> None:
    objects, api = Objects(), fakes.Api()
    first = controller(objects, api)
    other = controller(objects, api) if several else first

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(outcome(actions, request))
            for actions, request in ((first, create("1")), (other, second))
        ]

    assert [task.result() for task in asked] == ["done", "BUSY"]
    assert [each.original for each in objects.there] == ["r.io/app:1"]
    assert objects.enabled


async def test_nothing_is_asked_of_who_only_looks() -> None:
    objects, api = Objects(), fakes.Api()
    turns = exclusion.Turns(api, namespace="system", wall_clock=lambda: NOW)
    async with turns.one():
        assert await outcome(controller(objects, api), ucloud.Get()) == "done"


@pytest.mark.parametrize(
    ("store", "asked", "expected"),
    [
        ("h:/p", "h", "done"),
        ("h:/p", "h:/p", "done"),
        ("h:/p", "other", "WRONG_PARAMETER"),
        ("", "other", "done"),  # not NFS of ours: there is nothing to compare
    ],
)
async def test_a_request_cannot_move_the_store(store: str, asked: str, expected: str) -> None:
    objects = Objects()
    objects.enabled = False
    actions = controller(objects, fakes.Api(), store)
    assert await outcome(actions, ucloud.Enable(nfs=asked)) == expected
    assert objects.enabled is (expected == "done")
