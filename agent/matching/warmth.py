"""Which images a node is to have present before any pod asks for them; pure.

Caches name images for nodes with certain labels (spec.keepWarm), and the node's setting names more.
The same rules hold as for pods: an image is made ready only if a cache has it, and is registered
only if a cache that has it serves all namespaces.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from agent.model import caches, images

MOST = 50
"""Images that are kept warm on a node at most; further ones are shown with that reason."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WarmImage:
    """An image that is to be present. `cache_id` is "" where the node's setting names it.

    `problem` says why it cannot be; then `reference` may be None.
    """

    name: str
    reference: images.Reference | None
    cache_id: str = ""
    local: caches.LocalMode | None = None
    problem: str = ""


def wanted(
    views: Iterable[caches.Cache], labels: Mapping[str, str], named: Sequence[str] = ()
) -> tuple[WarmImage, ...]:
    """The images for a node with these labels; `named` are those of its setting, which come first.

    Caches take turns, one image each, the oldest cache first: so one large cache does not use up
    the limit alone.
    """
    warm = sorted(
        (cache for cache in views if cache.is_warm_on(labels)),
        key=lambda cache: (cache.created, cache.id),
    )
    turns = itertools.zip_longest(*(_of_cache(cache) for cache in warm))
    once: dict[str, WarmImage] = {}
    for image in (*map(_of_setting, named), *itertools.chain.from_iterable(turns)):
        if image is not None:
            once.setdefault(image.name, image)
    return tuple(
        image if at < MOST else dataclasses.replace(image, problem=_TOO_MANY)
        for at, image in enumerate(once.values())
    )


_TOO_MANY = f"a node keeps {MOST} images warm, and these are more"


def _of_cache(cache: caches.Cache) -> list[WarmImage]:
    return [
        WarmImage(name=str(reference), reference=reference, cache_id=cache.id, local=cache.local)
        for held in cache.by_name.values()
        for reference, _ in held
    ]


def _of_setting(name: str) -> WarmImage:
    try:
        reference = images.parse_reference(name)
    except images.ImageReferenceError as error:
        return WarmImage(name=name, reference=None, problem=str(error))
    return WarmImage(name=str(reference), reference=reference)


def is_held(views: Iterable[caches.Cache], reference: images.Reference, target: str) -> bool:
    """Whether any cache has exactly this target of a repository, and does not withhold it."""
    return any(
        cache.has_target(reference, target) and not cache.withholds(reference) for cache in views
    )


def is_withheld(views: Iterable[caches.Cache], reference: images.Reference) -> bool:
    """Whether a cache has a tag, but withholds it: the registry is to be asked for it."""
    return any(cache.withholds(reference) for cache in views)


def is_open(views: Iterable[caches.Cache], reference: images.Reference, target: str) -> bool:
    """Whether a cache that serves all namespaces has the target: then any pod may start it."""
    return any(cache.serves_all and cache.has_target(reference, target) for cache in views)
