"""The records of the store, format 1: one struct a kind of file.

They are values: written once by a builder, read by all others. Encoding is JSON
with the field names below; decoding is strict (a wrong type, a missing field or
a malformed digest raises RecordError), but ignores fields that it does not know,
so that a later version may add some. Sizes are bytes, times are RFC 3339 UTC
strings, durations seconds.
"""

import base64
import re
import zlib
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from agent import errors

DigestText = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
HashText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0)]
CacheID = Annotated[str, msgspec.Meta(pattern=r"^imc-[a-z0-9][a-z0-9-]{2,58}\Z")]

_CACHE_ID = re.compile(r"imc-[a-z0-9][a-z0-9-]{2,58}")

FORMAT = 1

RecordKind = Literal[
    "blob", "cache", "chain", "generation", "image", "layer", "profile", "retired", "store"
]
"""Which file of the store a record is, as metrics name it."""

SignedKind = Literal["cache", "chain", "image", "layer"]
"""Those that are signed (agent.store.signatures)."""


class RecordError(errors.PermanentError):
    """A record does not have the form that the format prescribes.

    `name` says which file, `reason` what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"damaged record {name}: {reason}")
        self.name = name
        self.reason = reason


class StoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`store.json`: what the folder is. All layers of a store have one compression.

    `cluster` is the UID of the cluster whose controller deletes from it (that of its namespace
    kube-system); "" before any controller has used the store.
    """

    format: int
    id: str
    compression: str = "lz4"
    cluster: str = ""


class Toolchain(msgspec.Struct, frozen=True, kw_only=True):
    """What made a layer file: enough to make the same bytes again."""

    version: str
    options: list[str]


class VerityTree(msgspec.Struct, frozen=True, kw_only=True):
    """The dm-verity hash tree of a layer: SHA-256 over blocks of 4096 bytes, hash type 1.

    `root_hash` vouches for the first `data_blocks` blocks of the layer file, which are all of its
    EROFS image. The tree, beginning with its superblock, has `tree_size` bytes and the digest
    `sha256`. It begins at `offset` in the layer file; where that is 0, as for a layer that was
    published without a tree, it is in a file of its own, `<diff ID>.erofs.verity`.
    """

    root_hash: HashText
    salt: HashText
    data_blocks: Annotated[int, msgspec.Meta(ge=1)]
    offset: Size
    tree_size: Size
    sha256: DigestText


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """By which key a record is signed (agent.store.signatures), and the signature in base64."""

    key: str
    value: str


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/layers/<xx>/<hex>.json`: what a layer file must be.

    `size` and `sha256` are of the .erofs file, `tar_size` of the uncompressed tar
    it was made from, `blobs` the digests of the compressed blobs that a build has unpacked to it.
    `implied` are the directories (percent-encoded) that the tar has things in but does
    not name: they look as below, so an image may use a variant of this layer. In the file
    a long list is `implied_packed` instead: a pull reads the record of each layer. One with
    whiteouts has a variant for the bottom of an image, where there is nothing to hide.

    `verity` is None for a layer of an earlier version, which nodes cannot verify block by block.

    `damaged` says what is wrong with the layer file, "" for nothing that is known. Such a
    layer is not served, and the next build makes it anew; its file stays as it is, for
    nodes may have it mounted, and `replaced_by` is the name of the new one.

    `sources` are the repositories (`registry.example.com/team/app`) whose registry gave this
    layer to a build, the one that was added last at the end; `public` says that a registry gave
    it without credentials. None is of a record of an earlier version: see
    agent.store.layer_sources, which decides who may have a layer.
    """

    diff_id: DigestText
    size: Size
    tar_size: Size
    sha256: DigestText
    blobs: list[DigestText]
    mkfs: Toolchain
    implied: list[str] = []
    implied_packed: str = ""
    damaged: str = ""
    replaced_by: DigestText | None = None
    has_whiteouts: bool = False
    sources: list[str] | None = None
    public: bool = False
    verity: VerityTree | None = None
    signatures: list[Signature] = []


class ChainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/chains/<xx>/<hex>.json`: the layer on top of a chain and the chain below.

    `parent` is None for the bottom layer. `diff_id` names the layer file to mount;
    where that is a variant made for what stands below, `variant_of` is the real diff ID.
    """

    diff_id: DigestText
    parent: DigestText | None
    variant_of: DigestText | None = None
    signatures: list[Signature] = []


class ImageLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of an image, as its manifest and config name it.

    `size` is that of the blob (compressed), `digest` the blob's.
    """

    diff_id: DigestText
    chain_id: DigestText
    digest: DigestText
    media_type: str
    size: Size
    tar_size: Size
    erofs_size: Size


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What an image was made of where containerd would not use what its registry has.

    `manifest` is the digest of the manifest that the registry has, `type` a media type: that of
    an artifact, or of native layers.
    """

    type: str
    manifest: DigestText


class PlatformImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform: `platform` is `linux/amd64`; layers bottom first.

    Where it was made of an `artifact`, `manifest` and `config` were made by the builder: nodes
    know the image by them, and no registry has them.

    `indexes` are those between the image's target and the manifest, where an index names
    an index, the upper one first.
    """

    platform: str
    manifest: DigestText
    manifest_media_type: str
    manifest_size: Size
    config: DigestText
    layers: list[ImageLayer]
    indexes: list[DigestText] = []
    artifact: Artifact | None = None

    @property
    def blobs(self) -> list[str]:
        """The digests of all that was read, or made, of it beside its layers."""
        own = [] if self.artifact is None else [self.artifact.manifest]
        return [*self.indexes, *own, self.manifest, self.config]


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/images/<registry>/<repository>/<tag or digest>.json`.

    `target` is what the reference resolves to at the registry: an index, or a
    manifest when the image has but one platform, or is an artifact. `build_seconds` is
    the wall time that fetching and converting took, `fetched_bytes` what it downloaded
    for that (0 where all layers were there).
    """

    ref: str
    target: DigestText
    target_media_type: str
    target_size: Size
    platforms: list[PlatformImage]
    created: str
    build_seconds: float = 0.0
    fetched_bytes: Size = 0
    signatures: list[Signature] = []


MAX_PLATFORMS = 32
"""Of one image for which there are start profiles."""


class PlatformProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How one platform's image starts: `profile` is text of agent.model.starts.profile_codec.

    `manifest` is the one whose start was observed. After a new build of a tag it is another
    than the image record's: what it says of layers that both have is still of use.
    """

    platform: str
    manifest: DigestText
    profile: str


class ProfileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/profiles/<registry>/<repository>/<tag or digest>.json`: start profiles of an image.

    It is not signed: a profile is advice. It goes when the image's record has gone.
    """

    ref: str
    profiles: Annotated[list[PlatformProfile], msgspec.Meta(max_length=MAX_PLATFORMS)]


class CachedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a cache: the reference as asked for (normalised) and its target digest.

    `layers` are the diff IDs of all its platforms' layers, so that what a cache
    holds is known without reading its images, and `bottoms` those that are lowest (none where an
    earlier version wrote the record). `size` is compressed bytes.
    """

    ref: str
    target: DigestText
    size: Size
    layers: list[DigestText]
    bottoms: list[DigestText] = []


