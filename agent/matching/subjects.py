"""The images of a pod as matching sees them: the reference, and what the store has of its layers.

containerd unpacks from the bottom: a layer above one that is missing has to be
downloaded although the store has it. So only layers in a row from the bottom count.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from agent.model import caches, images, pods, records

_OTHER_TAGS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An image that the pod wants, `image` as it writes it.

    `record` and `layers` (for the node's platform) are set where the store has the
    image. `problem` says why it cannot be matched at all.
    """

    image: str
    reference: images.Reference | None = None
    record: records.ImageRecord | None = None
    layers: Sequence[records.ImageLayer] | None = None
    problem: str = ""

    @property
    def wanted(self) -> images.Reference | None:
        """The reference to match; None where it cannot be matched."""
        return None if self.problem else self.reference

    def within(self, cache: caches.Cache) -> bool:
        """Whether the layers are known and a cache has all of them."""
        return bool(self.layers) and all(
            layer.diff_id in cache.layers for layer in self.layers or ()
        )


def is_always_pulled(pod: pods.Pod, image: str) -> bool:
    """Whether the kubelet pulls an image even if it is present."""
    try:
        newest = images.parse_reference(image).version == "latest"
    except images.ImageReferenceError:
        newest = False
    default = "Always" if newest else "IfNotPresent"
    return any(
        (container.pull_policy or default) == "Always"
        for container in pod.containers
        if container.image == image
    )


def references_to_look_up(
    pod: pods.Pod, cache_views: Iterable[caches.Cache]
) -> tuple[images.Reference, ...]:
    """The references whose image records `rules.decide` needs.

    They are the pod's images and, for an image by digest, the tags under which caches
    have that digest. The caller passes `{str(reference): record or None}`.
    """
    references: dict[images.Reference, None] = {}
    for image in pod.images:
        try:
            references[images.parse_reference(image)] = None
        except images.ImageReferenceError:
            continue
    tags = [
        held
        for reference in references
        if reference.digest
        for held in itertools.islice(_under_tags(reference, cache_views), _OTHER_TAGS)
    ]
    return tuple(references | dict.fromkeys(tags))


def _under_tags(
    reference: images.Reference, cache_views: Iterable[caches.Cache]
) -> Iterable[images.Reference]:
    for cache in cache_views:
        for held, image in cache.by_name.get(reference.name, ()):
            if image.target == reference.digest and held != reference:
                yield held


def subject_of(
    image: str,
    image_records: Mapping[str, records.ImageRecord | None],
    platform: images.Platform | None,
) -> Subject:
    """Read one image of a pod against the records that were looked up."""
    try:
        reference = images.parse_reference(image)
    except images.ImageReferenceError as error:
        return Subject(image=image, problem=str(error))
    record = _record(reference, image_records)
    if record is None:
        return Subject(image=image, reference=reference)
    layers = layers_for(record, platform)
    if layers is None:
        made_for = ", ".join(made.platform for made in record.platforms) or "no platform"
        problem = f"the store has it for {made_for}, the node is {platform}"
        return Subject(image=image, reference=reference, problem=problem)
    return Subject(image=image, reference=reference, record=record, layers=layers)


def _record(
    reference: images.Reference, image_records: Mapping[str, records.ImageRecord | None]
) -> records.ImageRecord | None:
    """The record of a reference: for a digest, any of the repository with that target."""
    own = image_records.get(str(reference))
    if not reference.digest:
        return own
    others = [record for _, record in sorted(image_records.items())]
    for record in (own, *others):
        if record is not None and record.target == reference.digest:
            try:
                held = images.parse_reference(record.ref)
            except images.ImageReferenceError:
                continue
            if held.name == reference.name:
                return record
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Coverage:
    """Layers and compressed bytes: of a whole, and those of it which are in the store."""

    layers: int = 0
    held_layers: int = 0
    size: int = 0
    held_size: int = 0

    @property
    def fraction(self) -> float:
        """The part of the bytes that is held, 0 to 1; by layers where all are empty."""
        if self.size:
            return self.held_size / self.size
        return self.held_layers / self.layers if self.layers else 0.0

    @property
    def full(self) -> bool:
        """Whether nothing is left to download; an image without layers is full."""
        return self.layers == self.held_layers


def usable(
    layers: Sequence[records.ImageLayer], held: Collection[str]
) -> Sequence[records.ImageLayer]:
    """The layers from the bottom up to the first that is not held."""
    for count, layer in enumerate(layers):
        if layer.diff_id not in held:
            return layers[:count]
    return layers


def cover(images_layers: Iterable[Sequence[records.ImageLayer]], held: Collection[str]) -> Coverage:
    """What of some images' layers is held; a layer that several have counts once.

    `held` are diff IDs.
    """
    sizes: dict[str, int] = {}
    held_sizes: dict[str, int] = {}
    for layers in images_layers:
        sizes.update((layer.diff_id, layer.size) for layer in layers)
        held_sizes.update((layer.diff_id, sizes[layer.diff_id]) for layer in usable(layers, held))
    return Coverage(
        layers=len(sizes),
        held_layers=len(held_sizes),
        size=sum(sizes.values()),
        held_size=sum(sizes[diff_id] for diff_id in held_sizes),
    )


def layers_for(
    record: records.ImageRecord, platform: images.Platform | None
) -> Sequence[records.ImageLayer] | None:
    """The layers of an image for a platform, bottom first; None where it is not made for it.

    The exact platform comes before one without a variant. Without a platform (of a node
    that is not known), those of the first one that it has.
    """
    if platform is None:
        return record.platforms[0].layers if record.platforms else None
    for wanted in (platform, dataclasses.replace(platform, variant="")):
        for image in record.platforms:
            if _platform(image.platform) == wanted:
                return image.layers
    return None


def _platform(text: str) -> images.Platform | None:
    try:
        return images.parse_platform(text)
    except images.ImageReferenceError:
        return None
