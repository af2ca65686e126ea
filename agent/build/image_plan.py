"""What an image consists of and what of it must be built: pure functions.

Reads what a registry served (OCI and Docker v2 schema 2, manifests and indexes)
and says in words what it cannot use.
"""

import dataclasses
from collections.abc import Sequence

import msgspec

from agent import errors
from agent.model import digests, images

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYERS = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)


class UnsupportedImage(errors.PermanentError):
    """What the registry serves is nothing that can be cached. `what` it is."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this image cannot be cached: {what}")
        self.what = what


class WrongPlatform(errors.PermanentError):
    """An image has nothing for the wanted platform.

    `wanted` is the platform, `available` what there is instead.
    """

    def __init__(self, reference: str, wanted: str, available: Sequence[str]) -> None:
        there = ", ".join(sorted(set(available))) or "nothing"
        super().__init__(f"{reference} has no image for {wanted}; there is: {there}")
        self.wanted = wanted
        self.available = tuple(available)


class RawPlatform(msgspec.Struct, frozen=True):
    """A platform as an index or a config has it."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def value(self) -> images.Platform:
        """The normalised platform."""
        variant = self.variant
        if (self.architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
            variant = ""
        return images.Platform(self.os, self.architecture, variant)


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """What a manifest says about a blob, or an index about a manifest."""

    digest: str
    size: int
    media_type: str = ""
    platform: RawPlatform | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """Several manifests, by platform."""

    manifests: list[Descriptor]
    media_type: str = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: its config and its layers, bottom first."""

    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""


class _RootFS(msgspec.Struct, frozen=True):
    diff_ids: list[str] = []


class Config(msgspec.Struct, frozen=True):
    """What of an image's config matters here."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    rootfs: _RootFS = _RootFS()

    @property
    def platform(self) -> images.Platform:
        """The platform that the image is for."""
        return RawPlatform(self.os, self.architecture, self.variant).value()


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw = msgspec.Raw(b"")
    layers: msgspec.Raw = msgspec.Raw(b"")


# Made in the one thread that imports; see agent.model.records.
_PROBE, _INDEX, _MANIFEST, _CONFIG = (
    msgspec.json.Decoder(_Probe),
    msgspec.json.Decoder(Index),
    msgspec.json.Decoder(Manifest),
    msgspec.json.Decoder(Config),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One layer as planned: its identity, what stands below, and the blob to fetch."""

    diff_id: digests.DiffID
    chain_id: digests.ChainID
    blob: Descriptor


def parse(data: bytes, media_type: str) -> Index | Manifest:
    """Read what a registry served for a tag or digest; raise UnsupportedImage."""
    try:
        probe = _PROBE.decode(data)
        kind = probe.media_type or media_type
        if kind in _INDEXES or (kind not in _MANIFESTS and probe.manifests):
            index = _INDEX.decode(data)
            _require_digests(index.manifests)
            return index
        if kind in _MANIFESTS or probe.layers:
            manifest = _MANIFEST.decode(data)
            _require_digests([manifest.config, *manifest.layers])
            return manifest
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedImage(f"its manifest is damaged ({error})") from error
    if probe.schema_version == 1:
        raise UnsupportedImage("it has the old manifest schema 1; push it again with a new docker")
    raise UnsupportedImage(f"unknown manifest type {kind or 'without a media type'}")


def parse_config(data: bytes) -> Config:
    """Read an image's config; raise UnsupportedImage."""
    try:
        return _CONFIG.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedImage(f"its config is damaged ({error})") from error


def choose(index: Index, wanted: images.Platform, *, reference: str) -> Descriptor:
    """The manifest of an index for a platform; raise WrongPlatform.

    The same variant is best, then one without, then (none being asked for) the first.
    """
    there = [
        (descriptor.platform.value(), descriptor)
        for descriptor in index.manifests
        if descriptor.platform is not None
    ]
    fitting = [
        (_distance(platform, wanted), descriptor)
        for platform, descriptor in there
        if fits(platform, wanted)
    ]
    if not fitting:
        available = [str(platform) for platform, _ in there if platform.os != "unknown"]
        raise WrongPlatform(reference, str(wanted), available)
    return min(fitting, key=lambda pair: pair[0])[1]


def fits(platform: images.Platform, wanted: images.Platform) -> bool:
    """Whether an image for one platform runs where another is wanted."""
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture) and (
        not wanted.variant or platform.variant in ("", wanted.variant)
    )


def layers(manifest: Manifest, config: Config) -> list[Layer]:
    """The layers of an image, bottom first; raise UnsupportedImage."""
    diff_ids = config.rootfs.diff_ids
    for diff_id in diff_ids:
        if not digests.is_digest(diff_id):
            raise UnsupportedImage(f"its config names a layer {diff_id[:80]!r}")
    if len(diff_ids) != len(manifest.layers):
        raise UnsupportedImage(
            f"its manifest has {len(manifest.layers)} layers, its config {len(diff_ids)}:"
            " is it an image at all (and not, say, a Helm chart)?"
        )
    for blob in manifest.layers:
        if not blob.media_type.startswith(_LAYERS) or "encrypted" in blob.media_type:
            raise UnsupportedImage(f"it has a layer of type {blob.media_type!r}")
    return [
        Layer(digests.DiffID(diff_id), chain_id, blob)
        for diff_id, chain_id, blob in zip(
            diff_ids, digests.chain_ids(diff_ids), manifest.layers, strict=True
        )
    ]


def _distance(platform: images.Platform, wanted: images.Platform) -> int:
    if platform.variant == wanted.variant:
        return 0
    return 1 if not platform.variant else 2


def _require_digests(descriptors: Sequence[Descriptor]) -> None:
    for descriptor in descriptors:
        if not digests.is_digest(descriptor.digest) or descriptor.size < 0:
            raise UnsupportedImage(f"its manifest names {descriptor.digest[:80]!r}")
