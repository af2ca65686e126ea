"""The decision for a pod: values that the agent acts on and people read."""

import dataclasses
import enum

from agent.matching import annotations, subjects
from agent.model import caches, pods, records
from agent.model import images as image_values


class Outcome(enum.Enum):
    """What the store does for an image, or for a pod as a whole.

    FORBIDDEN: the store has it, but in caches that serve other namespaces; its
    layers come from the store once the registry has allowed the pull.
    """

    HIT = "hit"
    PARTIAL = "partial"
    MISS = "miss"
    NOT_READY = "not_ready"
    FORBIDDEN = "forbidden"
    NOT_ASKED = "not_asked"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event for the pod, in the words of the cloud whose annotation it has."""

    reason: str
    message: str
    warning: bool = False

    @property
    def type(self) -> str:
        """As Kubernetes writes it."""
        return "Warning" if self.warning else "Normal"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageDecision:
    """One image of the pod, `image` as the pod writes it.

    `registrable` is its record exactly where it may be made ready in containerd
    before the kubelet asks: it is complete, and this namespace may use it without
    the registry's permission. `is_private` says that not all namespaces may: what is
    registered in containerd, any pod of the node can start. `layers` are the diff IDs
    that the store can serve, bottom first. `coverage` is None where the image's layers
    are not known, `cache_id` the cache that provides it. `local` is when the layers are to be
    copied to the node's disk: as the pod says, else as a cache with this image says; None where
    the node decides. A layer that several images have is copied as the strongest of them says
    (`caches.strongest`). `moved` says that the registry has another image under its tag than the
    cache that serves it, or would serve it.
    """

    image: str
    reference: image_values.Reference | None
    outcome: Outcome
    reason: str
    cache_id: str = ""
    registrable: records.ImageRecord | None = None
    is_private: bool = False
    coverage: subjects.Coverage | None = None
    layers: tuple[str, ...] = ()
    local: caches.LocalMode | None = None
    moved: records.MovedTag | None = None

    @property
    def withheld(self) -> bool:
        """Whether the registry is asked for the image, because its tag has moved."""
        return self.moved is not None and self.moved.withheld


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A cache that was considered, and in words why it was taken or not.

    `rank` counts from 1; None where it was excluded. `full`, `near` and `covered` as in
    `cache_selection.Match`.
    """

    cache_id: str
    name: str = ""
    rank: int | None = None
    chosen: bool = False
    reasons: tuple[str, ...]
    full: int = 0
    near: int = 0
    covered: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AutoCreate:
    """A cache to create for the next pods: the same on every node that decides it.

    `event` is for the pod, once the ImageCache object has been created.
    """

    request: caches.CacheRequest
    cache_id: str
    event: Event


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the store does for a pod, and why.

    `reported` is the ID of the cache that events and status name, "" for none. The
    images may come from others as well. `foreign` says that the pod's runtime does not
    use the uimgacc snapshotter: nothing may be registered for it. `absent` are the images that
    could not be looked up, for the store did not answer, and this node does not have them itself.
    """

    pod: pods.Pod
    request: annotations.Request
    outcome: Outcome
    summary: str
    reported: str = ""
    images: tuple[ImageDecision, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    events: tuple[Event, ...] = ()
    auto_create: AutoCreate | None = None
    foreign: bool = False
    absent: tuple[str, ...] = ()

    @property
    def awaited(self) -> tuple[str, ...]:
        """The IDs of the caches that would serve the pod if they were built by now."""
        awaited = [image.cache_id for image in self.images if image.withheld]
        if self.auto_create is not None:
            awaited.append(self.auto_create.cache_id)
        if self.outcome is Outcome.NOT_READY and self.request.cache:
            named = self.request.cache
            # Natively, a cache is also named by its object.
            awaited.append(named if records.is_cache_id(named) else caches.id_of_name(named))
        return tuple(dict.fromkeys(awaited))

    @property
    def registrable(self) -> tuple[ImageDecision, ...]:
        """The images that may be made ready before the kubelet asks for them."""
        return tuple(image for image in self.images if image.registrable is not None)

    @property
    def layers(self) -> tuple[str, ...]:
        """The diff IDs of all layers that the store can serve, each once, below before above."""
        return tuple(dict.fromkeys(layer for image in self.images for layer in image.layers))

    @property
    def coverage(self) -> subjects.Coverage:
        """The sum over the images whose layers are known; shared layers count for each."""
        known = [image.coverage for image in self.images if image.coverage is not None]
        return subjects.Coverage(
            layers=sum(each.layers for each in known),
            held_layers=sum(each.held_layers for each in known),
            size=sum(each.size for each in known),
            held_size=sum(each.held_size for each in known),
        )
