"""Killable workers: child processes for whatever may block for ever.

A system call on a hung NFS mount blocks in the kernel, and neither a thread nor
the event loop can get out of it. So such calls are made in child processes: one
that misses its deadline is killed and replaced. A killed child that is still
blocked in the kernel (D state) is *stuck*: it goes away when the server is back,
or never. Stuck children are bounded; beyond the bound calls fail at once.
"""

import asyncio
import contextlib
import marshal
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any, Protocol

import agent
from agent import errors
from agent.kits.processes import worker_child

_CHILD = pathlib.Path(worker_child.__file__)
_REAP_SECONDS = 0.5
"""A killed child that is alive after this hangs in the kernel; before, it is ending."""

_SPARE_SECONDS = 30.0
"""Of the workers that a burst has called for, one stays for longer than this without work."""

_FOLDER = pathlib.Path(agent.__file__).parent.parent


class DeadlineError(errors.TemporaryError):
    """An operation did not end within its deadline; its worker was killed.

    `operation` is its name, `deadline` the seconds it had.
    """

    def __init__(self, operation: str, deadline: float) -> None:
        super().__init__(f"{operation} did not answer within {deadline:g} s")
        self.operation = operation
        self.deadline = deadline


class StuckError(errors.TemporaryError):
    """So many killed workers still hang in the kernel that no new one is started.

    `stuck` is their number.
    """

    def __init__(self, name: str, stuck: int) -> None:
        super().__init__(
            f"{stuck} workers of {name} hang in the kernel; is the store's server down?"
        )
        self.stuck = stuck


class OperationError(errors.PermanentError):
    """An operation raised something else than an OSError.

    `kind` is the name of the exception's class, `text` what it said.
    """

    def __init__(self, operation: str, kind: str, text: str) -> None:
        super().__init__(f"{operation}: {kind}: {text}")
        self.kind = kind
        self.text = text


class WorkerDied(errors.TemporaryError):
    """A worker ended in the middle of an operation (killed from outside, out of memory)."""


class Caller(Protocol):
    """What runs blocking operations and can be killed: a Pool, or what stands before one.

    A failed call leaves it usable.
    """

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation; what it raises is in Pool.call."""


class _Worker:
    """One child process and the socket to it."""

    def __init__(self, module: str, *, packages: bool) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        flags = [] if packages else ["-I", "-S"]
        arguments = [str(far.fileno()), str(_FOLDER), module]
        self.connection = near
        self.killed_at = 0.0
        self.idle_since = 0.0
        with far:
            self.process = subprocess.Popen(
                [sys.executable, *flags, str(_CHILD), *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                close_fds=True,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )

    async def call(self, operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        request = marshal.dumps((operation, arguments))
        await loop.sock_sendall(self.connection, worker_child.LENGTH.pack(len(request)) + request)
        size = worker_child.LENGTH.unpack(await self._receive(worker_child.LENGTH.size))[0]
        reply: tuple[Any, ...] = marshal.loads(await self._receive(size))  # noqa: S302 - our child
        return reply

    async def _receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        parts = bytearray()
        while len(parts) < size:
            part = await loop.sock_recv(self.connection, size - len(parts))
            if not part:
                raise WorkerDied("a worker process ended in the middle of an operation")
            parts += part
        return bytes(parts)

    def kill(self) -> None:
        self.killed_at = time.monotonic()
        self.connection.close()
        self.process.kill()


class Pool:
    """At most `size` workers that run the OPERATIONS of one module.

    `name` is for messages. `packages` gives the children site-packages (more
    memory, slower start). At most `max_stuck` killed children may hang in the
    kernel, and `kept` workers stay when there has been no work for long. Use as an async
    context; workers start on demand.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        size: int,
        packages: bool = False,
        max_stuck: int = 8,
        kept: int = 1,
    ) -> None:
        self._module = module
        self._name = name
        self._packages = packages
        self._max_stuck = max_stuck
        self._kept = kept
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Worker] = []
        self._killed: list[_Worker] = []
        self._trimming: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    @property
    def stuck(self) -> int:
        """How many killed workers still hang in the kernel."""
        self._reap()
        overdue = time.monotonic() - _REAP_SECONDS
        return sum(worker.killed_at < overdue for worker in self._killed)

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation in a worker and return its result.

        Arguments and results are what marshal can hold. `deadline` is in seconds
        and includes the wait for a free worker.

        Raises DeadlineError, StuckError, WorkerDied, OperationError, and OSError as
        the operation raised it.
        """
        try:
            async with asyncio.timeout(deadline), self._slots:
                reply = await self._call_in_worker(operation, arguments)
        except TimeoutError as error:
            raise DeadlineError(operation, deadline) from error
        if reply[0] == "ok":
            return reply[1]
        if reply[0] == "os":
            raise OSError(reply[1], reply[2], reply[3] or None)
        raise OperationError(operation, reply[1], reply[2])

    async def _call_in_worker(self, operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        worker = self._take()
        try:
            reply = await worker.call(operation, arguments)
        except (OSError, WorkerDied) as error:
            self._discard(worker)
            raise WorkerDied(f"{operation}: a worker process ended: {error}") from error
        except BaseException:
            self._discard(worker)
            raise
        worker.idle_since = time.monotonic()
        self._idle.append(worker)
        self._trim_later()
        return reply

    def _trim_later(self) -> None:
        """Once after a burst; where those that are kept do all the work, no timer ever runs."""
        if self._trimming is None and (spare := self._spare()):
            since = min(worker.idle_since for worker in spare)
            pause = max(0.0, since + _SPARE_SECONDS - time.monotonic())
            self._trimming = asyncio.get_running_loop().call_later(pause, self._trim)

    def _spare(self) -> list[_Worker]:
        # The last one to have worked is the next one to work.
        return self._idle[: max(0, len(self._idle) - self._kept)]

    def _trim(self) -> None:
        """End workers that have had no work for long: each holds 5 MB or more of its own."""
        self._trimming = None
        oldest = time.monotonic() - _SPARE_SECONDS
        spare = [worker for worker in self._spare() if worker.idle_since <= oldest]
        for worker in spare:
            self._idle.remove(worker)
            self._discard(worker)
        if spare:
            asyncio.get_running_loop().call_later(_REAP_SECONDS, self._reap)
        self._trim_later()

    def _reap(self) -> None:
        self._killed = [worker for worker in self._killed if worker.process.poll() is None]

    def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.kill()
        if self.stuck >= self._max_stuck:
            raise StuckError(self._name, self.stuck)
        return _Worker(self._module, packages=self._packages)

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._killed.append(worker)

    def close(self) -> None:
        """End all workers; those that hang in the kernel are left to it."""
        if self._trimming is not None:
            self._trimming.cancel()
        for worker in self._idle:
            worker.kill()
        deadline = time.monotonic() + 1
        for worker in (*self._idle, *self._killed):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self._idle.clear()
