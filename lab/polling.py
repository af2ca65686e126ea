"""How often a waiting program looks whether something has come about.

A look may cost a process or a request, and what is waited for needs the processor, too: after a
look, nothing is done for some times as long as it took.
"""

import time

_LONGEST = 0.5
_TIMES = 3
"""A pause is so many times as long as the look before it."""


class Pace:
    """Makes the pauses of one wait; none is shorter than `shortest`, in seconds."""

    def __init__(self, shortest: float = 0.02) -> None:
        self._shortest = shortest
        self._look_began = time.monotonic()

    def pause(self) -> None:
        """Sleep after a look, before the next one."""
        look = time.monotonic() - self._look_began
        time.sleep(min(max(self._shortest, _TIMES * look), _LONGEST))
        self._look_began = time.monotonic()
