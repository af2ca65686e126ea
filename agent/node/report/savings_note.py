"""Writes what this node has saved to its node object, for the controller's page.

Rarely: the figures for graphs are in /metrics.
"""

import asyncio
from typing import Protocol

from agent.model import keys, reports
from agent.node.report import savings

_SECONDS = 600.0


class Board(Protocol):
    """The annotations of this node: agent.node.health.node_object.Announcer."""

    def annotate(self, **annotations: str | None) -> None:
        """Write annotations; never waits."""


class Accountant:
    """A service that writes the totals of a ledger."""

    def __init__(self, ledger: savings.Ledger, board: Board, *, seconds: float = _SECONDS) -> None:
        self._ledger = ledger
        self._board = board
        self._seconds = seconds

    async def run(self) -> None:
        """Write every so often, for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            self.write()

    def write(self) -> None:
        """Write the totals now, unless they are all 0."""
        totals = self._ledger.totals
        if not any(totals.images.values()):
            return
        saved = reports.Saved(
            seconds=round(totals.seconds, 1), size=totals.size, images=dict(totals.images)
        )
        self._board.annotate(**{keys.SAVED: reports.encode_saved(saved)})
