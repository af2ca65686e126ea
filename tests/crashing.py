"""Run a `uimgacc` command and kill -9 it before or after the N-th call of one function.

    python -m tests.crashing MODULE:QUALIFIED.NAME before|after N ARGUMENTS...

The product has no hooks for this: the function is replaced in this process only.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable

from agent.cli import entry


def arm(place: str, when: str, number: int) -> None:
    """Replace the function at `place` (`module:Class.name`)."""
    module_name, _, path = place.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, deadly(getattr(owner, name), when, number))


def deadly(function: Callable, when: str, number: int) -> Callable:
    """The function, with an end: as its N-th call begins, or as that very call returns."""
    calls = itertools.count(1)

    @contextlib.contextmanager
    def ending():
        is_the_end = next(calls) == number
        if is_the_end and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            yield
        finally:
            if is_the_end:
                os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    async def awaiting(*arguments, **keywords):
        with ending():
            return await function(*arguments, **keywords)

    @functools.wraps(function)
    def calling(*arguments, **keywords):
        with ending():
            return function(*arguments, **keywords)

    return awaiting if inspect.iscoroutinefunction(function) else calling


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.argv = ["uimgacc", *sys.argv[4:]]
    entry.main()
