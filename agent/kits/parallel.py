"""One function for many items, several at a time: for calls that wait, as on a file server.

Threads are enough: such a call lets others run while it waits.
"""

import concurrent.futures
import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WIDTH = 16
"""Calls at a time. An NFS client has 64 for all that use the mount."""


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], *, width: int | None = None
) -> Generator[Result, None, None]:
    """As `map`: results in the order of the items. Use it in `contextlib.closing`.

    At most twice `width` (default WIDTH) results are held. When it is closed, or a
    call has failed, those under way are waited for: nothing goes on behind the caller.
    """
    width = width or WIDTH
    if width == 1:
        yield from map(function, items)
        return
    pool = concurrent.futures.ThreadPoolExecutor(width, thread_name_prefix="abreast")
    waiting: deque[concurrent.futures.Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def each(
    function: Callable[[Item], object], items: Iterable[Item], *, width: int | None = None
) -> None:
    """Call the function for each item, and wait for all of them."""
    with contextlib.closing(mapped(function, items, width=width)) as results:
        for _ in results:
            pass
