"""Takes what is on our snapshotter out of containerd, before containerd forgets that.

A container on a snapshotter that containerd does not know any more cannot be
removed, and an image whose snapshots are gone with it is present for the kubelet
and cannot be run. So the first are waited for, and the second removed: what pods
need of them is pulled again, the ordinary way.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from agent import errors
from agent.clients.containerd import rpc
from agent.node.images import image_snapshots, inventory

_NAMED = 20
_UID = "io.kubernetes.pod.uid"


class InUseError(errors.TemporaryError):
    """Containers still stand on our snapshotter; `pods` are theirs, as namespace/name."""

    def __init__(self, pods: Sequence[str]) -> None:
        more = f" and {len(pods) - _NAMED} more" if len(pods) > _NAMED else ""
        super().__init__(
            f"containers of these pods use the snapshotter: {', '.join(pods[:_NAMED])}{more};"
            " delete them, or drain the node",
            delay=10,
        )
        self.pods = pods


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What has been done: the names of the images that were removed.

    `pods` are the names of all pods of the node by their UID, as namespace/name.
    """

    removed: Sequence[str]
    pods: Mapping[str, str] = dataclasses.field(hash=False)


async def leave(
    client: rpc.Client, stock: inventory.Inventory, known: image_snapshots.Chains
) -> Left:
    """Take all images off our snapshotter; remove those that stand on no other one.

    Raise InUseError, and remove nothing, while a container stands on it.
    """
    name = known.snapshotter
    containers = await client.containers()
    if found := [each for each in containers if each.snapshotter == name]:
        raise InUseError(sorted({_pod(each) for each in found}))
    removed = []
    affected = [image for image in await stock.all() if name in image.snapshotters]
    for image in affected:
        if await _stands_elsewhere(image, known):
            await known.forget(image.contents.config)
            continue
        for record in image.records:
            with contextlib.suppress(rpc.NotFoundError):
                await client.delete_image(record.name)
            removed.append(record.name)
    if affected:
        # The snapshotter may be gone already: then its folder goes as a whole, a little later.
        with contextlib.suppress(errors.TemporaryError):
            await known.collect()
    pods = {uid: _pod(each) for each in containers if (uid := each.labels.get(_UID))}
    return Left(removed, pods)


async def _stands_elsewhere(image: inventory.Present, known: image_snapshots.Chains) -> bool:
    """Whether another snapshotter has all of an image, so that containers can start from it."""
    for other in sorted(image.snapshotters - {known.snapshotter}):
        if image.contents.top and await known.stands(image.contents.top, snapshotter=other):
            return True
    return False


def _pod(container: rpc.Container) -> str:
    labels = container.labels
    if "io.kubernetes.pod.name" not in labels:
        return f"container {container.id}"
    return f"{labels.get('io.kubernetes.pod.namespace', '')}/{labels['io.kubernetes.pod.name']}"
