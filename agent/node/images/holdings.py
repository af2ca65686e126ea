"""Which retired layers this node still holds, what uses them, and which may go; pure.

Three things hold a layer: a snapshot that the snapshotter serves from the store, its
mount, and a mount on top of it (a container's overlay). None of them does where all mounts of the
layer read the node's own copy: such a layer may go from the store while containers run on it.
containerd knows whether a snapshot is needed: containers have snapshots as parents, images keep
them. An image that no container and no pod of this node needs is removed; the others are in use.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from agent.clients.containerd import objects
from agent.model import images, keys, pods, records, reports
from agent.mounts import mount_users
from agent.node.images import inventory

_NAMESPACE = "io.kubernetes.pod.namespace"
_NAME = "io.kubernetes.pod.name"
_UID = "io.kubernetes.pod.uid"
_FINISHED = ("Succeeded", "Failed")
_SHORT = 16
SHOWN = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What one generation takes out of the store.

    `layers` are diff IDs with the chain IDs that they are the top of, `caches` the IDs
    of the caches that had them.
    """

    generation: int
    layers: Mapping[str, Collection[str]] = dataclasses.field(hash=False)
    caches: Sequence[str] = ()

    @classmethod
    def of(cls, record: records.RetiredRecord) -> "Retired":
        """The view of a record."""
        return cls(
            generation=record.generation,
            layers={layer.diff_id: layer.chains for layer in record.layers},
            caches=record.caches,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What the node has: its snapshots with their parents, and what uses them.

    `present` are images, `on_node` the pods that are bound to it.
    """

    snapshots: Mapping[str, str] = dataclasses.field(hash=False)
    layers: mount_users.Layers
    present: Sequence[inventory.Present] = ()
    containers: Sequence[objects.Container] = ()
    on_node: Sequence[pods.Pod] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the node has nothing of any store."""
        return not (self.snapshots or self.layers.mounted or self.layers.used)


class Holder(NamedTuple):
    """What uses a layer: `name` for people on the node, `tag` for all who can read the node."""

    name: str
    tag: str


_NO_USER = Holder("no user, it is about to go", "no user")
_VOLUME = Holder("an image volume of a pod that is about to go", "an image volume")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One layer of a generation that the node still has, and what holds it."""

    generation: int
    diff_id: str
    cache: str = ""
    by: Holder

    @property
    def sentence(self) -> str:
        """As /status of the node has it."""
        return f"{self.cache or '-'}/{self.diff_id}: {self.by.name}"

    def entry(self, store_id: str) -> str:
        """As the annotation on the node has it: without names of layers and pods."""
        layer = reports.layer_tag(store_id, self.diff_id)
        return reports.encode_held(reports.Held(cache=self.cache, layer=layer, holder=self.by.tag))


def candidates(stock: Stock, retired: Retired) -> frozenset[str]:
    """The snapshots that contain a retired layer: served from the store, or unpacked.

    Those are its own chain IDs, and the tops of images, which may have a whole image.
    """
    chains = {chain for of_layer in retired.layers.values() for chain in of_layer}
    tops = {
        image.contents.top for image in stock.present if not chains.isdisjoint(image.contents.chain)
    }
    return frozenset((chains | tops) & stock.snapshots.keys())


def droppable(stock: Stock, chains: frozenset[str], *, snapshotter: str) -> list[inventory.Present]:
    """The images with one of these chains that no container or pod here needs."""
    holders = _holders(stock, snapshotter)
    return [
        image
        for image in stock.present
        if snapshotter in image.snapshotters
        and not chains.isdisjoint(image.contents.chain)
        and image.contents.top not in holders
    ]


def unused(stock: Stock, chains: frozenset[str], *, snapshotter: str) -> frozenset[str]:
    """Those of some snapshots that no container, pod or pinned image here needs.

    They are of images that are droppable, or were laid out for a pull that has not come.
    """
    return chains - _holders(stock, snapshotter).keys()


def held(
    stock: Stock,
    retired: Retired,
    served: Collection[str],
    *,
    snapshotter: str,
    outliving: Collection[str] = (),
) -> list[Held]:
    """What the node still has of a generation; empty: it may go. `served` as in `candidates`.

    `outliving` are layers whose copies are kept for what runs on them: see that function.
    A layer without a user stays for a moment only: its image is being pulled or removed,
    or its last user has just ended.
    """
    holders = _holders(stock, snapshotter)
    cache = retired.caches[0] if len(retired.caches) == 1 else ""
    entries = []
    for diff_id, chains in retired.layers.items():
        place = _place(diff_id)
        here = [chain for chain in chains if chain in served]
        is_read = place in stock.layers.mounted or place in stock.layers.used
        outlives = diff_id in outliving and _outlives(stock, place, here)
        if outlives or not (here or is_read):
            continue
        by = {holder for chain in chains for holder in holders.get(chain, ())}
        by = by or {Holder(target, "a mount") for target in stock.layers.used.get(place, ())}
        by = by or {_NO_USER}
        entries += [
            Held(generation=retired.generation, diff_id=diff_id, cache=cache, by=each)
            for each in sorted(by)
        ]
    return entries


def outliving(stock: Stock, retired: Retired) -> list[str]:
    """The layers of a generation that are read from copies here: once these are sure to stay,
    containers may go on without the store."""
    return [each for each in retired.layers if _place(each) in stock.layers.copied]


def shown(texts: Iterable[str]) -> list[str]:
    """Sentences for /status, or entries for the node's annotation: a bounded number."""
    sentences = list(dict.fromkeys(texts))
    more = len(sentences) - SHOWN
    return [*sentences[:SHOWN], f"and {more} more"] if more > 0 else sentences


def _outlives(stock: Stock, place: str, here: Collection[str]) -> bool:
    """Whether a layer goes on without the store: what runs on it has its copy mounted.

    Before something runs on it, its copy may go as well.
    """
    return place in stock.layers.copied and (place in stock.layers.used or not here)


def _place(diff_id: str) -> str:
    """The name of a layer's mountpoint."""
    return diff_id.removeprefix("sha256:")[:_SHORT]


def _users_of(
    snapshots: Mapping[str, str], containers: Iterable[objects.Container], *, snapshotter: str
) -> dict[str, set[Holder]]:
    """The pods whose containers or image volumes are on each snapshot.

    `snapshots` have their parents.
    """
    users: dict[str, set[Holder]] = {}
    by_id = {container.id: container for container in containers}
    uses = [
        (each.snapshot_key, _pod_of(each))
        for each in by_id.values()
        if each.snapshotter == snapshotter
    ]
    for key in snapshots:
        if sandbox := inventory.sandbox_of_volume(key):
            pod = _pod_of(by_id[sandbox]) if sandbox in by_id else _VOLUME
            uses.append((key, pod))
    for key, holder in uses:
        for chain in _ancestors(snapshots, key):
            users.setdefault(chain, set()).add(holder)
    return users


def _holders(stock: Stock, snapshotter: str) -> Mapping[str, set[Holder]]:
    """What needs each snapshot: pods by `namespace/name`, else containers and pinned images.

    A container needs its parent snapshots, and its image by name even where it uses
    another snapshotter's copy of it; an image volume needs its parent snapshots; a pod that has
    not ended needs its images.
    """
    holders = _users_of(stock.snapshots, stock.containers, snapshotter=snapshotter)
    by_name: dict[str, set[Holder]] = {}
    for container in stock.containers:
        by_name.setdefault(container.image, set()).add(_pod_of(container))
    for pod in stock.on_node:
        if pod.phase not in _FINISHED:
            for name in _names(pod):
                by_name.setdefault(name, set()).add(_pod(pod.namespace, pod.name, pod.uid))
    for image in stock.present:
        for record in image.records:
            needed_by = by_name.get(record.name, set()) | _pins(record)
            for chain in image.contents.chain if needed_by else ():
                holders.setdefault(chain, set()).update(needed_by)
    return holders


def _ancestors(snapshots: Mapping[str, str], key: str) -> Iterator[str]:
    """The ancestors of a snapshot, from its parent down."""
    while key := snapshots.get(key, ""):
        yield key


def _pod_of(container: objects.Container) -> Holder:
    labels = container.labels
    if _NAME in labels:
        return _pod(labels.get(_NAMESPACE, ""), labels[_NAME], labels.get(_UID, ""))
    return Holder(f"container {container.id}", "a container")


def _pod(namespace: str, name: str, uid: str) -> Holder:
    return Holder(f"{namespace}/{name}", reports.pod_tag(uid) if uid else "a pod")


def _names(pod: pods.Pod) -> Iterator[str]:
    """The names under which containerd may know a pod's images."""
    for image in pod.images:
        try:
            reference = images.parse_reference(image)
        except images.ImageReferenceError:
            continue
        yield str(reference)
        if reference.digest:
            yield f"{reference.name}@{reference.digest}"


def _pins(record: objects.Image) -> set[Holder]:
    """An image that the kubelet is never to remove (the sandbox's) is not removed here either."""
    if record.labels.get(keys.CRI_PINNED) != "pinned":
        return set()
    return {Holder(f"pinned image {record.name}", "a pinned image")}