class MovedTag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of a cache for which the registry has another image by now.

    `ref` is the image's in the cache, `target` what the registry has. The times are for people:
    when that was `noticed`, and when the registry last `confirmed` the cached one ("": never
    since it was built). `policy` is a caches.ServeStale. Of a `withheld` one nothing is made
    ready before the kubelet asks: the registry says what the tag is.
    """

    ref: str
    target: str
    noticed: str
    confirmed: str = ""
    policy: str = ""
    withheld: bool = False


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/caches/<imc-id>.json`: exists exactly while the cache is Ready.

    `namespaces` is None for a public cache; one built with pull secrets serves
    only the namespaces in the list. `size` is the bytes of its layer files,
    `capacity` the imageCacheSize it was built under.

    The controller writes what users may change without a build: with `keep_warm`, nodes that
    have all labels of `node_selector` make the images present before any pod; `local` is a
    caches.LocalMode, "" where nodes decide; `moved` are tags that stand for other images by now.
    Signatures do not cover these four: they say when a node reads what it may read anyway, and
    nodes bound how much.
    """

    id: CacheID
    name: str
    images: list[CachedImage]
    size: Size
    capacity: Size
    created: str
    build_seconds: float = 0.0
    namespaces: list[str] | None = None
    retention_days: int | None = None
    keep_warm: bool = False
    node_selector: dict[str, str] = {}
    local: str = ""
    moved: list[MovedTag] = []
    signatures: list[Signature] = []


class TagsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/tags.json`: when all tags of a cache were last found to be as it has them, by its ID.

    The controller replaces it now and then, for people. Nodes do not read it, and nothing is
    decided by it.
    """

    confirmed: dict[str, str] = {}


class GenerationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/generation.json`: the newest generation of deletions; the first one is 1.

    `spread` is the seconds within which nodes, each at a moment of its own, look what they hold of
    it: each writes its Node object then, which goes to everything that watches nodes.
    """

    generation: Size
    spread: float = 0.0


MAX_RETIRED_LAYERS = 5000
"""Of one generation. Its record stays small; who retires more makes several generations."""


class RetiredLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer file that is to go, and the chain IDs that named it."""

    diff_id: DigestText
    chains: list[DigestText]


class RetiredRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/retired/<generation>.json`: what one generation takes out of the store.

    When it is published, the caches, images and chains that named its layers are gone
    from the store already. It goes after the last of its files. `caches` are the IDs
    of the caches whose end retired the layers. `images` (references) and `blobs` went
    together with the chains. `earlier` are generations that had some of its layers first.
    """

    generation: Annotated[int, msgspec.Meta(ge=1)]
    layers: Annotated[list[RetiredLayer], msgspec.Meta(max_length=MAX_RETIRED_LAYERS)]
    caches: list[CacheID] = []
    created: str = ""
    images: Annotated[list[str], msgspec.Meta(max_length=MAX_RETIRED_LAYERS)] = []
    blobs: Annotated[list[DigestText], msgspec.Meta(max_length=MAX_RETIRED_LAYERS)] = []
    earlier: list[Size] = []


class ClaimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/claims/<id>.json`: what a build that runs counts on.

    `names` are digests of any kind: diff IDs, chain IDs, blobs. The file's mtime is the
    build's last sign of life. `finished`: its caches name what it wanted by now.
    """

    id: str
    names: list[DigestText] = []
    images: list[str] = []
    finished: bool = False


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster: the generation it acknowledged, and when it last said so.

    `seen`, and `absent`, since when it is not in the cluster, are in seconds since 1970.
    """

    acknowledged: Size
    seen: float
    absent: float | None = None


class NodesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`meta/nodes.json`: the nodes that the collector waits for, also those that it
    does not see at the moment.
    """

    nodes: dict[str, KnownNode]


Record = TypeVar(
    "Record",
    StoreRecord,
    LayerRecord,
    ChainRecord,
    ImageRecord,
    ProfileRecord,
    CacheRecord,
    TagsRecord,
    GenerationRecord,
    RetiredRecord,
    ClaimRecord,
    NodesRecord,
)


# Made here, in the one thread that imports: msgspec describes a type when it is first used, and
# several threads that do so at the same time end the process (SIGSEGV).
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in Record.__constraints__
}


_NAMES = msgspec.json.Decoder(list[str])

_PACKED_FROM = 32 << 10
"""Bytes; a list of directories that is longer is packed."""

_UNPACKED_LIMIT = 64 << 20
_MOST_NAMES = 700_000
"""Each takes 50 bytes beside its own, and a snapshotter has 256 MiB; see agent.build.limits."""


def encode(record: msgspec.Struct) -> bytes:
    """The bytes of a record's file: JSON, indented, with a newline at the end."""
    if isinstance(record, LayerRecord) and sum(map(len, record.implied)) > _PACKED_FROM:
        names = msgspec.json.encode(record.implied)
        packed = base64.b64encode(zlib.compress(names, 9)).decode()
        record = msgspec.structs.replace(record, implied=[], implied_packed=packed)
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(data: bytes, kind: type[Record], name: str) -> Record:
    """Read a record of the given kind; `name` is for the message of RecordError."""
    try:
        record: Record = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(name, str(error)) from error
    return record


def with_names(record: LayerRecord, name: str) -> LayerRecord:
    """The record of a layer as it was before `encode` packed it; raise RecordError."""
    if not record.implied_packed:
        return record
    names = _unpacked(record.implied_packed, name)
    return msgspec.structs.replace(record, implied=names, implied_packed="")


def _unpacked(packed: str, name: str) -> list[str]:
    try:
        unpacker = zlib.decompressobj()
        names = unpacker.decompress(base64.b64decode(packed, validate=True), _UNPACKED_LIMIT)
        if not unpacker.eof:
            raise RecordError(name, "implied_packed is cut off or too long")
        if names.count(b'"') > 2 * _MOST_NAMES:
            raise RecordError(name, "implied_packed has too many names")
        return _NAMES.decode(names)
    except (ValueError, zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise RecordError(name, f"implied_packed: {error}") from error


def is_cache_id(text: str) -> bool:
    """Whether a string has the form of a cache ID (`imc-...`)."""
    return _CACHE_ID.fullmatch(text) is not None
