"""Manifests, indexes and configs of images, as OCI and Docker define them; pure.

Read as containerd reads them, so that an image that it pulls is one here, too. It is written in
Go, whose JSON ignores the case of member names and takes null for absent. An index may name
another index, and a manifest without a platform, whose config then decides.

Sources: OCI image-spec v1.1; containerd core/images/{image,handlers,mediatypes}.go and
containerd/platforms.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import msgspec

from agent import errors
from agent.model import digests, images

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_TYPES = frozenset(
    {
        IMAGE_MANIFEST,
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_IMAGE_CONFIGS = frozenset(
    {
        "",
        IMAGE_CONFIG,
        "application/vnd.docker.container.image.v1+json",
        "application/json",
        "application/octet-stream",
    }
)
"""Types of the config of what may be an image: some tools say no more than what it looks like."""

EMPTY = "application/vnd.oci.empty.v1+json"
"""What stands in an artifact for a config, or for a layer, that it does not have."""

PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
NATIVE_LAYER = "application/vnd.erofs.layer.v1"
"""An EROFS image in place of a tar (containerd core/images/mediatypes.go, plugins/diff/erofs). Its
diff ID is its own digest; with `+zstd` that of what it decompresses to."""

_NATIVE_FEATURE = "erofs"
"""By which the entries of an index say that a manifest has such layers."""

_REPLACED = ("os.features", "rootfs")
ACCEPT = ", ".join([*sorted(INDEX_TYPES), *sorted(MANIFEST_TYPES), "*/*;q=0.1"])
"""The header by which a registry knows what is understood here."""

MAX_INDEXES = 4
"""Indexes within indexes are followed this far."""

MAX_LAYERS = 500
"""Layers of an image; overlayfs mounts no more."""

MAX_VALUES = 500_000
"""Values in a manifest, index or config: each takes a hundred times its bytes in memory."""

_SHOWN = 20

_PLAIN_LAYERS = (
    PLAIN_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
)
_DOCKER_LAYERS = ("application/vnd.docker.image.rootfs.diff.tar",)
_FOREIGN_LAYERS = ("application/vnd.docker.image.rootfs.foreign.diff.tar",)
_COMPRESSED_LAYERS = (
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
)

# Made here, not at first use: msgspec builds type information lazily, which threads must not do.
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str])
_NUMBER = msgspec.json.Decoder(int)
_NOTES = msgspec.json.Decoder(dict[str, str | None])

_Members = Mapping[str, msgspec.Raw]


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
        there = ", ".join(sorted({each[:40] for each in available})[:_SHOWN]) or "nothing"
        super().__init__(f"{reference} has no image for {wanted}; there is: {there}")
        self.wanted = wanted
        self.available = tuple(available)


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says about a blob, or an index about a manifest."""

    digest: str
    size: int
    media_type: str = ""
    platform: images.Platform | None = None
    urls: Sequence[str] = ()
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Of an artifact's layers alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, by platform."""

    manifests: Sequence[Descriptor]
    media_type: str


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its config and its layers, bottom first.

    What is another artifact has an `artifact_type`. `has_subject` says that an artifact is about
    another manifest, as signatures are.
    """

    config: Descriptor
    layers: Sequence[Descriptor]
    media_type: str
    artifact_type: str = ""
    has_subject: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What of an image's config matters here; an unknown architecture is ""."""

    platform: images.Platform
    diff_ids: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: its identity, what stands below, and the blob to fetch."""

    diff_id: digests.DiffID
    chain_id: digests.ChainID
    blob: Descriptor
    content: str = dataclasses.field(default="", kw_only=True)
    """The digest of what its blob unpacks to, where that is not its diff ID."""

    @property
    def unpacked(self) -> str:
        """The digest of what its blob unpacks to."""
        return self.content or self.diff_id

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """What is to be fetched for it, in this order."""
        return (self.blob,)


def parse(data: bytes, media_type: str) -> Index | Manifest:
    """Read what a registry served for a tag or digest; raise UnsupportedImage."""
    _require_few_values(data)
    try:
        members = _members(data)
        kind = _text(members, "mediatype") or media_type
        has_manifests, has_layers = "manifests" in members, "layers" in members
        if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and has_manifests):
            if has_layers or "config" in members:
                raise UnsupportedImage("its index has layers of its own, as a manifest has")
            return Index(_descriptors(members, "manifests"), kind)
        if kind in MANIFEST_TYPES or has_layers:
            if has_manifests:
                raise UnsupportedImage("its manifest names manifests, as an index does")
            return _manifest(members, kind)
        schema = _number(members, "schemaversion")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedImage(f"its manifest is damaged ({error})") from error
    if schema == 1:
        raise UnsupportedImage("it has the old manifest schema 1; push it again with a new docker")
    raise UnsupportedImage(f"unknown manifest type {kind[:80] or 'without a media type'}")


def _manifest(members: _Members, kind: str) -> Manifest:
    config = _descriptor(members.get("config", msgspec.Raw(b"{}")))
    if config.media_type.casefold() in _IMAGE_CONFIGS:
        return Manifest(config, _descriptors(members, "layers"), kind)
    return Manifest(
        config,
        tuple(_noted(entry) for entry in _list(members, "layers")),
        kind,
        artifact_type=_text(members, "artifacttype") or config.media_type,
        has_subject="subject" in members,
    )


def parse_config(data: bytes) -> Config:
    """Read an image's config; raise UnsupportedImage."""
    _require_few_values(data)
    try:
        members = _members(data)
        rootfs = _members(members.get("rootfs", msgspec.Raw(b"{}")))
        diff_ids = _TEXTS.decode(rootfs["diff_ids"]) if "diff_ids" in rootfs else []
        return Config(_platform(members), tuple(diff_ids))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedImage(f"its config is damaged ({error})") from error


