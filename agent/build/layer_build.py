"""What layers are made with, what they may take, and what can be wrong with one.

The making itself is in `agent.build.layers.layer_work`.
"""

import dataclasses
import enum
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

from agent import errors
from agent.build import limits, mkfs_erofs, scratch_room
from agent.kits import units
from agent.model import images, oci
from agent.model.artifacts import artifact_files
from agent.store import layout
from agent.store.publish import attestation

SCRATCH_PREFIX = "uimgacc-"
"""Begins the names of the files in the folder for temporary files."""


class Manifest(Protocol):
    """A manifest or index as a registry served it, verified."""

    @property
    def digest(self) -> str:
        """Its digest."""

    @property
    def media_type(self) -> str:
        """What the registry called it."""

    @property
    def data(self) -> bytes:
        """Its bytes."""


class Registry(Protocol):
    """Where images come from (agent.clients.registry.distribution.Client).

    Retries what is worth it by itself; what it raises is final for this build.
    """

    async def manifest(self, reference: images.Reference, digest: str = "") -> Manifest:
        """The manifest or index of a reference, or of a digest in its repository."""

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory, verified."""

    def blob(
        self, reference: images.Reference, digest: str, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, not verified."""

    def distrust(self, reference: images.Reference, digest: str) -> bool:
        """Note that a blob has wrong bytes; whether a host is left that has not given it so."""

    async def gives(self, reference: images.Reference, digest: str) -> bool:
        """Whether the registry would give a blob to this build's credentials, by one HEAD."""

    async def is_public(
        self, reference: images.Reference, blob: oci.Descriptor, *, ask: bool
    ) -> bool:
        """Whether the registry gave a blob without credentials, or does so where it is asked."""


class LayerMismatch(errors.PermanentError):
    """A layer's bytes, or what they unpack to, are not what the image says; also the second time.

    `what` is the thing, `expected` and `actual` are the digests, `blob` is that of the blob.
    """

    def __init__(self, what: str, *, blob: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{what} is damaged at the registry, or on the way: expected {expected}, got {actual}"
        )
        self.what = what
        self.blob = blob
        self.expected = expected
        self.actual = actual


def wrong_blob(reference: images.Reference, expected: str, actual: str) -> LayerMismatch:
    """What is raised for a blob of an artifact that has another digest."""
    what = f"layer {expected} of {reference}"
    return LayerMismatch(what, blob=expected, expected=expected, actual=actual)


class LayerUnusable(errors.PermanentError):
    """A layer has the right bytes, but cannot be unpacked. `what` it is, `fault` says why.

    With whiteouts (`has_whiteouts`) it may yet be one at the bottom of an image.
    """

    def __init__(self, what: str, fault: errors.AgentError, *, has_whiteouts: bool = False) -> None:
        super().__init__(f"{what}: {fault}")
        self.what = what
        self.fault = fault
        self.has_whiteouts = has_whiteouts


class CacheTooLarge(errors.PermanentError):
    """The images are larger than the cache may be. `size` and `capacity` are bytes.

    One that `grows` is an automatic cache: its manifest sets no limit.
    """

    def __init__(self, size: int, capacity: int, *, grows: bool = False) -> None:
        advice = (
            "raise UIMGACC_AUTO_FACTOR or the share of its namespace, UIMGACC_AUTO_SHARE, or create"
            " a cache of these images with an imageCacheSize"
            if grows
            else "raise its size (imageCacheSize), or name fewer images"
        )
        super().__init__(
            f"the images need more in the store than the {units.size(capacity)} that the cache may"
            f" have ({units.size(size)} so far): {advice}"
        )
        self.size = size
        self.capacity = capacity


class Digests(Protocol):
    """What a blob turned out to be."""

    @property
    def blob_digest(self) -> str:
        """Of the bytes that came."""

    @property
    def diff_id(self) -> str:
        """Of the tar that they unpack to."""

    @property
    def fault(self) -> errors.AgentError | None:
        """Why they cannot be unpacked."""


