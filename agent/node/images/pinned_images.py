"""Having the images that containerd pins, the sandbox's (pause), stand on our snapshotter, too.

A pod of one of our runtime handlers has its sandbox on our snapshotter. containerd
unpacks the sandbox's image there for the first such pod, from its blobs. But on
nodes that discard the blobs of what is unpacked (`discard_unpacked_layers`, usual
on EKS) there are none left, and that pod, and each after it, would fail with
"content digest ... not found". The other way round, a sandbox's image that has come
from the store has no blobs for the pods of other runtimes. So where blobs are
missing, the image is pulled for both, before any pod needs it.
"""

import asyncio
import logging
from collections.abc import Sequence

from agent import errors
from agent.clients.containerd import rpc
from agent.matching import runtimes
from agent.model import keys
from agent.node.images import inventory

logger = logging.getLogger(__name__)

_PULL_SECONDS = 120.0
_PAUSE_SECONDS = 30.0
_SETTLE_SECONDS = 1.0


class PinnedImages:
    """Looks after the pinned images; `default` says that our snapshotter is the default one."""

    def __init__(
        self,
        client: rpc.Client,
        stock: inventory.Inventory,
        *,
        snapshotter: str,
        default: bool,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._client = client
        self._stock = stock
        self._snapshotter = snapshotter
        self._default = default
        self._pause = pause
        self._wake = asyncio.Event()
        self._wake.set()
        self._problem = ""

    def look_again(self) -> None:
        """Images have changed, or containerd is another one."""
        self._wake.set()

    async def run(self) -> None:
        """Look after them for ever; what fails is tried again after a pause."""
        while True:
            await self._wake.wait()
            # Images come in bursts, and this is in no hurry.
            await asyncio.sleep(_SETTLE_SECONDS)
            self._wake.clear()
            try:
                await self.look()
                self._problem = ""
            except errors.AgentError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.warning(
                        "the sandbox's image is not there for our snapshotter; "
                        "pods with a runtime class of ours may not start",
                        extra={"reason": self._problem},
                    )
                await asyncio.sleep(self._pause)
                self._wake.set()

    async def look(self) -> Sequence[str]:
        """Look once; the names of what had to be pulled. Raises AgentError."""
        pulled: list[str] = []
        pinned: dict[str, list[rpc.Image]] = {}
        for record in await self._client.images():
            if keys.CRI_PINNED in record.labels:
                pinned.setdefault(record.target.digest, []).append(record)
        for same in pinned.values():
            image = await self._stock.look_up(same)
            if image is None or await self._stock.has_blobs(image):
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
        """A runtime handler with our snapshotter; None before node set-up has made one."""
        if self._default:
            return ""
        return min(filter(runtimes.is_ours, await self._client.runtime_handlers()), default=None)


def _name_of(image: inventory.Present) -> str:
    """What to pull it by: its tag, else its name with the digest; "" where it has neither."""
    names = [record.name for record in image.records if not record.name.startswith("sha256:")]
    return min(names, key=lambda name: ("@" in name, name), default="")
