import asyncio

import pytest

from agent.kits.aio import shared_lock

pytestmark = pytest.mark.looptime


class Diary:
    """Who came in and went out, in order."""

    def __init__(self) -> None:
        self.gate = shared_lock.Gate()
        self.lines: list[str] = []

    async def shared(self, name: str, seconds: float) -> None:
        async with self.gate.shared():
            await self.stay(name, seconds)

    async def alone(self, name: str, seconds: float) -> None:
        async with self.gate.alone():
            await self.stay(name, seconds)

    async def stay(self, name: str, seconds: float) -> None:
        self.lines.append(f"+{name}")
        await asyncio.sleep(seconds)
        self.lines.append(f"-{name}")


async def test_many_are_inside_together() -> None:
    diary = Diary()
    async with asyncio.TaskGroup() as group:
        group.create_task(diary.shared("a", 2))
        group.create_task(diary.shared("b", 1))

    assert diary.lines == ["+a", "+b", "-b", "-a"]


async def test_one_alone_waits_for_those_inside_and_keeps_newcomers_out() -> None:
    diary = Diary()
    async with asyncio.TaskGroup() as group:
        group.create_task(diary.shared("a", 2))
        await asyncio.sleep(0.5)
        group.create_task(diary.alone("X", 1))
        await asyncio.sleep(0.5)
        group.create_task(diary.shared("b", 1))

    assert diary.lines == ["+a", "-a", "+X", "-X", "+b", "-b"]


async def test_two_are_alone_one_after_the_other() -> None:
    diary = Diary()
    async with asyncio.TaskGroup() as group:
        group.create_task(diary.alone("X", 1))
        group.create_task(diary.alone("Y", 1))

    assert diary.lines == ["+X", "-X", "+Y", "-Y"]


async def test_who_gives_up_waiting_leaves_the_gate_open() -> None:
    diary = Diary()
    async with asyncio.TaskGroup() as group:
        group.create_task(diary.shared("a", 5))
        await asyncio.sleep(0.5)
        waiting = group.create_task(diary.alone("X", 1))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.sleep(0.5)
        group.create_task(diary.shared("b", 1))

    assert diary.lines == ["+a", "+b", "-b", "-a"]