def verify(
    actual: Digests, layer: oci.Layer, reference: images.Reference, *, has_whiteouts: bool = False
) -> None:
    """Raise LayerMismatch or LayerUnusable unless a blob is the layer that its image names."""
    what = f"layer {layer.blob.digest} of {reference}"
    is_artifact = isinstance(layer, artifact_files.Layer)
    if actual.blob_digest != layer.blob.digest and not is_artifact:
        blob = layer.blob.digest
        raise LayerMismatch(what, blob=blob, expected=blob, actual=actual.blob_digest)
    if actual.fault is not None:
        raise LayerUnusable(what, actual.fault, has_whiteouts=has_whiteouts)
    if is_artifact:
        # Its blobs were verified one by one, and its diff ID is the digest of no tar.
        return
    if actual.diff_id != layer.unpacked:
        raise LayerMismatch(
            f"what {what} unpacks to",
            blob=layer.blob.digest,
            expected=layer.unpacked,
            actual=actual.diff_id,
        )


async def public(
    registry: Registry, reference: images.Reference, layer: oci.Layer, *, ask: bool
) -> bool:
    """Whether the registry gives all blobs of a layer to everybody; see Registry.is_public."""
    for blob in layer.blobs:
        if blob.size and not await registry.is_public(reference, blob, ask=ask):
            return False
    return True


class LayerTooLarge(errors.PermanentError):
    """A layer unpacks to more than can fit into the cache. `what` it is, `fault` says how much."""

    def __init__(self, what: str, fault: limits.NoRoom) -> None:
        super().__init__(f"{what}: {fault}: raise its size (imageCacheSize), or name fewer images")
        self.what = what
        self.fault = fault


class Stage(enum.Enum):
    """What is being done with a layer."""

    WAITING = "waiting"
    FETCHING = "fetching"
    CONVERTING = "converting"
    PUBLISHING = "publishing"
    DONE = "done"
    REUSED = "already in the store"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far one layer of an image is: `done` of `total` bytes of its blob."""

    image: str
    digest: str
    stage: Stage
    done: int
    total: int


class Signatures(Protocol):
    """What decides which images may be built (agent.build.signatures.cosign.Verifier)."""

    async def check(self, reference: images.Reference, digest: str) -> None:
        """Raise AgentError for a manifest or index that may not be built, or not yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What to build with: all opened by the role."""

    store: layout.Layout
    registry: Registry
    mkfs: mkfs_erofs.Mkfs
    scratch: scratch_room.Room
    """A local folder; mkfs.erofs keeps the files of a layer there, uncompressed."""
    machine: limits.Machine
    """The memory of the builder, and how many layers are worked on at a time."""
    signatures: Signatures | None = None
    """None: every image may be built."""
    on_progress: Callable[[Progress], None] = lambda _: None
    witness: attestation.Attestation = dataclasses.field(default_factory=attestation.Attestation)
    """What this build vouches for: one for each build."""


class Budget:
    """The bytes of the layer files of one cache, each file counted once, by its name.

    It grows to `factor` times what the images have at the registry, up to `most` bytes.
    """

    def __init__(self, capacity: int, *, factor: float = 0.0, most: int = 0) -> None:
        self._capacity = capacity
        self._factor = factor
        self._most = most
        self._blobs: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    @property
    def capacity(self) -> int:
        """Bytes that the files may have, by what is known of the images so far."""
        grown = int(self._factor * sum(self._blobs.values()))
        return max(self._capacity, min(grown, self._most))

    def expect(self, blobs: Mapping[str, int]) -> None:
        """Take in what an image has at the registry: the sizes of its blobs, by their digests."""
        self._blobs.update(blobs)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    @property
    def left(self) -> int:
        """Bytes that the files to come may have."""
        return max(0, self.capacity - self.size)

    def add(self, name: str, size: int) -> None:
        """Count a file; raise CacheTooLarge."""
        self._sizes[name] = size
        if self.size > self.capacity:
            raise CacheTooLarge(self.size, self.capacity, grows=bool(self._factor))


@dataclasses.dataclass(slots=True)
class Tally:
    """What one image cost."""

    started: float
    fetched: int = 0
