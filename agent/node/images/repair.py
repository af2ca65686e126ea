"""Bringing containerd's records back in line with the snapshots that exist.

Two things go wrong when processes restart. The CRI plugin forgets images that it
cannot check while the snapshotter is away, until their records are updated. And when
the snapshotter has lost its database, containerd still takes images for present whose
snapshots are gone: pods fail, and a new pull fails as well, until the records are
removed.

Images that never were on the uimgacc snapshotter are not changed at all.
"""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Sequence

from agent.clients.containerd import rpc
from agent.model import keys
from agent.node.images import containerd_images, inventory

logger = logging.getLogger(__name__)

_TOUCHED = "labels.io.cri-containerd.image"
_CANARIES = 256
"""Images that are checked in turn; the last ones where there are more."""
_AT_ONCE = 8
"""Of these, in each look."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How many images are on the snapshotter, had lost their snapshots, had records updated.

    Of the lost ones `restored` are served from the store again, and `removed` could not
    be; the rest can be unpacked again from blobs in containerd.
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
            return f"{self.images} images have their snapshots; {self.touched} records updated"
        return (
            f"the snapshotter had lost {self.lost} of {self.images} images: "
            f"{self.restored} restored, {self.removed} removed"
        )


class Healer:
    """Compares containerd with one snapshotter, and repairs or removes images without snapshots."""

    def __init__(self, containerd: containerd_images.ContainerdImages) -> None:
        self._client = containerd.client
        self._inventory = containerd.inventory
        self._chains = containerd.chains
        self._canaries: collections.deque[str] = collections.deque(maxlen=_CANARIES)

    async def reconcile(self, *, touch: bool, chain: Sequence[str] = ()) -> Outcome:
        """Check all images on the snapshotter, and `chain`; repair what has lost its snapshots.

        `touch` has the CRI plugin check the good ones again. Raises TemporaryError.
        """
        present = await self._on_snapshotter()
        outcome = Outcome(images=len(present))
        if chain or await self._lost_of(present):
            async with self._chains.gate.alone():
                present, outcome = await self._heal(chain)
        touched = sum([await self._touch(image) for image in present if touch])
        self._canaries.clear()
        for image in present:
            self._canaries.append(image.contents.top)
            self._chains.remember(image.contents.chain)
        return dataclasses.replace(outcome, touched=touched)

    async def _heal(self, chain: Sequence[str]) -> tuple[list[inventory.Present], Outcome]:
        """Repair what is lost; the images that are complete afterwards, and what was done."""
        present = await self._on_snapshotter()
        lost = await self._lost_of(present)
        await self._remove_lost([chain, *(image.contents.chain for image in lost)], lost)
        restored = [image for image in lost if await self._restore(image)]
        gone = [image for image in lost if image not in restored]
        removed = sum([await self._forget(image) for image in gone])
        return [image for image in present if image not in gone], Outcome(
            images=len(present), lost=len(lost), restored=len(restored), removed=removed
        )

    async def _on_snapshotter(self) -> list[inventory.Present]:
        """The images whose containers are on the snapshotter."""
        return [
            image
            for image in await self._inventory.all()
            if self._chains.snapshotter in image.snapshotters and image.contents.top
        ]

    async def _lost_of(self, images: Sequence[inventory.Present]) -> list[inventory.Present]:
        return [image for image in images if not await self._chains.exists(image.contents.top)]

    async def repair(self, chain: Sequence[str]) -> None:
        """Remove a lost chain, and other lost ones, so that they can be created again."""
        await self.reconcile(touch=False, chain=chain)

    async def lost_something(self) -> bool:
        """Whether a known image has lost its snapshot: a few are checked, others each time.

        A lost database loses all of them, a layer that is given up (its bytes are not what was
        built) the images that have it. Raises TemporaryError when the snapshotter does not answer.
        """
        for _ in range(min(len(self._canaries), _AT_ONCE)):
            self._canaries.rotate(-1)
            if not await self._chains.exists(self._canaries[-1]):
                return True
        return False

    def watch(self, top: str) -> None:
        """Check one more image from now on, by its top chain ID."""
        if top and top not in self._canaries:
            self._canaries.append(top)

    async def _touch(self, image: inventory.Present) -> int:
        for record in image.records:
            labels = {keys.CRI_IMAGE: "managed"}
            touched = dataclasses.replace(record, labels={**record.labels, **labels})
            with contextlib.suppress(rpc.NotFoundError):
                await self._client.update_image(touched, _TOUCHED)
        return len(image.records)

    async def _restore(self, image: inventory.Present) -> bool:
        """Have an image served from the store again; whether it is."""
        chain = image.contents.chain
        async with self._chains.lease() as lease:
            try:
                served = await self._chains.serve(chain, lease=lease)
            except rpc.NotFoundError:
                return False
            if not served or not await self._chains.exists(chain[-1]):
                return False
            await self._chains.refer(image.contents.config, chain[-1], lease=lease)
            return True

    async def _forget(self, image: inventory.Present) -> bool:
        """Remove the records of an image that cannot be restored; False where they are kept.

        They are kept where containerd has the blobs to unpack it again, or another
        snapshotter has it. Without records the kubelet pulls the image; with records
        and without snapshots its containers would fail.
        """
        names = [record.name for record in image.records]
        others = image.snapshotters - {self._chains.snapshotter}
        top = image.contents.top
        keep = await self._has_blobs(image) or any(
            [await self._chains.exists(top, snapshotter=name) for name in others]
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
        return await self._inventory.has_blobs(image, first=served)

    async def _remove_lost(
        self, chains: Sequence[Sequence[str]], lost: Sequence[inventory.Present]
    ) -> None:
        """Remove the lost layers of some chains from containerd, from the top.

        Chains share layers, so all tops go first. A layer that the snapshotter still
        has is not touched.
        """
        depths = {chain_id: depth for chain in chains for depth, chain_id in enumerate(chain)}
        stuck = []
        for chain_id in sorted(depths, key=lambda each: depths[each], reverse=True):
            if await self._chains.exists(chain_id):
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
                    "containerd keeps a lost snapshot; "
                    "images with this layer cannot be pulled until its users are removed",
                    extra={"snapshot": chain_id, "reason": str(error)},
                )

    async def _release(self, lost: Sequence[inventory.Present]) -> None:
        """Have containerd collect the lost layers that it refuses to remove.

        They are parents of containers' own snapshots (a running container keeps its
        files: its mount is in the kernel), or of leftovers, or of nothing: a garbage
        collection that takes a layer leaves its name with the layer below, which cannot
        be removed from then on, only be collected. So nothing may refer to it: the
        images' references are set aside until they are restored.
        """
        for container in await self._client.containers():
            if container.snapshotter != self._chains.snapshotter or not container.snapshot_key:
                continue
            # The lease of a sandbox has its ID, and keeps the snapshots of its image volumes.
            volumes = await self._client.leased_snapshots(container.id, self._chains.snapshotter)
            for key in (container.snapshot_key, *volumes):
                if not await self._chains.exists(key):
                    with contextlib.suppress(rpc.StateError):
                        await self._chains.remove(key)
        for image in lost:
            with contextlib.suppress(rpc.NotFoundError):
                await self._chains.set_aside(image.contents.config)
        await self._chains.collect()
