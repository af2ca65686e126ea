"""Registering an image in containerd so that the kubelet finds it present.

No layer is downloaded: the snapshotter has each of them in the store, and says so
by answering that the chain exists already. The image records come last, so an
image is never present without its snapshots; until then a lease protects the rest.
A registration that fails leaves only what the next garbage collection removes.
"""

import asyncio
import dataclasses
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients.containerd import objects, rpc
from agent.kits.aio import tasks
from agent.model import keys
from agent.node.images import containerd_images, registration_plan

logger = logging.getLogger(__name__)


class NotServedError(errors.TemporaryError):
    """The snapshotter did not serve a chain from the store, but would unpack it.

    `chain_id` names it, `damage` a layer of it that is damaged in the store, with the
    reason. The image is left to the ordinary pull.
    """

    def __init__(self, chain_id: str, damage: str = "") -> None:
        reason = (
            f"layer {damage}: damaged in the store; create the caches that use it again"
            if damage
            else f"the snapshotter does not serve {chain_id} from the store now"
        )
        super().__init__(reason)
        self.chain_id = chain_id
        self.damage = damage


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
        """The bytes; None where the store lacks it; TemporaryError: it does not answer."""


class Registrar:
    """Registers images for one snapshotter.

    At most one registration of a target runs at a time. `damage` says which of some layers
    (diff IDs) is damaged in the store, "" for none.
    """

    def __init__(
        self,
        containerd: containerd_images.ContainerdImages,
        blobs: Blobs,
        *,
        damage: Callable[[Sequence[str]], Awaitable[str]] | None = None,
    ) -> None:
        self._damage = damage
        self._client = containerd.client
        self._chains = containerd.chains
        self._inventory = containerd.inventory
        self._blobs = blobs
        self._under_way: weakref.WeakValueDictionary[str, asyncio.Lock]
        self._under_way = weakref.WeakValueDictionary()

    async def register(
        self, wanted: registration_plan.Registration, *, each: bool = False
    ) -> registration_plan.Registered:
        """Make an image present; quick where it is.

        With `each` layer as a snapshot of its own, without which it cannot be a volume.
        Raises NotServedError, BrokenError, BlobMissingError, and what the client
        and the store raise.
        """
        lock = self._under_way.setdefault(wanted.target.digest, asyncio.Lock())
        async with lock, self._chains.gate.shared():
            return await self._register(wanted, each=each)

    async def _register(
        self, wanted: registration_plan.Registration, *, each: bool
    ) -> registration_plan.Registered:
        existing = await self._existing(wanted)
        names = [name for name in wanted.all_names if _is_free(existing.get(name), wanted)]
        complete = not wanted.tag or wanted.tag in names
        present = all(_has_target(existing.get(name), wanted) for name in names)
        known = await self._chains.count(wanted.chain)
        if present and known == len(wanted.layers):
            await self._chains.ensure_mounted(wanted.top)
            if each:
                await self._complete(wanted)
            return registration_plan.Registered(already=True, complete=complete)
        known = max(known, await self._chains.count_shared(wanted.chain))
        async with self._chains.lease() as lease:
            writes = [
                self._write(digest, {**labels, **wanted.source}, lease)
                for digest, labels in wanted.blobs.items()
            ]
            await tasks.together(self._serve(wanted, lease), *writes)
            if each:
                await self._complete(wanted, lease=lease)
            changes = [
                self._record(wanted.image(name), existing.get(name), lease) for name in names
            ]
            await tasks.together(*changes)
        return registration_plan.Registered(new=tuple(wanted.layers[known:]), complete=complete)

    async def _existing(
        self, wanted: registration_plan.Registration
    ) -> Mapping[str, objects.Image]:
        """The image records that containerd has under the names of a registration."""
        images = await tasks.together(*(self._client.image(name) for name in wanted.all_names))
        return {image.name: image for image in images if image is not None}

    async def _write(self, digest: str, labels: Mapping[str, str], lease: str) -> None:
        data = await self._blobs.blob(digest)
        if data is None:
            raise BlobMissingError(digest)
        await self._client.write(digest, data, labels=labels, lease=lease)

    async def _serve(
        self, wanted: registration_plan.Registration, lease: str, *, each: bool = False
    ) -> None:
        """Have the image's snapshot served, or one of `each` layer.

        Existing ones too, so that the lease protects them.
        """
        chain = wanted.chain
        serve = self._chains.lay_out if each else self._chains.serve
        try:
            served = await serve(chain, lease=lease)
        except rpc.NotFoundError as error:
            raise BrokenError(chain) from error
        if not served:
            raise NotServedError(wanted.top, await self._damage_of(wanted))
        # containerd says "exists" for what it knows, whether the snapshotter does or not.
        if chain and not await self._chains.exists(wanted.top):
            raise BrokenError(chain)
        self._chains.note_mounted(wanted.top)

    async def _complete(self, wanted: registration_plan.Registration, *, lease: str = "") -> None:
        """Have each layer of a served image be a snapshot of its own, for good."""
        if missing := await self._chains.complete(wanted.chain, wanted.config, lease=lease):
            raise NotServedError(missing[0], await self._damage_of(wanted))

    async def _damage_of(self, wanted: registration_plan.Registration) -> str:
        """Why the store may not be served from, where it is a layer's damage."""
        if self._damage is None:
            return ""
        try:
            return await self._damage([layer.diff_id for layer in wanted.layers])
        except errors.AgentError:
            return ""

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """Give each layer of a registered image a snapshot of its own; quick where it has one.

        For an image that is pulled although it is present (pull policy Always): the pull
        asks for every layer, and would have all but the top one created each time.
        Raises what the client raises.
        """
        async with self._chains.gate.shared():
            await self._chains.complete(wanted.chain, wanted.config)

    async def lay_out_ahead(
        self, wanted: registration_plan.Registration
    ) -> registration_plan.Registered:
        """Have all ready for the kubelet's pull of an image, but the image itself; quick if it is.

        The pull then asks the registry for the manifest, and downloads nothing. An image that
        was registered before, while that was permitted, is no longer. Raises what `register` does.
        """
        lock = self._under_way.setdefault(wanted.target.digest, asyncio.Lock())
        async with lock, self._chains.gate.shared():
            existing = await self._existing(wanted)
            await self._unregister(existing.values(), wanted.top)
            known = await self._chains.count(wanted.chain)
            if known == len(wanted.layers) and any(map(_is_pulled, existing.values())):
                await self._chains.ensure_mounted(wanted.top)
                await self._complete(wanted)
                return registration_plan.Registered(already=True)
            lease = await self._chains.lease_for_pull(wanted.top or wanted.config)
            # Without their source: a mirror between nodes would hand out what no registry has
            # permitted yet. The pull adds it.
            writes = [self._write(*blob, lease) for blob in wanted.blobs.items()]
            await tasks.together(self._serve(wanted, lease, each=True), *writes)
            await self._complete(wanted, lease=lease)
            return registration_plan.Registered(new=tuple(wanted.layers[known:]))

    async def withdraw(self, tag: str) -> None:
        """Take back a tag that the agent gave to an image: the kubelet does not find it present.

        The image keeps its other names, by which containers that run know it. A tag that was
        pulled stays.
        """
        async with self._chains.gate.shared():
            image = await self._client.image(tag)
            if image is None or _is_pulled(image):
                return
            await self._client.delete_image(tag)
            logger.info("left a tag to pulls: the registry has moved it", extra={"image": tag})

    async def _unregister(self, existing: Collection[objects.Image], top: str) -> None:
        """Remove the records of an image that the agent has registered, unless it is in use.

        A pull of the image since then leaves only some of them the agent's: it is present by
        the registry's permission.
        """
        names = [image.name for image in existing]
        if not names or any(map(_is_pulled, existing)):
            return
        if (await self._inventory.users(self._chains.snapshotter)).use(names, top):
            return
        for name in names:
            await self._client.delete_image(name)
        logger.info(
            "left an image to pulls: not all namespaces may use it", extra={"image": names[-1]}
        )

    async def _record(
        self, image: objects.Image, existing: objects.Image | None, lease: str
    ) -> None:
        if existing is None:
            try:
                await self._client.create_image(image, lease=lease)
            except rpc.ExistsError:
                # The kubelet has pulled the image under this name meanwhile. That serves as well.
                logger.debug("pulled meanwhile", extra={"image": image.name})
            return
        # Also where nothing changes: the event of the update makes the CRI plugin look again.
        paths = (
            ["target", "labels"] if existing.target.digest != image.target.digest else ["labels"]
        )
        labels = {**existing.labels, **image.labels}
        if keys.REGISTERED not in existing.labels:
            del labels[keys.REGISTERED]
        await self._client.update_image(
            dataclasses.replace(image, labels=labels), *paths, lease=lease
        )


def _is_pulled(existing: objects.Image) -> bool:
    return keys.REGISTERED not in existing.labels


def _has_target(existing: objects.Image | None, wanted: registration_plan.Registration) -> bool:
    return existing is not None and existing.target.digest == wanted.target.digest


def _is_free(existing: objects.Image | None, wanted: registration_plan.Registration) -> bool:
    """Whether a name may be given to the target: an image that was pulled keeps its name."""
    if existing is None or _has_target(existing, wanted):
        return True
    return keys.REGISTERED in existing.labels
