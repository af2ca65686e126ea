"""Layers that are verified block by block as they are read, and which of them had wrong bytes.

A reader of such a block gets EIO from the kernel, never its content. The device remembers that, and
is looked at regularly: from then on this node does not serve the layer, so its images are
pulled from their registries. When no device of the layer has shown it for an hour, the layer
is tried again, for the fault may have been the server's or the network's.
"""

import asyncio
import logging
import pathlib
from collections.abc import Awaitable, Callable, Iterable

from agent import errors
from agent.kits.processes import workers
from agent.metrics import snapshotter_metrics

logger = logging.getLogger(__name__)

_REFUSED_SECONDS = 3600.0


class Verification:
    """The verified layers below `folder`; `pool` runs the OPERATIONS of layer_mounting."""

    def __init__(self, folder: pathlib.Path, pool: workers.Caller, *, deadline: float) -> None:
        self._folder = str(folder)
        self._pool = pool
        self._deadline = deadline
        self._seen: dict[str, float] = {}

    def is_corrupt(self, diff_id: str) -> bool:
        """Whether wrong bytes of a layer were seen on this node lately."""
        seen = self._seen.get(diff_id)
        return seen is not None and asyncio.get_running_loop().time() < seen + _REFUSED_SECONDS

    def note(self, diff_id: str) -> bool:
        """Note that bytes of a layer are not what was built; whether that is new."""
        is_new = not self.is_corrupt(diff_id)
        self._seen = {each: at for each, at in self._seen.items() if self.is_corrupt(each)}
        self._seen[diff_id] = asyncio.get_running_loop().time()
        if is_new:
            snapshotter_metrics.CORRUPT_LAYERS.inc()
            logger.error(
                "bytes of a layer are not what was built: its images are pulled;"
                " run `uimgacc store check`",
                extra={"layer": diff_id},
            )
        return is_new

    async def prepare(self) -> None:
        """Remove what a killed process has left; log what is missing on this node."""
        try:
            removed = await self._pool.call("remove_unused_devices", deadline=self._deadline)
        except (OSError, errors.AgentError) as error:
            logger.error(  # noqa: TRY400 - foreseen
                "layers cannot be verified on this node, so none is served:"
                " its kernel needs dm-verity (modprobe dm_verity)",
                extra={"reason": str(error)},
            )
        else:
            logger.info("layers are verified as they are read", extra={"devices_removed": removed})

    async def watch(self, pause: float, on_corrupt: Callable[[str], Awaitable[None]]) -> None:
        """Look at the devices regularly; `on_corrupt` is called for each layer once."""
        while True:
            for diff_id in await self._corrupt():
                if self.note(diff_id):
                    await on_corrupt(diff_id)
            await asyncio.sleep(pause)

    async def _corrupt(self) -> Iterable[str]:
        try:
            names = await self._pool.call("corrupt_layers", self._folder, deadline=self._deadline)
        except (OSError, errors.AgentError) as error:
            logger.warning("verified layers not looked at", extra={"reason": str(error)})
            return ()
        return [f"sha256:{pathlib.PurePath(name).stem}" for name in names]
