"""What an agent does while acceleration is switched off for the cluster (`uimgacc disable`).

Nothing is prepared for pods, and images that no container uses are taken out of
containerd, so that the snapshotter can unmount their layers. Running pods keep what
they have; one of them that starts again finds its image missing and pulls it.
"""

import asyncio
import datetime
import logging
from collections.abc import Sequence

from agent import errors
from agent.clients.containerd import rpc
from agent.matching import annotations, decisions
from agent.model import keys, pods, times
from agent.node.images import image_snapshots, inventory
from agent.node.pods import prepare

logger = logging.getLogger(__name__)

SWITCHED_OFF = "acceleration is switched off for the whole cluster (`uimgacc enable`)"

_SECONDS = 60.0
_YOUNG = datetime.timedelta(minutes=5)
"""An image that came just now may be that of a container which is about to be made."""


class Idle:
    """A premounter that leaves every pod to the kubelet (serving.Premounter)."""

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> prepare.Result:
        """Do nothing, and say why."""
        decision = decisions.Decision(
            pod=pod,
            request=annotations.Request(),
            outcome=decisions.Outcome.NOT_ASKED,
            summary=SWITCHED_OFF,
        )
        return prepare.Result(decision=decision, sentence=SWITCHED_OFF)


class Drainer:
    """A service that lets go of what nothing uses."""

    def __init__(
        self,
        client: rpc.Client,
        stock: inventory.Inventory,
        known: image_snapshots.Chains,
        *,
        clock: times.Clock,
        seconds: float = _SECONDS,
    ) -> None:
        self._client = client
        self._stock = stock
        self._known = known
        self._clock = clock
        self._seconds = seconds

    async def run(self) -> None:
        """Let go for ever."""
        while True:
            try:
                if removed := await self.release():
                    logger.info("images that nothing uses are gone", extra={"images": removed})
            except errors.TemporaryError as error:
                logger.warning("images cannot be let go", extra={"reason": str(error)})
            await asyncio.sleep(self._seconds)

    async def release(self) -> Sequence[str]:
        """Remove the images on our snapshotter that no container uses; their names."""
        used = {container.image for container in await self._client.containers()}
        removed = []
        for image in await self._stock.all():
            names = [record.name for record in image.records]
            pinned = any(keys.CRI_PINNED in record.labels for record in image.records)
            young = self._clock() - image.since < _YOUNG
            ours = self._known.snapshotter in image.snapshotters
            if not ours or pinned or young or used.intersection(names):
                continue
            for name in names:
                await self._client.delete_image(name)
            removed += names
        if removed:
            await self._known.collect()
        return removed
