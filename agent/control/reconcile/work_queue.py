"""A queue of keys with due times: one step at a time for each key, several keys in parallel.

A key that is added while its step runs gets another step afterwards, which sees what has
changed meanwhile. A step that fails is repeated, with a longer pause each time.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from agent import errors
from agent.kits.aio import backoff
from agent.metrics import cache_metrics

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

_DELAYS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Queue(Generic[Key]):
    """Keys that wait for their step."""

    def __init__(self, delays: Sequence[float] = _DELAYS) -> None:
        self._delays = delays
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self._busy: set[Key] = set()
        self._backoffs: dict[Key, backoff.Backoff] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Schedule a step for a key after `delay` seconds; an earlier one stays as it is."""
        at = asyncio.get_running_loop().time() + delay
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            self._order += 1
            heapq.heappush(self._heap, (at, self._order, key))
            self._changed.set()

    async def run(self, step: Callable[[Key], Awaitable[float | None]]) -> None:
        """Do steps for ever. A step returns the seconds until its next one, or None."""
        while True:
            key = await self._next()
            self._busy.add(key)
            began = time.monotonic()
            try:
                again = await step(key)
            except errors.AgentError as error:
                again = self._later(key, error)
                cache_metrics.reconciled(time.monotonic() - began, failed=True)
            except Exception as error:
                # A bug that one object brings to light must not end the controller of all others.
                logger.exception("a step failed by a bug", extra={"key": str(key)})
                again = self._later(key, error)
                cache_metrics.reconciled(time.monotonic() - began, failed=True)
            else:
                self._backoffs.pop(key, None)
                cache_metrics.reconciled(time.monotonic() - began, failed=False)
            finally:
                self._busy.discard(key)
                self._changed.set()
            if again is not None:
                self.add(key, again)

    async def _next(self) -> Key:
        while True:
            self._changed.clear()
            now = asyncio.get_running_loop().time()
            key, wait = self._take(now)
            if key is not None:
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _take(self, now: float) -> tuple[Key | None, float | None]:
        """The first key that is due and not busy; else how long to wait for one."""
        busy = []
        first: Key | None = None
        wait = None
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) != at:
                heapq.heappop(self._heap)  # it was taken, or moved
            elif at > now:
                wait = at - now
                break
            else:
                entry = heapq.heappop(self._heap)
                if key in self._busy:
                    busy.append(entry)
                else:
                    first = key
                    del self._due[key]
                    break
        for entry in busy:
            heapq.heappush(self._heap, entry)
        return first, wait

    def _later(self, key: Key, error: Exception) -> float:
        # One process, which takes one step after the other: there is nothing to spread.
        again = self._backoffs.setdefault(key, backoff.Backoff(self._delays, jitter=0.0))
        log = logger.warning if again.failures else logger.info
        delay = again.take(error.delay if isinstance(error, errors.TemporaryError) else None)
        log("a step failed", extra={"key": str(key), "reason": str(error), "again": delay})
        return delay
