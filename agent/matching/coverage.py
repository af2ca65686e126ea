"""Layer arithmetic: how much of an image its node need not download.

containerd unpacks from the bottom: a layer above one that is missing has to be
downloaded although the store has it. So only layers in a row from the bottom count.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from agent.model import images, records


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

    The very platform comes before one without a variant. Without a platform (nobody
    said which node), those of the first that it has.
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
