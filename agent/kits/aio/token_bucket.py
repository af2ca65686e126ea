"""A token bucket: so many at once, and so many a second in the long run."""

from collections.abc import Callable


class Bucket:
    """Holds at most `burst` tokens and gets `rate` a second; full at first.

    `clock` gives seconds that never go back: the loop's time.
    """

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take(self) -> bool:
        """Take a token; False where there is none."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
