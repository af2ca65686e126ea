"""Longer work in the event loop: a generator that yields wherever others may have a turn."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")


async def run(work: Generator[None, None, Result]) -> Result:
    """Do it with a turn for others at each `yield`; what it reads may change meanwhile."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # it is the generator's
        await asyncio.sleep(0)


def run_nowait(work: Generator[None, None, Result]) -> Result:
    """Do it at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # it is the generator's
