"""Daemon threads for work on memory and pipes that releases the interpreter's lock.

Not `asyncio.to_thread`: its executor has few threads, and the process cannot end
before they do. A daemon thread does not hold up the end of the process, even when
it hangs in the kernel; so a short-lived role (the builder) may also do its file
system calls here. Long-lived roles use agent.kits.processes.workers for these.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from agent import errors

P = ParamSpec("P")
T = TypeVar("T")


class Closed(errors.AgentError):
    """The other side of a channel has given up."""


class Channel(Generic[T]):
    """A bounded queue between two threads, either of which may give up.

    `put` and `get` block; after `close`, `put` raises Closed. After `abort`, both do.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._aborted = False

    def put(self, item: T) -> None:
        """Append an item; blocks while the channel is full."""
        with self._changed:
            while len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed("the reader has ended")
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T | None:
        """Take the next item; None when the channel is closed and empty."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            if self._aborted:
                raise Closed("the writer has ended")
            item = self._items.popleft() if self._items else None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """No more items will come; those that are in it can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake both sides with Closed; items are dropped."""
        with self._changed:
            self._closed = self._aborted = True
            self._items.clear()
            self._changed.notify_all()


def start(
    name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> "asyncio.Future[T]":
    """Run a function in a daemon thread of its own; the future gets what it returns or raises.

    Cancelling the future does not end the thread: the caller ends it in another
    way (by closing a channel or a pipe).
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the event loop
            failure = error
        # The loop is closed when the process ends meanwhile: the result is dropped.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def run(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a daemon thread, to its end even when the caller is cancelled.

    What it does must be short: code that cleans up after a cancellation relies on it
    being over.
    """
    future = start(name, function, *args, **kwargs)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
