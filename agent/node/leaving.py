"""Takes what is on our snapshotter out of containerd, before containerd forgets that.

A container on a snapshotter that containerd does not know any more cannot be
removed, and an image whose snapshots are gone with it is present for the kubelet
and cannot be run. So the first are waited for, and the second removed: what pods
need of them is pulled again, the ordinary way.
"""

import contextlib
from collections.abc import Iterator, Sequence

from agent import errors
from agent.clients import containerd
from agent.mounts import mountinfo, syscalls
from agent.node import chains, inventory

_NAMED = 20


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


async def leave(
    client: containerd.Client, stock: inventory.Inventory, known: chains.Chains
) -> Sequence[str]:
    """Remove all images that stand on our snapshotter; return their names.

    Raise InUseError, and remove nothing, while a container does.
    """
    name = known.snapshotter
    found = [each for each in await client.containers() if each.snapshotter == name]
    if found:
        raise InUseError(sorted({_pod(each) for each in found}))
    names = [
        record.name
        for image in await stock.all()
        if name in image.snapshotters
        for record in image.records
    ]
    for each in names:
        with contextlib.suppress(containerd.NotFoundError):
            await client.delete_image(each)
    if names:
        # The snapshotter may be gone already: then its folder goes as a whole, a little later.
        with contextlib.suppress(errors.TemporaryError):
            await known.collect()
    return names


def unmount(folders: Sequence[str]) -> Iterator[str]:
    """Unmount all that is mounted below folders, the last first; yield what is in use.

    That stays: a container reads it that containerd does not know of. A container's
    volumes (the node's root, containerd's folder) bring copies along, whose paths have
    the folder's in them: they would hold on to what they are copies of.
    """
    below = [f"{folder.rstrip('/')}/" for folder in folders]
    for entry in reversed(mountinfo.read()):
        if any(folder in entry.target for folder in below):
            try:
                syscalls.unmount(entry.target)
            except OSError as error:
                yield f"{entry.target} stays mounted: {error.strerror}"


def _pod(container: containerd.Container) -> str:
    labels = container.labels
    if "io.kubernetes.pod.name" not in labels:
        return f"container {container.id}"
    return f"{labels.get('io.kubernetes.pod.namespace', '')}/{labels['io.kubernetes.pod.name']}"
