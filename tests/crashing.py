"""Run a `uimgacc` command and kill -9 it before or after the N-th call of one function.

    python -m tests.crashing MODULE:QUALIFIED.NAME before|after N ARGUMENTS...

The product has no hooks for this: the function is replaced in this process only.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable

from agent.cli import main


def arm(place: str, when: str, number: int) -> None:
    """Replace the function at `place` (`module:Class.name`)."""
    module_name, _, path = place.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, deadly(getattr(owner, name), when, number))


def deadly(function: Callable, when: str, number: int) -> Callable:
    """The function, with an end."""
    calls = 0

    def is_the_end(moment: str) -> bool:
        nonlocal calls
        calls += moment == "before"
        return moment == when and calls == number

    @functools.wraps(function)
    async def awaiting(*arguments, **keywords):
        if is_the_end("before"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return await function(*arguments, **keywords)
        finally:
            if is_the_end("after"):
                os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def calling(*arguments, **keywords):
        if is_the_end("before"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return function(*arguments, **keywords)
        finally:
            if is_the_end("after"):
                os.kill(os.getpid(), signal.SIGKILL)

    return awaiting if inspect.iscoroutinefunction(function) else calling


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.argv = ["uimgacc", *sys.argv[4:]]
    main.main()
