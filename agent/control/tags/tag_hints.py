"""Tags that are to be looked up soon, because somebody says that they were pushed.

A hint is believed in nothing: it names a tag, and the registry is asked what that stands for.
"""

import asyncio
import dataclasses
from collections.abc import Iterable

_MOST = 1000


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Hint:
    """A tag of a repository, at whatever host: a registry may not know its name for users."""

    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


class Hints:
    """Hints that wait, each once, and at most a thousand."""

    def __init__(self) -> None:
        self._waiting: set[Hint] = set()
        self._there = asyncio.Event()

    def add(self, hints: Iterable[Hint]) -> bool:
        """Take hints in; False, and none of them, where there are too many."""
        together = self._waiting | set(hints)
        if len(together) > _MOST:
            return False
        self._waiting = together
        if together:
            self._there.set()
        return True

    def take(self) -> frozenset[Hint]:
        """All that wait."""
        taken, self._waiting = frozenset(self._waiting), set()
        self._there.clear()
        return taken

    async def wait(self) -> None:
        """Return when there are some."""
        await self._there.wait()
