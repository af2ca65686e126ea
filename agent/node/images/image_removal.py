"""Removing images on the uimgacc snapshotter from containerd, on four occasions.

For a pod of another runtime (Clearer): an image whose layers come from the store has no
blobs here. Its record serves every runtime, though: such a pod finds the image present,
containerd wants to unpack it for that runtime's snapshotter, and the pod fails with
"content digest ... not found", again and again. Without the record, the kubelet pulls
the image from the registry with its own credentials, and from then on both runtimes have
it. Containers that run on it continue to run.

While acceleration is switched off (Drainer): images that no container uses are removed,
so that the snapshotter can unmount their layers. Running pods keep what they have; a
container that starts again finds its image missing and pulls it.

Where an image that the agent has registered is not for all namespaces (Unregistrar): any pod
of the node could start it without the registry's permission. Its layers stay in the store, and
the kubelet pulls the image, with the pod's credentials.

Before uninstallation (leave): a container on a snapshotter that containerd no longer
knows cannot be removed, and an image whose snapshots are gone with it is present for the
kubelet and cannot be run. So containers must be gone first, and images are removed.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients.containerd import objects, rpc
from agent.model import images, keys, records, times
from agent.node.images import containerd_images, image_snapshots, inventory
from agent.store.index import cache_entries
from agent.store.lookup import catalog

logger = logging.getLogger(__name__)

_DRAIN_SECONDS = 60.0
_UNREGISTER_SECONDS = 300.0
_YOUNG = datetime.timedelta(minutes=5)
"""A younger image may be that of a container which is about to be created."""
_LISTED = 20
_UID = "io.kubernetes.pod.uid"


class Clearer:
    """Removes images that pods of other runtimes would take for present, and could not run."""

    def __init__(self, containerd: containerd_images.ContainerdImages) -> None:
        self._containerd = containerd

    async def clear(self, names: Iterable[str]) -> Sequence[str]:
        """Remove such images, by the names that a pod has for them; return those removed.

        Raises TemporaryError.
        """
        async with self._containerd.chains.gate.shared():
            return [name for name in names if await self._clear(name)]

    async def _clear(self, name: str) -> bool:
        client = self._containerd.client
        try:
            record = await client.image(str(images.parse_reference(name)))
        except images.ImageReferenceError:
            return False
        if record is None:
            return False
        image = await self._containerd.inventory.look_up([record])
        if image is None or self._containerd.snapshotter not in image.snapshotters:
            return False
        if await self._is_usable_elsewhere(image):
            return False
        for other in await client.images():
            if other.target.digest == image.target:
                await client.delete_image(other.name)
        logger.info("removed an image so that its pod can pull it", extra={"image": name})
        return True

    async def _is_usable_elsewhere(self, image: inventory.Present) -> bool:
        """Whether another snapshotter has an image, or can be given it from blobs."""
        if await _other_snapshotter(image, self._containerd):
            return True
        return await self._containerd.inventory.has_blobs(image)


class Drainer:
    """A service that removes the images that no container uses."""

    def __init__(
        self,
        containerd: containerd_images.ContainerdImages,
        *,
        clock: times.Clock = times.now,
        seconds: float = _DRAIN_SECONDS,
    ) -> None:
        self._containerd = containerd
        self._clock = clock
        self._seconds = seconds

    async def run(self) -> None:
        """Remove unused images every so often, for ever."""
        while True:
            try:
                if removed := await self.release():
                    logger.info("removed images that no container uses", extra={"images": removed})
            except errors.TemporaryError as error:
                logger.warning("images cannot be removed", extra={"reason": str(error)})
            await asyncio.sleep(self._seconds)

    async def release(self) -> Sequence[str]:
        """Remove the images on the snapshotter that no container uses, nor a volume.

        Returns their names.
        """
        client = self._containerd.client
        users = await self._containerd.inventory.users(self._containerd.snapshotter)
        removed = []
        for image in await self._containerd.inventory.all():
            names = [record.name for record in image.records]
            is_used = users.use(names, image.contents.top)
            if is_used or not _may_go(image, self._containerd, self._clock()):
                continue
            for name in names:
                await client.delete_image(name)
            removed += names
        if removed:
            await self._containerd.chains.collect()
        return removed


class Caches(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        """The Ready caches that have what is wanted; TemporaryError: the store does not answer."""


class Unregistrar:
    """A service that removes what the agent has registered of images that are not for all.

    An earlier version has registered them, or this one while that was set, or while another
    cache had them.
    """

    def __init__(
        self,
        containerd: containerd_images.ContainerdImages,
        store: Caches,
        *,
        clock: times.Clock = times.now,
        seconds: float = _UNREGISTER_SECONDS,
    ) -> None:
        self._containerd = containerd
        self._store = store
        self._clock = clock
        self._seconds = seconds

    async def run(self) -> None:
        """Look every so often, for ever."""
        while True:
            pause = self._seconds
            try:
                if removed := await self.look():
                    logger.info("left images to pulls", extra={"images": removed})
            except errors.TemporaryError as error:
                logger.debug("images are not looked at", extra={"reason": str(error)})
                pause /= 10
            await asyncio.sleep(pause)

    async def look(self) -> Sequence[str]:
        """Remove such images that no container or volume uses; return their names.

        Raises TemporaryError.
        """
        client = self._containerd.client
        registered = [
            image
            for image in await self._containerd.inventory.all()
            # One that was pulled since then is present by the registry's permission.
            if all(keys.REGISTERED in record.labels for record in image.records)
            and _may_go(image, self._containerd, self._clock())
        ]
        if not registered:
            return ()
        found = await self._store.caches_for(_wanted(registered))
        users = await self._containerd.inventory.users(self._containerd.snapshotter)
        removed = []
        for image in registered:
            names = [record.name for record in image.records]
            if users.use(names, image.contents.top) or not _is_private(image, found.caches):
                continue
            for name in names:
                await client.delete_image(name)
            removed += names
        return removed


def _wanted(registered: Iterable[inventory.Present]) -> cache_entries.Wanted:
    """What finds the caches that have some images, under their names or by their targets."""
    references: dict[images.Reference, None] = {}
    for image in registered:
        for record in image.records:
            if not _repository(record.name):
                continue
            reference = images.parse_reference(record.name)
            references[reference] = None
            references |= {
                dataclasses.replace(reference, tag="", digest=digest): None
                for digest in sorted({reference.digest, image.target} - {""})
            }
    return cache_entries.Wanted(references=tuple(references))


def _is_private(image: inventory.Present, caches: Iterable[records.CacheRecord]) -> bool:
    """Whether caches have an image under one of its names, and none of them serves all."""
    own = {_repository(record.name) for record in image.records} - {""}
    # An image that was made of an artifact has another target than its names by digest say.
    targets = {record.name.rpartition("@")[2] for record in image.records} | {image.target}
    having = [
        cache
        for cache in caches
        if any(each.target in targets and _repository(each.ref) in own for each in cache.images)
    ]
    return bool(having) and all(cache.namespaces is not None for cache in having)


def _repository(name: str) -> str:
    """The repository of an image's name; "" for a name by config digest."""
    if name.startswith("sha256:"):
        return ""
    try:
        return images.parse_reference(name).name
    except images.ImageReferenceError:
        return ""


