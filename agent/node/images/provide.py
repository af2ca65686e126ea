"""Having one image of the store present in containerd: register, repair, count."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from agent import errors, metrics
from agent.model import images, records
from agent.node.images import register, registration_plan

logger = logging.getLogger(__name__)


class Registrar(Protocol):
    """Writes an image into containerd: agent.node.images.register.Registrar."""

    async def register(
        self, wanted: registration_plan.Registration
    ) -> registration_plan.Registered:
        """Make an image present; AgentError where that fails."""

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Give each of its layers a snapshot; AgentError where that fails."""


class Repairer(Protocol):
    """Removes what containerd still has of a chain that the snapshotter has lost."""

    def watch(self, top: str) -> None:
        """Check an image regularly from now on, by its top chain ID."""

    async def repair(self, chain: Sequence[str]) -> None:
        """Remove it; raises TemporaryError when that must be tried again."""


class Ledger(Protocol):
    """Keeps the account of what was saved."""

    async def registered(
        self,
        record: records.ImageRecord,
        done: registration_plan.Registered,
        *,
        seconds: float,
    ) -> None:
        """An image was registered within so many seconds. Raises nothing foreseen."""


class Provider:
    """Has images present, any number side by side."""

    def __init__(
        self,
        registrar: Registrar,
        repairer: Repairer,
        ledger: Ledger,
        *,
        platform: images.Platform,
        snapshotter: str,
    ) -> None:
        self._registrar = registrar
        self._repairer = repairer
        self._ledger = ledger
        self._platform = platform
        self._snapshotter = snapshotter

    async def provide(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        """Have an image present; None where the store has it for other platforms only.

        Raises AgentError where it could not be registered.
        """
        wanted = registration_plan.registration_of(
            reference, record, self._platform, snapshotter=self._snapshotter
        )
        if wanted is None:
            return None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            done = await self._register(wanted)
        except errors.AgentError as error:
            metrics.image_left(_reason(error))
            raise
        self._repairer.watch(wanted.top)
        await self._ledger.registered(record, done, seconds=loop.time() - started)
        return wanted

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Prepare for a pull of an image that is present; without this, the pull is slower."""
        try:
            await self._registrar.lay_out(wanted)
        except errors.AgentError as error:
            logger.info("not laid out", extra={"image": wanted.tag, "reason": str(error)})

    async def _register(
        self, wanted: registration_plan.Registration
    ) -> registration_plan.Registered:
        try:
            return await self._registrar.register(wanted)
        except register.BrokenError as error:
            await self._repairer.repair(error.chain)
            return await self._registrar.register(wanted)


def _reason(error: errors.AgentError) -> metrics.ImageReason:
    """The label of uimgacc_image_fallback_total."""
    if isinstance(error, register.NotServedError):
        return "not_served"
    if isinstance(error, register.BlobMissingError):
        return "damaged_record"
    return "not_registered"
