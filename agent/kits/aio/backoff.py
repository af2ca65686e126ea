"""How long to wait before another try: a list of delays, jitter, and a deadline.

The list is a setting; its last delay repeats. What the other side asks for
(Retry-After) is obeyed where it is longer. The end is a deadline, not a count:
five quick refusals say less than five minutes without an answer. Jitter keeps the
nodes of a cluster, which fail at the same moment, from coming back at the same moment.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Sequence

DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def spread(seconds: float, jitter: float) -> float:
    """A delay with a random part: 0.25 gives between 75 % and 125 % of it."""
    return seconds * (1 + random.uniform(-jitter, jitter))  # noqa: S311 - not a secret


def within(seconds: float) -> float:
    """A delay between none and so many seconds, so that machines do not begin at once."""
    return random.uniform(0, seconds)  # noqa: S311 - not a secret


class Backoff:
    """The delays of one undertaking; make a new one for the next.

    `deadline` is in seconds of the loop's clock from now, `jitter` the part of each
    delay that is random.
    """

    def __init__(
        self,
        delays: Sequence[float] = DELAYS,
        *,
        deadline: float = math.inf,
        jitter: float = 0.25,
    ) -> None:
        self._delays = delays
        self._jitter = jitter
        self._end = math.inf
        if deadline < math.inf:
            self._end = asyncio.get_running_loop().time() + deadline
        self.failures = 0
        """How many delays were taken since the last progress."""

    def reset(self) -> None:
        """Begin the list again, after progress was made; the deadline stays."""
        self.failures = 0

    def take(self, asked: float | None = None) -> float:
        """The next delay in seconds, for who waits in another way; the deadline is not asked.

        `asked` is what the other side named, in seconds.
        """
        delay = self._delays[min(self.failures, len(self._delays) - 1)]
        self.failures += 1
        return max(spread(delay, self._jitter), asked or 0.0)

    async def wait(self, asked: float | None = None, *, wake: asyncio.Event | None = None) -> bool:
        """Wait before the next try; False at once when the deadline would pass meanwhile.

        `wake` ends the wait early; it is not cleared.
        """
        delay = self.take(asked)
        if delay == math.inf or asyncio.get_running_loop().time() + delay > self._end:
            return False
        if wake is None:
            await asyncio.sleep(delay)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await wake.wait()
        return True