def _may_go(
    image: inventory.Present,
    containerd: containerd_images.ContainerdImages,
    now: datetime.datetime,
) -> bool:
    """Whether an image is on the snapshotter, not pinned, and not about to be used at once."""
    pinned = any(keys.CRI_PINNED in record.labels for record in image.records)
    young = now - image.since < _YOUNG
    return containerd.snapshotter in image.snapshotters and not pinned and not young


class InUseError(errors.TemporaryError):
    """Containers still use the snapshotter; `pods` are their pods, as namespace/name."""

    def __init__(self, pods: Sequence[str]) -> None:
        more = f" and {len(pods) - _LISTED} more" if len(pods) > _LISTED else ""
        super().__init__(
            f"containers of these pods use the snapshotter: {', '.join(pods[:_LISTED])}{more};"
            " delete them, or drain the node",
            delay=10,
        )
        self.pods = pods


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What `leave` has done: the names of the images that were removed.

    `pods` are the names of all pods of the node by their UID, as namespace/name.
    """

    removed: Sequence[str]
    pods: Mapping[str, str] = dataclasses.field(hash=False)


async def leave(
    containerd: containerd_images.ContainerdImages, *, among: Collection[str] | None = None
) -> Left:
    """Take all images off the snapshotter; remove those that no other snapshotter has.

    With `among`, only those that need one of these snapshots (chain IDs), also below what a pull
    has unpacked. Raises InUseError, and removes nothing, while a container uses the snapshotter.
    """
    name = containerd.snapshotter
    containers = await containerd.client.containers()
    users = [each for each in containers if each.snapshotter == name]
    affected = [image for image in await containerd.inventory.all() if name in image.snapshotters]
    if among is not None:
        among = image_snapshots.standing_on(among, await containerd.client.snapshots(name))
        users = [each for each in users if each.snapshot_key in among]
        affected = [image for image in affected if image.contents.top in among]
    if users:
        raise InUseError(sorted({_pod(each) for each in users}))
    removed = []
    for image in affected:
        if image.contents.top and await _other_snapshotter(image, containerd):
            await containerd.chains.forget(image.contents.config)
            continue
        for record in image.records:
            with contextlib.suppress(rpc.NotFoundError):
                await containerd.client.delete_image(record.name)
            removed.append(record.name)
    if affected:
        # The snapshotter may have stopped already: then its folder is removed as a whole, later.
        with contextlib.suppress(errors.TemporaryError):
            await containerd.chains.collect()
    pods = {uid: _pod(each) for each in containers if (uid := each.labels.get(_UID))}
    return Left(removed, pods)


async def _other_snapshotter(
    image: inventory.Present, containerd: containerd_images.ContainerdImages
) -> bool:
    """Whether another snapshotter has all of an image, so that containers can start from it."""
    for other in sorted(image.snapshotters - {containerd.snapshotter}):
        if await containerd.chains.exists(image.contents.top, snapshotter=other):
            return True
    return False


def _pod(container: objects.Container) -> str:
    labels = container.labels
    if "io.kubernetes.pod.name" not in labels:
        return f"container {container.id}"
    return f"{labels.get('io.kubernetes.pod.namespace', '')}/{labels['io.kubernetes.pod.name']}"
