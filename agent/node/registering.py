"""Registering an image in containerd so that the kubelet finds it present.

No layer is downloaded: the snapshotter has each of them in the store, and says so
by answering that the chain exists already. The image records come last, so an
image is never present without what it stands on; until then a lease protects the
rest. Whatever fails on the way leaves only what the next garbage collection takes.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients import containerd
from agent.kits import aiotasks
from agent.model import records
from agent.node import planning

logger = logging.getLogger(__name__)

_LEASE_SECONDS = 600.0


class NotServedError(errors.TemporaryError):
    """The snapshotter did not take a layer from the store, but would unpack it.

    `chain_id` names it. The image is left to the ordinary pull.
    """

    def __init__(self, chain_id: str) -> None:
        super().__init__(f"the snapshotter does not serve {chain_id} from the store now")
        self.chain_id = chain_id


class BrokenError(errors.TemporaryError):
    """containerd knows a chain of which the snapshotter has lost a part.

    `chain` are the chain IDs from the bottom. agent.node.healing removes what is left.
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
    """Manifests and configs by digest: agent.store.catalog.Catalog."""

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

    def __init__(
        self,
        client: containerd.Client,
        blobs: Blobs,
        *,
        snapshotter: str,
        make_key: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        self._client = client
        self._blobs = blobs
        self._snapshotter = snapshotter
        self._make_key = make_key
        self._under_way: weakref.WeakValueDictionary[str, asyncio.Lock]
        self._under_way = weakref.WeakValueDictionary()
        self._mounted: set[str] = set()

    def forget_mounts(self) -> None:
        """Have the mounts of present images looked at again (the snapshotter is a new one)."""
        self._mounted.clear()

    async def register(self, wanted: planning.Registration) -> Registered:
        """Make an image present; quick where it is.

        Raises NotServedError, BrokenError, BlobMissingError, and what the client
        and the store raise.
        """
        lock = self._under_way.setdefault(wanted.target.digest, asyncio.Lock())
        async with lock:
            return await self._register(wanted)

    async def _register(self, wanted: planning.Registration) -> Registered:
        found = await self._find(wanted)
        names = [name for name in wanted.all_names if _is_free(found.get(name), wanted)]
        complete = not wanted.tag or wanted.tag in names
        present = all(_has_target(found.get(name), wanted) for name in names)
        known = await self._known_layers(wanted)
        if present and known == len(wanted.layers):
            await self._ensure_mounted(wanted)
            return Registered(already=True, complete=complete)
        lease = await self._client.create_lease(_LEASE_SECONDS)
        try:
            writes = [self._write(*blob, lease) for blob in wanted.blobs.items()]
            await aiotasks.together(self._prepare(wanted, known, lease), *writes)
            records_ = [self._record(wanted.image(name), found.get(name), lease) for name in names]
            await aiotasks.together(*records_)
        finally:
            await self._end_lease(lease)
        return Registered(new=tuple(wanted.layers[known:]), complete=complete)

    async def _find(self, wanted: planning.Registration) -> Mapping[str, containerd.Image]:
        """The image records that there are under the names wanted."""
        found = await aiotasks.together(*(self._client.image(name) for name in wanted.all_names))
        return {image.name: image for image in found if image is not None}

    async def _known_layers(self, wanted: planning.Registration) -> int:
        """How many layers from the bottom are snapshots already.

        Each needs the one below it, so a bisection finds the first that is missing.
        """
        chain = wanted.chain
        if not chain or await self._is_snapshot(chain[-1]):
            return len(chain)
        low, high = 0, len(chain) - 1
        while low < high:
            middle = (low + high) // 2
            if await self._is_snapshot(chain[middle]):
                low = middle + 1
            else:
                high = middle
        return low

    async def _is_snapshot(self, chain_id: str) -> bool:
        try:
            await self._client.stat(self._snapshotter, chain_id)
        except containerd.NotFoundError:
            return False
        return True

    async def _write(self, digest: str, labels: Mapping[str, str], lease: str) -> None:
        data = await self._blobs.blob(digest)
        if data is None:
            raise BlobMissingError(digest)
        await self._client.write(digest, data, labels=labels, lease=lease)

    async def _prepare(self, wanted: planning.Registration, known: int, lease: str) -> None:
        """Have the snapshotter take each layer from the store, from the bottom.

        The topmost known one is asked for again, so that the lease holds it.
        """
        chain = wanted.chain
        first = max(0, known - 1)
        parents = ["", *chain]
        for chain_id, parent in zip(chain[first:], parents[first:], strict=False):
            try:
                await self._prepare_layer(chain_id, parent, lease)
            except containerd.NotFoundError as error:
                raise BrokenError(chain) from error
        if chain and not await self._is_snapshot(chain[-1]):
            raise BrokenError(chain)
        self._mounted.add(wanted.top)

    async def _prepare_layer(self, chain_id: str, parent: str, lease: str) -> None:
        key = f"extract-uimgacc-{self._make_key()} {chain_id}"
        labels = {planning.REF_LABEL: chain_id}
        try:
            await self._client.prepare(
                self._snapshotter, key, parent=parent, labels=labels, lease=lease
            )
        except containerd.ExistsError:
            return
        with contextlib.suppress(errors.AgentError):
            # Else the end of the lease removes it.
            await self._client.remove(self._snapshotter, key)
        raise NotServedError(chain_id)

    async def _record(
        self, image: containerd.Image, found: containerd.Image | None, lease: str
    ) -> None:
        if found is None:
            try:
                await self._client.create_image(image, lease=lease)
            except containerd.ExistsError:
                # The kubelet's own pull was faster, with the same name; what it pulled is as good.
                logger.debug("pulled meanwhile", extra={"image": image.name})
            return
        # Also where nothing changes: the event of the update makes the CRI plugin look again.
        paths = ["target", "labels"] if found.target.digest != image.target.digest else ["labels"]
        labels = {**found.labels, **image.labels}
        if planning.MARK not in found.labels:
            del labels[planning.MARK]
        await self._client.update_image(
            dataclasses.replace(image, labels=labels), *paths, lease=lease
        )

    async def _ensure_mounted(self, wanted: planning.Registration) -> None:
        """Have an image's layers mounted again after a reboot, before a container waits for it.

        Once for each image: a view of it makes the snapshotter mount what is missing.
        """
        if not wanted.top or wanted.top in self._mounted:
            return
        lease = await self._client.create_lease(_LEASE_SECONDS)
        try:
            key = f"uimgacc-view-{self._make_key()}"
            await self._client.view(self._snapshotter, key, parent=wanted.top, lease=lease)
            await self._client.remove(self._snapshotter, key)
        finally:
            await self._end_lease(lease)
        self._mounted.add(wanted.top)

    async def _end_lease(self, lease: str) -> None:
        with contextlib.suppress(errors.AgentError):
            # Else it ends by itself.
            await self._client.delete_lease(lease)


def _has_target(found: containerd.Image | None, wanted: planning.Registration) -> bool:
    return found is not None and found.target.digest == wanted.target.digest


def _is_free(found: containerd.Image | None, wanted: planning.Registration) -> bool:
    """Whether a name may be given to the target: what the kubelet has pulled keeps its own."""
    return found is None or _has_target(found, wanted) or planning.MARK in found.labels
