"""Writes what this node has saved to its Lease, for the controller's page and `uimgacc status`.

Rarely, and only what has changed: the figures for graphs are in /metrics.
"""

import asyncio
import logging
from typing import Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.model import keys, reports
from agent.node.report import savings

logger = logging.getLogger(__name__)

_SECONDS = 600.0


class Notes(Protocol):
    """Where it is written: agent.node.report.node_lease.NodeLease."""

    async def note(self, **annotations: str) -> None:
        """Have these annotations there; raise AgentError."""


class NoNotes:
    """Where there is no cluster: /status says it."""

    async def note(self, **annotations: str) -> None:
        """Do nothing."""


class Accountant:
    """A service that writes the totals of a ledger."""

    def __init__(self, ledger: savings.Ledger, notes: Notes, *, seconds: float = _SECONDS) -> None:
        self._ledger = ledger
        self._notes = notes
        self._seconds = seconds
        self._written = ""

    async def run(self) -> None:
        """Write every so often, for ever; what fails is written the next time."""
        while True:
            # Agents that were started together do not write together.
            await asyncio.sleep(backoff.spread(self._seconds, 0.5))
            try:
                await self.write()
            except errors.AgentError as error:
                logger.debug("what was saved is not written", extra={"reason": str(error)})

    async def write(self) -> None:
        """Write the totals now, unless they are all 0, or written already; raise AgentError."""
        totals = self._ledger.totals
        if not any(totals.images.values()):
            return
        saved = reports.Saved(
            seconds=round(totals.seconds, 1),
            size=totals.size,
            images=dict(totals.images),
            today=self._ledger.today.report(),
        )
        text = reports.encode_saved(saved)
        if text != self._written:
            await self._notes.note(**{keys.SAVED: text})
            self._written = text
