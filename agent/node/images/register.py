"""Registering an image in containerd so that the kubelet finds it present.

No layer is downloaded: the snapshotter has each of them in the store, and says so
by answering that the chain exists already. The image records come last, so an
image is never present without what it stands on; until then a lease protects the
rest. Whatever fails on the way leaves only what the next garbage collection takes.
"""

import asyncio
import dataclasses
import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients.containerd import rpc
from agent.kits.aio import tasks
from agent.model import keys, records
from agent.node.images import image_snapshots, registration_plan

logger = logging.getLogger(__name__)

_REMEMBERED = 4096


class NotServedError(errors.TemporaryError):
    """The snapshotter did not take a layer from the store, but would unpack it.

    `chain_id` names it. The image is left to the ordinary pull.
    """

    def __init__(self, chain_id: str) -> None:
        super().__init__(f"the snapshotter does not serve {chain_id} from the store now")
        self.chain_id = chain_id


class BrokenError(errors.TemporaryError):
    """containerd knows a chain of which the snapshotter has lost a part.

    `chain` are the chain IDs from the bottom. agent.node.images.repair removes what is left.
    """

    def __init__(self, chain: Sequence[str]) -> None:
        super().__init__(f"the snapshotter has lost what containerd knows of {chain[-1]}")
        self.chain = tuple(chain)


class BlobMissingError(errors.PermanentError):
    """The store has an image's record but not its manifest or config; `digest` names it."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the store lacks blob {digest}; run `uimgacc store check`")
        self.digest = digest


class Blobs(Protocol):
    """Manifests and configs by digest: agent.store.lookup.catalog.Catalog."""

    async def blob(self, digest: str) -> bytes | None:
        """The bytes; None when not there; TemporaryError when that cannot be told."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of a registration.

    `new` are the layers that this node did not know before: an ordinary pull
    would have downloaded them. `complete` is False where the tag belongs to a
    target that somebody else has pulled: then it stays theirs.
    """

    new: tuple[records.ImageLayer, ...] = ()
    already: bool = False
    complete: bool = True


class Registrar:
    """Registers images for one snapshotter.

    At most one registration of a target runs at a time.
    """

    def __init__(self, client: rpc.Client, blobs: Blobs, known: image_snapshots.Chains) -> None:
        self._client = client
        self._blobs = blobs
        self._chains = known
        self._under_way: weakref.WeakValueDictionary[str, asyncio.Lock]
        self._under_way = weakref.WeakValueDictionary()
        self._mounted: set[str] = set()

    def forget_mounts(self) -> None:
        """Have the mounts of present images looked at again (the snapshotter is a new one)."""
        self._mounted.clear()

    async def register(self, wanted: registration_plan.Registration) -> Registered:
        """Make an image present; quick where it is.

        Raises NotServedError, BrokenError, BlobMissingError, and what the client
        and the store raise.
        """
        lock = self._under_way.setdefault(wanted.target.digest, asyncio.Lock())
        async with lock, self._chains.gate.shared():
            return await self._register(wanted)

    async def _register(self, wanted: registration_plan.Registration) -> Registered:
        found = await self._find(wanted)
        names = [name for name in wanted.all_names if _is_free(found.get(name), wanted)]
        complete = not wanted.tag or wanted.tag in names
        present = all(_has_target(found.get(name), wanted) for name in names)
        known = await self._chains.count(wanted.chain)
        if present and known == len(wanted.layers):
            await self._ensure_mounted(wanted.top)
            return Registered(already=True, complete=complete)
        known = max(known, await self._chains.count_shared(wanted.chain))
        async with self._chains.lease() as lease:
            writes = [self._write(*blob, lease) for blob in wanted.blobs.items()]
            await tasks.together(self._serve(wanted, lease), *writes)
            changes = [self._record(wanted.image(name), found.get(name), lease) for name in names]
            await tasks.together(*changes)
        return Registered(new=tuple(wanted.layers[known:]), complete=complete)

    async def _find(self, wanted: registration_plan.Registration) -> Mapping[str, rpc.Image]:
        """The image records that there are under the names wanted."""
        found = await tasks.together(*(self._client.image(name) for name in wanted.all_names))
        return {image.name: image for image in found if image is not None}

    async def _write(self, digest: str, labels: Mapping[str, str], lease: str) -> None:
        data = await self._blobs.blob(digest)
        if data is None:
            raise BlobMissingError(digest)
        await self._client.write(digest, data, labels=labels, lease=lease)

    async def _serve(self, wanted: registration_plan.Registration, lease: str) -> None:
        """Have the image's snapshot served; one that is there is asked for again, for the lease."""
        chain = wanted.chain
        try:
            served = await self._chains.serve(chain, lease=lease)
        except rpc.NotFoundError as error:
            raise BrokenError(chain) from error
        if not served:
            raise NotServedError(wanted.top)
        # containerd says "exists" for what it knows, whether the snapshotter does or not.
        if chain and not await self._chains.stands(wanted.top):
            raise BrokenError(chain)
        self._remember(wanted.top)

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Have each layer of a registered image be a snapshot, too; quick where it is.

        For an image that will be pulled although it is present (pull policy Always): the
        pull asks for every layer, and would have all but the top made each time anew.
        Raises what the client raises.
        """
        below = wanted.chain[:-1]
        if not below:
            return
        async with self._chains.gate.shared():
            if await self._chains.stands(below[-1]):
                return
            async with self._chains.lease() as lease:
                if await self._chains.lay_out(below, lease=lease):
                    await self._chains.refer_below(wanted.config, below[-1], lease=lease)

    async def _record(self, image: rpc.Image, found: rpc.Image | None, lease: str) -> None:
        if found is None:
            try:
                await self._client.create_image(image, lease=lease)
            except rpc.ExistsError:
                # The kubelet's own pull was faster, with the same name; what it pulled is as good.
                logger.debug("pulled meanwhile", extra={"image": image.name})
            return
        # Also where nothing changes: the event of the update makes the CRI plugin look again.
        paths = ["target", "labels"] if found.target.digest != image.target.digest else ["labels"]
        labels = {**found.labels, **image.labels}
        if keys.REGISTERED not in found.labels:
            del labels[keys.REGISTERED]
        await self._client.update_image(
            dataclasses.replace(image, labels=labels), *paths, lease=lease
        )

    async def _ensure_mounted(self, top: str) -> None:
        """Have an image's layers mounted again after a reboot, before a container waits for it."""
        if top and top not in self._mounted:
            await self._chains.mount(top)
            self._remember(top)

    def _remember(self, top: str) -> None:
        if len(self._mounted) >= _REMEMBERED:
            # In the months of a node's life; each image is then looked at once more.
            self._mounted.clear()
        self._mounted.add(top)


def _has_target(found: rpc.Image | None, wanted: registration_plan.Registration) -> bool:
    return found is not None and found.target.digest == wanted.target.digest


def _is_free(found: rpc.Image | None, wanted: registration_plan.Registration) -> bool:
    """Whether a name may be given to the target: what the kubelet has pulled keeps its own."""
    return found is None or _has_target(found, wanted) or keys.REGISTERED in found.labels
