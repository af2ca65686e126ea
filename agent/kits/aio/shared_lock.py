"""A gate that many pass side by side, or one alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Lets many tasks in together, or one alone.

    A task that wants to be alone keeps newcomers out at once, and waits for those inside.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._change = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Be inside together with others."""
        async with self._change:
            await self._change.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            async with self._change:
                self._inside -= 1
                self._change.notify_all()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside alone."""
        async with self._change:
            await self._change.wait_for(lambda: not self._alone)
            self._alone = True
        try:
            async with self._change:
                await self._change.wait_for(lambda: not self._inside)
            yield
        finally:
            async with self._change:
                self._alone = False
                self._change.notify_all()
