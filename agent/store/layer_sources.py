"""Who may have a stored layer: those whom a registry gave it. Pure; for builder and snapshotter.

A diff ID is no secret: it stands in image configs. So it opens nothing. A layer that is not
public belongs to the repositories among its record's sources. A build for another repository
gets it only after the registry that it reads from has given the layer to the build's
credentials; a pull of an image of another repository does not get it.

A repository or a blob digest is added to a record only after a build has read that blob from
that repository, and has seen that it unpacks to the layer.
"""

import dataclasses
import enum
from collections.abc import Iterable

import msgspec

from agent.model import records

MAX_SOURCES = 1000
"""Of one layer. Where one more is added, the one that was added first goes: its next build reads
the layer from the registry once more."""

MAX_BLOBS = 1000
"""Of one layer, by the same rule. One layer can be compressed to any number of blobs, and a record
that grew with them would be too large for everybody's next build."""

_NAME_LIMIT = 255
"""Characters of a repository with its registry; containerd takes no longer ones."""


class Standing(enum.Enum):
    """What a layer's record says about a repository."""

    PUBLIC = "public"
    """A registry gave the layer without credentials: every repository may have it."""

    SOURCE = "source"
    """The repository's registry gave the layer."""

    UNRECORDED = "unrecorded"
    """The record is of an earlier version. The image records of the repository decide."""

    OTHER = "other"
    """Only other repositories' registries gave the layer."""


class Proof(enum.Enum):
    """What a build must do before it may use a stored layer."""

    NONE = "none"
    HEAD = "head"
    """Ask the registry for the blob's headers, with the credentials of the build."""
    DOWNLOAD = "download"
    """Read the blob, and verify that it unpacks to the layer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What a build has seen: this repository's registry gave this blob, which unpacks to the layer.

    `is_public` says that it gave the blob without credentials.
    """

    repository: str
    blob: str
    is_public: bool


def standing(record: records.LayerRecord, repository: str) -> Standing:
    """What a record says about a repository (`registry/path`, see images.Reference.name)."""
    if record.public:
        return Standing.PUBLIC
    if record.sources is None:
        return Standing.UNRECORDED
    return Standing.SOURCE if repository in record.sources else Standing.OTHER


def is_open_to(
    record: records.LayerRecord,
    repository: str,
    *,
    diff_id: str,
    images: Iterable[records.ImageRecord] = (),
) -> bool:
    """Whether images of a repository may be served a layer without asking a registry.

    `diff_id` is the real one, which a variant's record does not have. `images` are the
    repository's image records. They count only for a record of an earlier version; see `standing`.
    """
    answer = standing(record, repository)
    if answer is Standing.UNRECORDED:
        return has_layer(images, diff_id)
    return answer is not Standing.OTHER


def has_layer(images: Iterable[records.ImageRecord], diff_id: str) -> bool:
    """Whether one of some images has a layer."""
    return any(
        layer.diff_id == diff_id
        for image in images
        for one in image.platforms
        for layer in one.layers
    )


def proof_needed(record: records.LayerRecord, *, is_open: bool, blob: str) -> Proof:
    """What a build must do before it uses a layer whose image names the blob `blob`.

    `is_open` is the answer of `is_open_to` for the repository that the build reads from. A
    registry that has given the layer before is believed to answer honestly for a blob of it. For
    another blob, or another repository, nothing less than the bytes is proof.
    """
    if record.public:
        return Proof.NONE
    return Proof.HEAD if is_open and blob in record.blobs else Proof.DOWNLOAD


def with_origin(record: records.LayerRecord, origin: Origin) -> records.LayerRecord:
    """A layer's record after a build has seen an origin of it; the same one where it knows it.

    A record of an earlier version keeps `sources=None`: the image record that the build
    publishes next counts for its repository as those before do for theirs.
    """
    return _with(record, [origin.repository], [origin.blob], is_public=origin.is_public)


def merged(record: records.LayerRecord, other: records.LayerRecord) -> records.LayerRecord:
    """A layer's record with the origins of another record of the same layer.

    Where one of them is of an earlier version, so is what is known of both.
    """
    return _with(record, other.sources, other.blobs, is_public=other.public)


def with_sources(record: records.LayerRecord, repositories: list[str]) -> records.LayerRecord:
    """A layer's record with more repositories among its sources."""
    return _with(record, repositories, [], is_public=False)


def _with(
    record: records.LayerRecord,
    repositories: list[str] | None,
    blobs: list[str],
    *,
    is_public: bool,
) -> records.LayerRecord:
    sources = None
    if record.sources is not None and repositories is not None:
        sources = record.sources
        added = [name for name in repositories if name not in sources and len(name) <= _NAME_LIMIT]
        sources = [*sources, *dict.fromkeys(added)][-MAX_SOURCES:]
    union = list(dict.fromkeys([*record.blobs, *blobs]))[-MAX_BLOBS:]
    public = record.public or is_public
    if (sources, union, public) == (record.sources, record.blobs, record.public):
        return record
    return msgspec.structs.replace(record, sources=sources, blobs=union, public=public)
