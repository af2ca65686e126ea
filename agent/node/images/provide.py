"""Having one image of the store present in containerd: register, repair, count."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from agent import errors
from agent.metrics import image_metrics
from agent.model import images, records
from agent.node.images import register, registration_plan

logger = logging.getLogger(__name__)


class Registrar(Protocol):
    """Writes an image into containerd: agent.node.images.register.Registrar."""

    async def register(
        self, wanted: registration_plan.Registration, *, each: bool = False
    ) -> registration_plan.Registered:
        """Make an image present, `each` layer as a snapshot; AgentError where that fails."""

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Give each of its layers a snapshot; AgentError where that fails."""

    async def lay_out_ahead(
        self, wanted: registration_plan.Registration
    ) -> registration_plan.Registered:
        """Have all ready for a pull, but the image itself; AgentError where that fails."""

    async def withdraw(self, tag: str) -> None:
        """Take back a tag that was given to an image; AgentError where that fails."""


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

    def laid_out(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """An image was laid out; it counts once it is pulled."""


class Provider:
    """Has images present, any number side by side.

    `note_failure` takes the reason of each failure; the default counts images of pods.
    """

    def __init__(
        self,
        registrar: Registrar,
        repairer: Repairer,
        ledger: Ledger,
        *,
        platform: images.Platform,
        snapshotter: str,
        note_failure: Callable[[image_metrics.ImageReason], None] = image_metrics.image_left,
    ) -> None:
        self._registrar = registrar
        self._repairer = repairer
        self._ledger = ledger
        self._platform = platform
        self._snapshotter = snapshotter
        self._note_failure = note_failure

    async def provide(
        self, reference: images.Reference, record: records.ImageRecord, *, each: bool = False
    ) -> registration_plan.Registration | None:
        """Have an image present; None where the store has it for other platforms only.

        `each` layer is a snapshot of its own where the image is to be a volume. Raises
        AgentError where it could not be registered.
        """
        wanted = self._plan(reference, record)
        if wanted is None:
            return None
        started = asyncio.get_running_loop().time()
        register = functools.partial(self._registrar.register, each=each)
        done = await self._try(register, wanted)
        self._repairer.watch(wanted.top)
        seconds = asyncio.get_running_loop().time() - started
        await self._ledger.registered(record, done, seconds=seconds)
        return wanted

    async def provide_layers(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        """Have an image's layers ready, and the image left to the kubelet's pull; as `provide`."""
        wanted = self._plan(reference, record)
        if wanted is None:
            return None
        started = asyncio.get_running_loop().time()
        done = await self._try(self._registrar.lay_out_ahead, wanted)
        seconds = asyncio.get_running_loop().time() - started
        self._ledger.laid_out(record, done, seconds=seconds)
        return wanted

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Prepare for a pull of an image that is present; without this, the pull is slower."""
        try:
            await self._registrar.lay_out(wanted)
        except errors.AgentError as error:
            logger.info("not laid out", extra={"image": wanted.tag, "reason": str(error)})

    async def withdraw(self, reference: images.Reference) -> None:
        """Take back the tag of a registered image, so that the kubelet asks the registry."""
        await self._registrar.withdraw(str(reference))

    def _plan(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        return registration_plan.registration_of(
            reference, record, self._platform, snapshotter=self._snapshotter
        )

    async def _try(
        self,
        make: Callable[[registration_plan.Registration], Awaitable[registration_plan.Registered]],
        wanted: registration_plan.Registration,
    ) -> registration_plan.Registered:
        """Do it, once more after a repair where snapshots are lost; count a failure."""
        try:
            try:
                return await make(wanted)
            except register.BrokenError as error:
                await self._repairer.repair(error.chain)
                return await make(wanted)
        except errors.AgentError as error:
            self._note_failure(_reason(error))
            raise


def _reason(error: errors.AgentError) -> image_metrics.ImageReason:
    """The label of uimgacc_image_fallback_total."""
    if isinstance(error, register.NotServedError):
        return "not_served"
    if isinstance(error, register.BlobMissingError):
        return "damaged_record"
    return "not_registered"