def choose(index: Index, wanted: images.Platform, *, reference: str) -> Descriptor:
    """The entry of an index that containerd takes for a platform; raise WrongPlatform.

    The nearest platform is best, the first of equals, then one of native layers, which containerd
    takes with its EROFS snapshotter. An entry without a platform is the last resort, and what it
    leads to may yet be for another one (see `fits`).
    """
    order = images.compatible(wanted)
    order += [_with_features(platform, [_NATIVE_FEATURE]) for platform in order]
    ranked = [
        (order.index(entry.platform) if entry.platform else len(order), entry)
        for entry in index.manifests
        if entry.platform is None or entry.platform in order
    ]
    if not ranked:
        platforms = [entry.platform for entry in index.manifests if entry.platform]
        available = [str(platform) for platform in platforms if platform.os != "unknown"]
        raise WrongPlatform(reference, str(wanted), available)
    return min(ranked, key=lambda pair: pair[0])[1]


def config_of_plain(config: bytes, diff_ids: Sequence[str]) -> bytes:
    """A config with other layers, and without the features of its system.

    By these containerd chooses a snapshotter.
    """
    try:
        members = _OBJECT.decode(config) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnsupportedImage(f"its config is damaged ({error})") from error
    kept = {name: raw for name, raw in members.items() if name.casefold() not in _REPLACED}
    rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
    return msgspec.json.encode({**kept, "rootfs": rootfs})


def fits(config: Config, wanted: images.Platform) -> bool:
    """Whether an image whose config says this runs where another platform is wanted."""
    platform = config.platform
    return not platform.architecture or any(
        (platform.os, platform.architecture) == (one.os, one.architecture)
        for one in images.compatible(wanted)
    )


def layers(manifest: Manifest, config: Config) -> list[Layer]:
    """The layers of an image, bottom first; raise UnsupportedImage."""
    diff_ids = config.diff_ids
    for diff_id in diff_ids:
        if not digests.is_digest(diff_id):
            raise UnsupportedImage(f"its config names a layer {diff_id[:80]!r}")
    if len(manifest.layers) > MAX_LAYERS:
        raise UnsupportedImage(
            f"it has {len(manifest.layers)} layers, and no more than {MAX_LAYERS} can be mounted"
        )
    for blob in manifest.layers:
        is_compressed(blob.media_type)
    if len(diff_ids) != len(manifest.layers):
        raise UnsupportedImage(
            f"its manifest has {len(manifest.layers)} layers, its config {len(diff_ids)}:"
            " is it an image at all?"
        )
    names = [
        native_id(diff_id) if is_native(blob.media_type) else digests.DiffID(diff_id)
        for diff_id, blob in zip(diff_ids, manifest.layers, strict=True)
    ]
    return [
        Layer(name, chain_id, blob, content=diff_id)
        for name, chain_id, blob, diff_id in zip(
            names, digests.chain_ids(names), manifest.layers, diff_ids, strict=True
        )
    ]


