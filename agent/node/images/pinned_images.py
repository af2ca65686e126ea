"""Having the images that containerd pins (the sandbox's, pause) on the uimgacc snapshotter, too.

A pod of one of the uimgacc runtime handlers has its sandbox on the uimgacc snapshotter. containerd
unpacks the sandbox's image there for the first such pod, from its blobs. But on
nodes that discard blobs once they are unpacked (`discard_unpacked_layers`, usual on
EKS) there are none left, and that pod, and each after it, would fail with "content
digest ... not found". Conversely, a sandbox's image that has come from the store has
no blobs for the pods of other runtimes. So where blobs are missing, the image is
pulled for both, before any pod needs it.
"""

import asyncio
import logging
from collections.abc import Sequence

from agent import errors
from agent.clients.containerd import objects
from agent.matching import runtimes
from agent.model import keys
from agent.node.images import containerd_images, inventory

logger = logging.getLogger(__name__)

_PULL_SECONDS = 120.0
_PAUSE_SECONDS = 30.0
_SETTLE_SECONDS = 1.0


class PinnedImages:
    """Keeps pinned images present, at the start and whenever `images_changed` is set.

    `default` says that the uimgacc snapshotter is containerd's default one.
    """

    def __init__(
        self,
        containerd: containerd_images.ContainerdImages,
        images_changed: asyncio.Event,
        *,
        default: bool,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._client = containerd.client
        self._inventory = containerd.inventory
        self._snapshotter = containerd.snapshotter
        self._default = default
        self._pause = pause
        self._images_changed = images_changed
        self._images_changed.set()
        self._problem = ""

    async def run(self) -> None:
        """Keep them present for ever; what fails is retried after a pause."""
        while True:
            await self._images_changed.wait()
            # Images come in bursts, and this is in no hurry.
            await asyncio.sleep(_SETTLE_SECONDS)
            self._images_changed.clear()
            try:
                await self.look()
                self._problem = ""
            except errors.AgentError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.warning(
                        "the uimgacc snapshotter lacks the sandbox's image; "
                        "pods with a uimgacc runtime class may not start",
                        extra={"reason": self._problem},
                    )
                await asyncio.sleep(self._pause)
                self._images_changed.set()

    async def look(self) -> Sequence[str]:
        """Check once; return the names of the images that had to be pulled. Raises AgentError."""
        pulled: list[str] = []
        pinned: dict[str, list[objects.Image]] = {}
        for record in await self._client.images():
            if keys.CRI_PINNED in record.labels:
                pinned.setdefault(record.target.digest, []).append(record)
        for same in pinned.values():
            image = await self._inventory.look_up(same)
            if image is None or await self._inventory.has_blobs(image):
                continue
            name, others = _name_of(image), image.snapshotters - {self._snapshotter}
            if self._snapshotter not in image.snapshotters:
                pulled += await self._pull(name, await self._handler())
            if not others and not self._default:
                pulled += await self._pull(name, "")
        return pulled

    async def _pull(self, name: str, handler: str | None) -> Sequence[str]:
        if not name or handler is None:
            return ()
        await self._client.pull(name, handler=handler, deadline=_PULL_SECONDS)
        logger.info("pulled the sandbox's image", extra={"image": name, "handler": handler})
        return (name,)

    async def _handler(self) -> str | None:
        """A runtime handler on the uimgacc snapshotter; None before node set-up has made one."""
        if self._default:
            return ""
        return min(filter(runtimes.is_twin, await self._client.runtime_handlers()), default=None)


def _name_of(image: inventory.Present) -> str:
    """The name to pull it by: its tag, or its name with the digest; "" where it has neither."""
    names = [record.name for record in image.records if not record.name.startswith("sha256:")]
    return min(names, key=lambda name: ("@" in name, name), default="")
