"""Bringing containerd's records back in line with what is really there.

Two things go wrong when processes restart. The CRI plugin forgets images that it
cannot check while the snapshotter is away, until something touches their records.
And when the snapshotter has lost its database, containerd goes on taking images
for present whose snapshots are gone: pods fail, and a new pull fails as well,
until the records are removed.

Images that never stood on our snapshotter are not touched at all.
"""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Sequence

from agent.clients.containerd import rpc
from agent.model import keys
from agent.node.images import image_snapshots, inventory

logger = logging.getLogger(__name__)

_TOUCHED = "labels.io.cri-containerd.image"
_CANARIES = 256
"""Images that are looked up in turn; those that came last where there are more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found: images of ours, those that had lost snapshots, records touched.

    Of the lost ones `restored` stand again on the store, and `removed` had nothing
    left to stand on; the rest can be unpacked again from blobs that are here.
    """

    images: int = 0
    lost: int = 0
    restored: int = 0
    removed: int = 0
    touched: int = 0

    @property
    def sentence(self) -> str:
        """For the log and for /status."""
        if not self.lost:
            return f"{self.images} images stand on their snapshots; {self.touched} records touched"
        return (
            f"the snapshotter had lost {self.lost} of {self.images} images: "
            f"{self.restored} restored, {self.removed} removed"
        )


class Healer:
    """Compares containerd with one snapshotter, and removes what has lost its ground."""

    def __init__(
        self, client: rpc.Client, stock: inventory.Inventory, known: image_snapshots.Chains
    ) -> None:
        self._client = client
        self._stock = stock
        self._chains = known
        self._canaries: collections.deque[str] = collections.deque(maxlen=_CANARIES)

    async def reconcile(self, *, touch: bool, chain: Sequence[str] = ()) -> Outcome:
        """Look at all images that stand on our snapshotter, and at `chain`.

        `touch` has the CRI plugin look at the good ones again. Raises TemporaryError.
        """
        ours = [image for image in await self._stock.all() if self._is_ours(image)]
        outcome = Outcome(images=len(ours))
        if chain or await self._lost_of(ours):
            async with self._chains.gate.alone():
                ours, outcome = await self._heal(chain)
        touched = sum([await self._touch(image) for image in ours if touch])
        self._canaries.clear()
        for image in ours:
            self._canaries.append(image.contents.top)
            self._chains.remember(image.contents.chain)
        return dataclasses.replace(outcome, touched=touched)

    async def _heal(self, chain: Sequence[str]) -> tuple[list[inventory.Present], Outcome]:
        """Put right what is lost; the images that stand afterwards, and what was done."""
        ours = [image for image in await self._stock.all() if self._is_ours(image)]
        lost = await self._lost_of(ours)
        await self._remove_lost([chain, *(image.contents.chain for image in lost)], lost)
        restored = [image for image in lost if await self._restore(image)]
        gone = [image for image in lost if image not in restored]
        removed = sum([await self._forget(image) for image in gone])
        return [image for image in ours if image not in gone], Outcome(
            images=len(ours), lost=len(lost), restored=len(restored), removed=removed
        )

    async def _lost_of(self, ours: Sequence[inventory.Present]) -> list[inventory.Present]:
        return [image for image in ours if not await self._chains.stands(image.contents.top)]

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
        self._canaries.rotate(-1)
        return not await self._chains.stands(self._canaries[-1])

    def watch(self, top: str) -> None:
        """Look after one more image, by its top chain ID."""
        if top and top not in self._canaries:
            self._canaries.append(top)

    def _is_ours(self, image: inventory.Present) -> bool:
        return self._chains.snapshotter in image.snapshotters and bool(image.contents.top)

    async def _touch(self, image: inventory.Present) -> int:
        for record in image.records:
            labels = {keys.CRI_IMAGE: "managed"}
            touched = dataclasses.replace(record, labels={**record.labels, **labels})
            with contextlib.suppress(rpc.NotFoundError):
                await self._client.update_image(touched, _TOUCHED)
        return len(image.records)

    async def _restore(self, image: inventory.Present) -> bool:
        """Have an image stand on the store again; whether it does."""
        chain = image.contents.chain
        async with self._chains.lease() as lease:
            try:
                served = await self._chains.serve(chain, lease=lease)
            except rpc.NotFoundError:
                return False
            if not served or not await self._chains.stands(chain[-1]):
                return False
            await self._chains.refer(image.contents.config, chain[-1], lease=lease)
            return True

    async def _forget(self, image: inventory.Present) -> bool:
        """Remove the records of an image that cannot stand any more; False where they are kept.

        They are where its blobs are here, to be unpacked again, or another snapshotter
        has it. Without records the kubelet pulls the image anew; with them and nothing
        below them its containers would fail.
        """
        names = [record.name for record in image.records]
        others = image.snapshotters - {self._chains.snapshotter}
        top = image.contents.top
        keep = await self._has_blobs(image) or any(
            [await self._chains.stands(top, snapshotter=name) for name in others]
        )
        if not keep:
            for name in names:
                await self._client.delete_image(name)
        logger.warning(
            "an image has lost its snapshots", extra={"images": names, "records_kept": keep}
        )
        return not keep

    async def _has_blobs(self, image: inventory.Present) -> bool:
        """Whether every layer that is not served from the store can be unpacked."""
        served = await self._chains.count(image.contents.chain)
        return await self._stock.has_blobs(image, first=served)

    async def _remove_lost(
        self, chains: Sequence[Sequence[str]], lost: Sequence[inventory.Present]
    ) -> None:
        """Have containerd let go of the lost layers of some chains, from the top.

        Chains share layers, so all tops go first. A layer that the snapshotter still
        has is left alone.
        """
        depths = {chain_id: depth for chain in chains for depth, chain_id in enumerate(chain)}
        stuck = []
        for chain_id in sorted(depths, key=lambda each: depths[each], reverse=True):
            if await self._chains.stands(chain_id):
                continue
            try:
                await self._chains.remove(chain_id)
            except rpc.StateError:
                stuck.append(chain_id)
        if stuck:
            await self._release(lost)
        for chain_id in stuck:
            try:
                await self._chains.remove(chain_id)
            except rpc.StateError as error:
                logger.warning(
                    "a lost snapshot stays in containerd's way; "
                    "images on it cannot be pulled until what stands on it is removed",
                    extra={"snapshot": chain_id, "reason": str(error)},
                )

    async def _release(self, lost: Sequence[inventory.Present]) -> None:
        """Have containerd collect the lost layers that it does not remove when asked to.

        On them stand containers' own snapshots (a running container keeps its files:
        its mount is the kernel's, and containerd takes no offence), or leftovers, or
        nothing: a garbage collection that takes a layer leaves its name with the layer
        below, which cannot be removed from then on, only be collected. So nothing may
        refer to it: the images' references are set aside until they stand again.
        """
        for container in await self._client.containers():
            if container.snapshotter != self._chains.snapshotter or not container.snapshot_key:
                continue
            if not await self._chains.stands(container.snapshot_key):
                with contextlib.suppress(rpc.StateError):
                    await self._chains.remove(container.snapshot_key)
        for image in lost:
            with contextlib.suppress(rpc.NotFoundError):
                await self._chains.set_aside(image.contents.config)
        await self._chains.collect()
