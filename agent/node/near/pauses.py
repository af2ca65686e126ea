"""For how long what has failed is left alone: longer after each failure, by name."""

import dataclasses
import math
import time
from collections.abc import Sequence

from agent.kits.aio import backoff

_SECONDS = (10.0, 30.0, 60.0, 300.0, 900.0)
_MOST = 1000
"""Names that are kept; beyond, those go whose pause has ended."""


@dataclasses.dataclass(slots=True)
class _Pause:
    delays: backoff.Backoff
    until: float = 0.0


class Pauses:
    """Pauses of the disk, the store, single layers and mountpoints."""

    def __init__(self, seconds: Sequence[float] = _SECONDS) -> None:
        self._seconds = seconds
        self._pauses: dict[str, _Pause] = {}

    def hold(self, name: str, seconds: float | None = None) -> None:
        """Leave something alone for so long, or for as long as is due after this failure."""
        if len(self._pauses) >= _MOST:
            now = time.monotonic()
            self._pauses = {key: each for key, each in self._pauses.items() if each.until > now}
        pause = self._pauses.setdefault(name, _Pause(backoff.Backoff(self._seconds)))
        pause.until = time.monotonic() + (pause.delays.take() if seconds is None else seconds)

    def holds(self, name: str) -> bool:
        """Whether something is to be left alone now."""
        pause = self._pauses.get(name)
        return pause is not None and time.monotonic() < pause.until

    @property
    def next_end(self) -> float:
        """When the first pause ends, by the monotonic clock; infinity where nothing is held."""
        now = time.monotonic()
        ends = (each.until for each in self._pauses.values() if each.until > now)
        return min(ends, default=math.inf)

    def end(self, *names: str) -> None:
        """Forget failures: it has worked."""
        for name in names:
            self._pauses.pop(name, None)
