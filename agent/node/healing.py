"""Bringing containerd's records back in line with what is really there.

Two things go wrong when processes restart. The CRI plugin forgets images that it
cannot check while the snapshotter is away, until something touches their records.
And when the snapshotter has lost its database, containerd goes on taking images
for present whose snapshots are gone: pods fail, and a new pull fails as well,
until the records are removed.

Images that never stood on our snapshotter are not touched at all.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Sequence

from agent.clients import containerd
from agent.node import inventory

logger = logging.getLogger(__name__)

_TOUCHED = "labels.io.cri-containerd.image"
_LEASE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a reconciliation found: images of ours, records touched, chains removed."""

    images: int = 0
    touched: int = 0
    removed: int = 0

    @property
    def sentence(self) -> str:
        """For the log and for /status."""
        if not self.removed:
            return f"{self.images} images stand on their snapshots; {self.touched} records touched"
        return f"the snapshotter had lost {self.removed} of {self.images} images: removed"


class Healer:
    """Compares containerd with one snapshotter, and removes what has lost its ground."""

    def __init__(
        self, client: containerd.Client, stock: inventory.Inventory, *, snapshotter: str
    ) -> None:
        self._client = client
        self._stock = stock
        self._snapshotter = snapshotter
        self._reconciling = asyncio.Lock()
        self._canaries: list[str] = []

    async def reconcile(self, *, touch: bool, chain: Sequence[str] = ()) -> Outcome:
        """Look at all images that stand on our snapshotter, and at `chain`.

        `touch` has the CRI plugin look at the good ones again. Raises TemporaryError.
        """
        async with self._reconciling:
            ours = [image for image in await self._stock.all() if self._is_ours(image)]
            lost = [image for image in ours if not await self._stands(image.contents.top)]
            for image in lost:
                await self._forget(image)
            await self._remove_lost([chain, *(image.contents.chain for image in lost)])
            healthy = [image for image in ours if image not in lost]
            touched = sum([await self._touch(image) for image in healthy if touch])
            self._canaries = [image.contents.top for image in healthy]
            return Outcome(images=len(ours), touched=touched, removed=len(lost))

    async def repair(self, chain: Sequence[str]) -> None:
        """Remove a lost chain, and what else is lost, so that it can be made again."""
        await self.reconcile(touch=False, chain=chain)

    async def lost_something(self) -> bool:
        """Whether a known image has lost its snapshot: one is looked up, another each time.

        A lost database loses all of them, so one is enough. Raises TemporaryError
        when the snapshotter does not answer.
        """
        if not self._canaries:
            return False
        self._canaries.append(canary := self._canaries.pop(0))
        return not await self._stands(canary)

    def watch(self, top: str) -> None:
        """Look after one more image, by its top chain ID."""
        if top and top not in self._canaries:
            self._canaries.append(top)

    def _is_ours(self, image: inventory.Present) -> bool:
        return self._snapshotter in image.snapshotters and bool(image.contents.top)

    async def _stands(self, chain_id: str) -> bool:
        try:
            await self._client.stat(self._snapshotter, chain_id)
        except containerd.NotFoundError:
            return False
        return True

    async def _touch(self, image: inventory.Present) -> int:
        for record in image.records:
            labels = {"io.cri-containerd.image": "managed"}
            touched = dataclasses.replace(record, labels={**record.labels, **labels})
            with contextlib.suppress(containerd.NotFoundError):
                await self._client.update_image(touched, _TOUCHED)
        return len(image.records)

    async def _forget(self, image: inventory.Present) -> None:
        """Remove the records of an image that is lost, unless another snapshotter has it.

        They go before the snapshots: without them the kubelet pulls the image anew,
        while with them and without snapshots its containers would fail.
        """
        names = [record.name for record in image.records]
        elsewhere = [
            name
            for name in image.snapshotters - {self._snapshotter}
            if await self._stands_on(name, image.contents.top)
        ]
        if not elsewhere:
            for name in names:
                await self._client.delete_image(name)
        logger.warning(
            "an image has lost its snapshots and is made anew",
            extra={"images": names, "kept_for": elsewhere},
        )

    async def _stands_on(self, snapshotter: str, chain_id: str) -> bool:
        with contextlib.suppress(containerd.NotFoundError, containerd.RefusedError):
            await self._client.stat(snapshotter, chain_id)
            return True
        return False

    async def _remove_lost(self, chains: Sequence[Sequence[str]]) -> None:
        """Have containerd let go of the lost layers of some chains, from the top.

        Chains share layers, so all tops go first. A layer that the snapshotter still
        has is left alone.
        """
        depths = {chain_id: depth for chain in chains for depth, chain_id in enumerate(chain)}
        for chain_id in sorted(depths, key=lambda each: depths[each], reverse=True):
            if await self._stands(chain_id):
                continue
            try:
                await self._remove(chain_id)
            except containerd.StateError:
                await self._remove_children()
                try:
                    await self._remove(chain_id)
                except containerd.StateError as error:
                    logger.warning(
                        "a lost snapshot stays in containerd's way; "
                        "images on it cannot be pulled until what stands on it is removed",
                        extra={"snapshot": chain_id, "reason": str(error)},
                    )

    async def _remove(self, chain_id: str) -> None:
        with contextlib.suppress(containerd.NotFoundError):
            await self._client.remove(self._snapshotter, chain_id)

    async def _remove_children(self) -> None:
        """Remove what still stands on lost layers: containers' own snapshots, and leftovers.

        A running container keeps its files: its mount is the kernel's. containerd
        takes no offence at a container whose snapshot is gone. Leftovers (layers of
        images that were deleted) go with a garbage collection.
        """
        for container in await self._client.containers():
            if container.snapshotter != self._snapshotter or not container.snapshot_key:
                continue
            if not await self._stands(container.snapshot_key):
                with contextlib.suppress(containerd.StateError):
                    await self._remove(container.snapshot_key)
        lease = await self._client.create_lease(_LEASE_SECONDS)
        await self._client.delete_lease(lease, collect=True)
