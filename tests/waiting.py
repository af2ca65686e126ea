"""How a test waits for what another program does: for the state, never for a time.

A helper process that has ended at its start will never bring the state about. A fixture
that starts helpers adds a check of them (`failing_on`): waits fail at once with what it returns.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from lab import polling

Check = Callable[[], str]
"""Says why waiting is in vain, "" as long as it is not."""

_PATIENCE = float(os.environ.get("UIMGACC_PATIENCE", "1"))
"""How many times as slow as a usual one this machine is; emulated ones are (lab.kernels)."""

_checks: list[Check] = []


def wait_until(condition: Callable[[], Any], *, seconds: float = 60) -> float:
    """Wait for a condition, and return how long it took; fail if it does not hold in `seconds`."""
    seconds *= _PATIENCE
    started, pace = time.monotonic(), polling.Pace()
    while not condition():
        for check in _checks:
            reason = check()
            assert not reason, reason
        took = time.monotonic() - started
        assert took < seconds, f"the condition did not hold within {seconds:g} s"
        pace.pause()
    return time.monotonic() - started


@contextlib.contextmanager
def failing_on(check: Check) -> Iterator[None]:
    """Let each `wait_until` of the block fail as soon as the check has a reason."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)
