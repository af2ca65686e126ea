"""Making way for pods of other runtimes: images that they would take for present in vain.

An image whose layers come from the store has no blobs here. Its record serves every
runtime, though: a pod of an ordinary one finds the image present, containerd wants to
unpack it for that runtime's snapshotter, and the pod fails with "content digest ... not
found", again and again. Without the record, its kubelet pulls the image as ever, with
its own credentials, and from then on both have it. Containers that run on it go on.
"""

import logging
from collections.abc import Iterable, Sequence

from agent.clients.containerd import rpc
from agent.model import images
from agent.node.images import image_snapshots, inventory

logger = logging.getLogger(__name__)


class Clearer:
    """Removes such images from containerd."""

    def __init__(
        self, client: rpc.Client, stock: inventory.Inventory, known: image_snapshots.Chains
    ) -> None:
        self._client = client
        self._stock = stock
        self._chains = known

    async def clear(self, names: Iterable[str]) -> Sequence[str]:
        """Look at images as a pod of another runtime names them; those that were removed.

        Raises TemporaryError.
        """
        async with self._chains.gate.shared():
            return [name for name in names if await self._clear(name)]

    async def _clear(self, name: str) -> bool:
        try:
            record = await self._client.image(str(images.parse_reference(name)))
        except images.ImageReferenceError:
            return False
        if record is None:
            return False
        image = await self._stock.look_up([record])
        if image is None or self._chains.snapshotter not in image.snapshotters:
            return False
        if await self._is_elsewhere(image):
            return False
        for other in await self._client.images():
            if other.target.digest == image.target:
                await self._client.delete_image(other.name)
        logger.info("made way for an ordinary pull", extra={"image": name})
        return True

    async def _is_elsewhere(self, image: inventory.Present) -> bool:
        """Whether another snapshotter has an image, or can be given it from blobs."""
        for name in image.snapshotters - {self._chains.snapshotter}:
            if await self._chains.stands(image.contents.top, snapshotter=name):
                return True
        return await self._stock.has_blobs(image)
