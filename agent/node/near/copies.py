"""Keeping local copies of the layers that this node's containers run on.

The store is asked for the layers' records only. All that touches the store's layer files or the
folder of copies runs in workers that can be killed.
"""

import asyncio
import dataclasses
import fcntl
import logging
import os
from typing import Any, Protocol

from agent import errors, metrics
from agent.kits.processes import workers
from agent.local import copy_paths, disk

logger = logging.getLogger(__name__)

_DISK_SECONDS = 10.0
"""What one operation on the folder of copies may take."""


class Caller(Protocol):
    """What runs the blocking operations: agent.kits.processes.workers.Pool."""

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation; errors as in Pool.call."""


class Node(Protocol):
    """This node, as the agent knows it."""

    @property
    def root(self) -> str:
        """The snapshotter's root folder, "" before that is known."""


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of local copies; sizes in bytes."""

    copies: int = 0
    size: int = 0
    sentence: str = "not looked at yet"


class Keeper:
    """Looks every `interval` seconds what is to be done; `pool` has agent.local's operations."""

    def __init__(self, pool: Caller, node: Node, *, interval: float = 10.0) -> None:
        self._pool = pool
        self._node = node
        self._interval = interval
        self._lock: int | None = None
        self.state = State()

    async def run(self) -> None:
        """Keep copies for ever."""
        try:
            while True:
                sentence = await self._step()
                if sentence != self.state.sentence:
                    logger.info("looked at local copies", extra={"outcome": sentence})
                self.state.sentence = sentence
                await asyncio.sleep(self._interval)
        finally:
            if self._lock is not None:
                os.close(self._lock)

    async def _step(self) -> str:
        """Do what is to be done now; one sentence about it."""
        if not self._node.root:
            return "The snapshotter is not known yet."
        where = copy_paths.of(self._node.root)
        try:
            if self._lock is None:
                await self._pool.call("prepare", where.folder, deadline=_DISK_SECONDS)
                self._lock = _locked(where.lock)
            if self._lock is None:
                return "Another agent of this node keeps the local copies."
            look: disk.Look = await self._pool.call("look", where.folder, deadline=_DISK_SECONDS)
        except (OSError, errors.AgentError) as error:
            return f"There are no local copies: {error}"
        copies, _, _ = look
        self._note(len(copies), sum(size for _, size, _ in copies))
        return "Nothing is to be copied."

    def _note(self, copies: int, size: int) -> None:
        self.state.copies, self.state.size = copies, size
        metrics.LOCAL_COPIES.set(copies)
        metrics.LOCAL_BYTES.set(size)


def _locked(path: str) -> int | None:
    """A descriptor that keeps other agents out until it is closed; None where one was first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def opened() -> workers.Pool:
    """The workers of a Keeper; one, for one thing is copied at a time."""
    return workers.Pool("agent.local.disk", name="the local copies", size=1)
