"""The images of a pod as matching sees them: the reference, and what the store knows of it."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from agent.matching import coverage
from agent.model import caches, images, pods, records

_OTHER_TAGS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An image that the pod wants, `image` as it writes it.

    `record` and `layers` (for the node's platform) are set where the store has the
    image. `problem` is what keeps it from being matched at all.
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


def references_to_look_up(
    pod: pods.Pod, cache_views: Iterable[caches.Cache]
) -> tuple[images.Reference, ...]:
    """Whose image records `rules.decide` wants.

    They are the pod's images and, for one asked for by digest, the tags under which
    caches have that digest. The caller passes on `{str(reference): record or None}`.
    """
    found: dict[images.Reference, None] = {}
    for image in pod.images:
        try:
            found[images.parse_reference(image)] = None
        except images.ImageReferenceError:
            continue
    tags = [
        held
        for reference in found
        if reference.digest
        for held in itertools.islice(_under_tags(reference, cache_views), _OTHER_TAGS)
    ]
    return tuple(found | dict.fromkeys(tags))


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
    layers = coverage.layers_for(record, platform)
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
