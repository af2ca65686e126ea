"""What to write into containerd so that the kubelet finds an image present; pure.

The labels are containerd's garbage collector's: without the one that ties the
config to the top snapshot, the snapshots would go with the lease, while the image
would still be taken for present.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from agent.clients.containerd import objects
from agent.model import images, keys, records

_LABELS = {keys.CRI_IMAGE: "managed", keys.REGISTERED: "true"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An image for the node's platform, as containerd is to know it.

    `tag` is the name that a pulled image may have already ("" without one), `names`
    the others: by config digest and by target digest. `blobs` are the digests to
    write with their labels, referenced blobs first; `source` is the label that says where they
    are from. `layers` and `chain` run from the bottom.
    """

    names: tuple[str, ...]
    tag: str
    target: objects.Descriptor
    config: str
    blobs: Mapping[str, Mapping[str, str]] = dataclasses.field(hash=False)
    source: Mapping[str, str] = dataclasses.field(hash=False)
    layers: Sequence[records.ImageLayer]

    @property
    def chain(self) -> list[str]:
        """The chain IDs, from the bottom."""
        return [layer.chain_id for layer in self.layers]

    @property
    def top(self) -> str:
        """The chain ID of the top layer, the parent of containers' snapshots; "" without layers."""
        return self.layers[-1].chain_id if self.layers else ""

    @property
    def all_names(self) -> tuple[str, ...]:
        """All names, the tag last."""
        return (*self.names, self.tag) if self.tag else self.names

    def image(self, name: str) -> objects.Image:
        """The image record under a name."""
        return objects.Image(name=name, target=self.target, labels=_LABELS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The result of a registration.

    `new` are the layers that this node did not have before: an ordinary pull would have
    downloaded them. `complete` is False where an image that was pulled has the tag: it
    keeps the tag.
    """

    new: tuple[records.ImageLayer, ...] = ()
    already: bool = False
    complete: bool = True


def registration_of(
    reference: images.Reference,
    record: records.ImageRecord,
    platform: images.Platform,
    *,
    snapshotter: str,
) -> Registration | None:
    """What to register for a reference; None where the image is not made for the platform."""
    made = for_platform(record, platform)
    if made is None:
        return None
    target = _target(record, made)
    top = made.layers[-1].chain_id if made.layers else ""
    blobs: dict[str, Mapping[str, str]] = {
        made.config: {f"{keys.GC_SNAPSHOT}{snapshotter}": top} if top else {},
        made.manifest: {f"{keys.GC_CONTENT}.config": made.config},
    }
    below = made.manifest
    indexes = made.indexes if made.artifact is None else []
    for index in [*reversed(indexes), target.digest]:
        if index != below:
            blobs[index] = {f"{keys.GC_CONTENT}.m.0": below}
            below = index
    # As containerd normalises it: a reference by tag and digest is one by digest.
    tag = "" if reference.digest else str(reference)
    return Registration(
        # By the digest that pods and registries know it by, also where it was made of an artifact.
        names=(made.config, f"{reference.name}@{record.target}"),
        tag=tag,
        target=target,
        config=made.config,
        blobs=blobs,
        source={f"{keys.SOURCE}{reference.registry}": reference.repository},
        layers=made.layers,
    )


def _target(record: records.ImageRecord, made: records.PlatformImage) -> objects.Descriptor:
    """What containerd is to take for the image: of an artifact, it would refuse the target."""
    if made.artifact is None:
        return objects.Descriptor(record.target_media_type, record.target, record.target_size)
    return objects.Descriptor(made.manifest_media_type, made.manifest, made.manifest_size)


def for_platform(
    record: records.ImageRecord, platform: images.Platform
) -> records.PlatformImage | None:
    """As `matching.subjects.layers_for` picks: the exact platform, then without variant."""
    for wanted in (platform, dataclasses.replace(platform, variant="")):
        for made in record.platforms:
            try:
                if images.parse_platform(made.platform) == wanted:
                    return made
            except images.ImageReferenceError:
                continue
    return None
