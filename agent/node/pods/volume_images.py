"""Makes images that containerd has already usable as volumes of pods.

Before containerd mounts an image as a volume, it unpacks it, and looks for a snapshot of each of
its layers (internal/cri/server/container_image_mount.go; until 2.4 at least). An image that was
registered for containers has one snapshot for all its layers. A pulled image may lack those of its
lower layers, if another image that has just these layers is one snapshot. containerd would then
unpack the missing layers from blobs that do not exist: the container fails with "content digest ...
not found", again and again.
"""

import logging
from collections.abc import Iterable

from agent.clients.containerd import rpc
from agent.model import images
from agent.node.images import containerd_images, inventory

logger = logging.getLogger(__name__)


class VolumeImages:
    """Makes the images of one containerd mountable as volumes."""

    def __init__(self, containerd: containerd_images.ContainerdImages) -> None:
        self._containerd = containerd

    async def make_usable(self, names: Iterable[str]) -> None:
        """Give each layer of those images that are present a snapshot; raises TemporaryError.

        If that fails, because the store is away or has lost a layer, the image is removed, so that
        the kubelet pulls it; containers that run on it are not affected. Images of other
        snapshotters are not touched.
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
