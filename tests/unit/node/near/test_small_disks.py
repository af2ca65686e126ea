"""Copies on a disk that is small, fills up, or cannot be written: never the cause of anything."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from agent.kits.processes import workers
from agent.mounts import syscalls
from agent.node.near import starts
from tests.unit.node.near import worlds

pytestmark = pytest.mark.root

MIB = 1 << 20
_REMOUNT = 32


@pytest.fixture
def world(tmp_path: pathlib.Path, monkeypatch) -> Iterator[worlds.World]:
    """A node with a disk of 10 MiB for its copies."""
    monkeypatch.setattr(starts, "_CALM_SECONDS", 0.0)
    with worlds.world(tmp_path) as world:
        os.mkdir(world.where.folder)
        syscalls.mount("tmpfs", world.where.folder, "tmpfs", 0, "size=10m")
        yield world


def free(world: worlds.World) -> float:
    """The free part of the disk, as the kubelet counts it."""
    seen = os.statvfs(world.where.folder)
    return seen.f_bavail / seen.f_blocks


def fill(world: worlds.World, size: int) -> None:
    """Have somebody else write to the disk."""
    with open(f"{world.where.folder}/somebody else's", "ab") as file:
        file.write(bytes(size))


async def test_copies_go_before_the_kubelet_would_evict_pods(world) -> None:
    """Its threshold is 15 % free of the file system of images."""
    world.limits = dataclasses.replace(world.limits, taken="100%", free="20%")
    names = [world.add(letter) for letter in "abcde"]
    for name in names:
        world.start(name)
    async with world.keeper() as keeper:
        await world.settle(keeper)
        assert all(map(world.reads_copy, names))
        assert free(world) > 0.4

        fill(world, 4 * MIB)
        assert free(world) < 0.15
        await world.settle(keeper)
        assert free(world) >= 0.2
        await world.settle(keeper)
    assert 0 < sum(map(world.has_copy, names)) < len(names)
    assert all(world.content(name) == world.expected(name) for name in names)


async def test_what_is_larger_than_the_disk_is_never_begun(world) -> None:
    world.limits = dataclasses.replace(world.limits, taken="100%", free="20%")
    name = world.add("a", size=9 * MIB)
    world.start(name)
    async with world.keeper() as keeper:
        assert "1 layer has no room" in await world.settle(keeper)
    assert os.listdir(world.where.tmp) == []


class Filling:
    """Workers beside which somebody else fills the disk as soon as a copy has begun."""

    def __init__(self, world: worlds.World, pool: workers.Pool) -> None:
        self._world = world
        self._pool = pool

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        result = await self._pool.call(operation, *arguments, deadline=deadline)
        if operation == "begin":
            fill(self._world, 9 * MIB)
        return result


async def test_a_disk_that_fills_up_meanwhile_gets_back_what_the_copy_took(world) -> None:
    name = world.add("a", size=4 * MIB)
    world.start(name)
    async with (
        workers.Pool("agent.local.copy_worker", name="the test", size=1) as pool,
        world.keeper(Filling(world, pool)) as keeper,
    ):
        sentence = await world.settle(keeper)
        assert sentence.startswith("Nothing is copied for now: [Errno 28]")
        assert keeper._pauses.holds("disk")
    assert os.listdir(world.where.tmp) == []
    assert world.content(name) == world.expected(name)


async def test_a_disk_that_cannot_be_written_changes_nothing_else(world) -> None:
    flags = _REMOUNT | syscalls.MS_RDONLY
    syscalls.mount("tmpfs", world.where.folder, "tmpfs", flags, "size=10m")
    name = world.add("a")
    world.start(name)
    async with world.keeper() as keeper:
        assert "Read-only file system" in await world.settle(keeper)
        assert keeper._pauses.holds("look")
    assert world.content(name) == world.expected(name)
