"""How long to wait before another try: a list of delays, jitter, and a deadline.

The list is a setting; its last delay repeats. What the other side asks for
(Retry-After) is obeyed where it is longer. The end is a deadline, not a count:
five quick refusals say less than five minutes without an answer.
"""

import asyncio
import random
from collections.abc import Sequence

DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


class Backoff:
    """The delays of one undertaking; make a new one for the next.

    `deadline` is in seconds of the loop's clock from now, `jitter` the part of each
    delay that is random (0.25: between 75 % and 125 %).
    """

    def __init__(
        self, delays: Sequence[float] = DELAYS, *, deadline: float, jitter: float = 0.25
    ) -> None:
        self._delays = delays
        self._jitter = jitter
        self._next = 0
        self._end = asyncio.get_running_loop().time() + deadline

    def reset(self) -> None:
        """Begin the list again, after progress was made; the deadline stays."""
        self._next = 0

    async def wait(self, asked: float | None = None) -> bool:
        """Sleep before the next try; False at once when the deadline would pass meanwhile.

        `asked` is what the other side named, in seconds.
        """
        delay = self._delays[min(self._next, len(self._delays) - 1)]
        self._next += 1
        delay *= 1 + random.uniform(-self._jitter, self._jitter)  # noqa: S311 - not a secret
        delay = max(delay, asked or 0.0)
        if asyncio.get_running_loop().time() + delay > self._end:
            return False
        await asyncio.sleep(delay)
        return True
