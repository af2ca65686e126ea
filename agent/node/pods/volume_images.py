"""Images that pods mount as volumes, where containerd has them already.

containerd unpacks an image before it mounts it as a volume, and for that looks for a snapshot of
each of its layers (internal/cri/server/container_image_mount.go; until 2.4 at least). An image
that was registered for containers has one snapshot, of all its layers; of a pulled image the lower
layers may be gone, where another image that ends in the middle of it is one snapshot. What is
missing then containerd would unpack from blobs, which do not exist: the container fails with
"content digest ... not found", again and again.
"""

import logging
from collections.abc import Iterable

from agent.clients.containerd import rpc
from agent.model import images
from agent.node.images import containerd_images, inventory

logger = logging.getLogger(__name__)


class VolumeImages:
    """Has the images of one containerd mountable as volumes."""

    def __init__(self, containerd: containerd_images.ContainerdImages) -> None:
        self._containerd = containerd

    async def make_usable(self, names: Iterable[str]) -> None:
        """Give all layers of those that are present a snapshot; raises TemporaryError.

        Where that cannot be done, for the store is away or has lost a layer, the image is removed,
        so that the kubelet pulls it. What runs on it runs on. Images of other snapshotters are
        left alone.
        """
        for name in names:
            async with self._containerd.chains.gate.shared():
                await self._make_usable(name)

    async def _make_usable(self, name: str) -> None:
        try:
            reference = images.parse_reference(name)
        except images.ImageReferenceError:
            return
        # As containerd normalises it: a reference by tag and digest is one by digest.
        digest = reference.digest
        known = f"{reference.name}@{digest}" if digest else str(reference)
        record = await self._containerd.client.image(known)
        image = await self._containerd.inventory.look_up([record]) if record else None
        if image is None or self._containerd.snapshotter not in image.snapshotters:
            return
        contents = image.contents
        missing = await self._containerd.chains.complete(contents.chain, contents.config)
        if missing and not await self._has_blobs(contents, missing):
            await self._remove(image)

    async def _has_blobs(self, contents: inventory.Contents, missing: Iterable[str]) -> bool:
        """Whether containerd can unpack these layers itself."""
        blobs = dict(zip(contents.chain, contents.layers, strict=True))
        try:
            for chain_id in missing:
                digest, _ = blobs[chain_id]
                await self._containerd.client.blob(digest)
        except rpc.NotFoundError:
            return False
        return True

    async def _remove(self, image: inventory.Present) -> None:
        names = [
            each.name
            for each in await self._containerd.client.images()
            if each.target.digest == image.target
        ]
        for name in names:
            await self._containerd.client.delete_image(name)
        logger.warning(
            "an image cannot be a volume as it is: left to the kubelet's pull",
            extra={"images": names},
        )
