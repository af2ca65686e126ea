"""Writes what this node has saved to its node object, for the controller's page.

Rarely, and only what has changed: the figures for graphs are in /metrics.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from agent.model import keys, nodes
from agent.node.report import savings

_SECONDS = 600.0


class Board(Protocol):
    """What others may read of this node: agent.node.health.node_object.Announcer."""

    def annotate(self, **annotations: str | None) -> None:
        """Write annotations; never waits."""


class Accountant:
    """A service; `totals` says what was saved since the agent's start."""

    def __init__(
        self,
        totals: Callable[[], savings.Totals],
        board: Board,
        *,
        seconds: float = _SECONDS,
    ) -> None:
        self._totals = totals
        self._board = board
        self._seconds = seconds

    async def run(self) -> None:
        """Write every so often, for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            self.write()

    def write(self) -> None:
        """Write it now; nothing before there is something."""
        found = self._totals()
        if not any(found.images.values()):
            return
        saved = nodes.Saved(
            seconds=round(found.seconds, 1), size=found.size, images=dict(found.images)
        )
        self._board.annotate(**{keys.SAVED: nodes.encode_saved(saved)})