def is_compressed(media_type: str) -> bool:
    """Whether containerd decompresses a layer of this type; raise UnsupportedImage for no layer.

    It then looks at the first bytes for how. Where it does not, a compressed blob is no tar.
    """
    base, *suffixes = media_type.split("+")
    if base == NATIVE_LAYER and suffixes in ([], ["zstd"]):
        return bool(suffixes)
    if base not in _PLAIN_LAYERS + _DOCKER_LAYERS + _FOREIGN_LAYERS + _COMPRESSED_LAYERS or (
        "encrypted" in suffixes
    ):
        raise UnsupportedImage(f"it has a layer of type {media_type[:80]!r}")
    if base in _PLAIN_LAYERS:
        return bool(suffixes) and max(suffixes) in ("gzip", "zstd")
    return not suffixes


def is_native(media_type: str) -> bool:
    """Whether a layer is an EROFS image as it is."""
    return media_type.partition("+")[0] == NATIVE_LAYER


def native_id(digest: str) -> digests.DiffID:
    """The diff ID that a native layer has in the store and on nodes, by the digest of its image.

    The same bytes are a tar as well: an EROFS image begins with zeros, which end a tar, or with
    what its author likes. As a layer of type tar they have other files, so not the same diff ID.
    The text that this is a hash of has the length of no tar.
    """
    return digests.DiffID(digests.sha256(f"uimgacc native 1\n{digest}".encode()))


def _require_few_values(data: bytes) -> None:
    # Those in texts are counted as well; a text of so many is none of an image.
    if data.count(b",") + data.count(b":") > MAX_VALUES:
        raise UnsupportedImage(f"a document of it has more than {MAX_VALUES:,} values")


def _members(data: bytes | msgspec.Raw) -> _Members:
    """The members of an object, by their names in lower case; without those that are null."""
    members = _OBJECT.decode(data) or {}
    return {name.casefold(): raw for name, raw in members.items() if bytes(raw).strip() != b"null"}


def _text(members: _Members, name: str) -> str:
    return _TEXT.decode(members[name]) if name in members else ""


def _number(members: _Members, name: str) -> int:
    return _NUMBER.decode(members[name]) if name in members else 0


def _list(members: _Members, name: str) -> list[msgspec.Raw]:
    return _LIST.decode(members[name]) if name in members else []


def _descriptors(members: _Members, name: str) -> tuple[Descriptor, ...]:
    return tuple(_descriptor(entry) for entry in _list(members, name))


def _noted(data: msgspec.Raw) -> Descriptor:
    """The descriptor of an artifact's layer, with its annotations; a file may be empty."""
    members = _members(data)
    notes = _NOTES.decode(members["annotations"]) if "annotations" in members else {}
    texts = {key: value for key, value in notes.items() if value is not None}
    return dataclasses.replace(_descriptor(data, least=0), annotations=texts)


def _descriptor(data: msgspec.Raw, *, least: int = 1) -> Descriptor:
    members = _members(data)
    descriptor = Descriptor(
        digest=_text(members, "digest"),
        size=_number(members, "size"),
        media_type=_text(members, "mediatype"),
        platform=_entry_platform(_members(members["platform"])) if "platform" in members else None,
        urls=tuple(_TEXTS.decode(members["urls"])) if "urls" in members else (),
    )
    if not digests.is_digest(descriptor.digest):
        raise UnsupportedImage(f"its manifest names {descriptor.digest[:80]!r}")
    if descriptor.size < least:
        # containerd fetches nothing that is said to be empty.
        raise UnsupportedImage(f"{descriptor.digest} has a size of {descriptor.size} bytes")
    return descriptor


def _entry_platform(members: _Members) -> images.Platform:
    """The platform of an index's entry; one with a version or features of its system is another."""
    platform = _platform(members)
    features = _TEXTS.decode(members["os.features"]) if "os.features" in members else []
    return _with_features(platform, features, version=_text(members, "os.version"))


def _with_features(
    platform: images.Platform, features: Sequence[str], version: str = ""
) -> images.Platform:
    details = "+".join([version, *sorted(features)])
    return dataclasses.replace(platform, os=f"{platform.os}({details})") if details else platform


def _platform(members: _Members) -> images.Platform:
    return images.normalised(
        _text(members, "os"), _text(members, "architecture"), _text(members, "variant")
    )
