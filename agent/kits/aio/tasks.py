"""Services that run for as long as the process: one failing ends all, cleanly.

`asyncio.TaskGroup` reacts to a child that raises but not to one that returns.
A service that returns is a bug just as well, so it is guarded into an error.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from typing import Any, TypeVar

from agent import errors

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class ServiceExited(errors.AgentError):
    """A service returned although it should have run for ever.

    `name` is the service's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"service {name} ended unexpectedly")
        self.name = name


async def together(*work: Coroutine[Any, Any, Result]) -> list[Result]:
    """Run some coroutines side by side; their results in order.

    The first failure cancels the others and is raised as it is, not as a group:
    the caller handles one error, whichever came first.

    Not a TaskGroup: one whose child fails while it waits at its end leaves the
    parent's count of cancellations raised, and with Python before 3.11.4 (Debian
    12 has 3.11.2) the next asyncio.timeout in that task then ends it as cancelled
    (github.com/python/cpython/issues/102780).
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(each) for each in work]
    if not tasks:
        return []
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failures = [task.exception() for task in done if not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    late = [task.exception() for task in tasks if not task.cancelled()]
    for error in (*failures, *late):
        if error is not None:
            raise error
    return [task.result() for task in tasks]


async def guard(name: str, service: Awaitable[Any]) -> None:
    """Run a service; its return is an error."""
    await service
    raise ServiceExited(name)


async def run_services(
    services: Mapping[str, Coroutine[Any, Any, Any]], stop: asyncio.Event
) -> None:
    """Run services until `stop` is set (then cancel them and return) or one fails (raise).

    Raises ExceptionGroup with what the failing services raised.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(guard(name, service), name=name) for name, service in services.items()
        ]
        waiter = group.create_task(stop.wait(), name="stop")
        await waiter
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def stop_on_signals(
    numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
) -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, for the time of the context."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def receive(number: signal.Signals) -> None:
        logger.info("stopping", extra={"signal": number.name})
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, receive, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
