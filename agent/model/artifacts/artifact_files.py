"""The files of an artifact, as its manifest names them; pure.

Two ways of packing are known. ModelPack (the CNCF's model-spec) has a path, and the attributes of
the file, in annotations of each layer, which is the file itself or a tar. ORAS has a name in the
annotation for a title; a folder is a compressed tar, which another annotation marks. Whatever has
such annotations is built, models of other tools, too.

Sources: modelpack/model-spec (docs/spec.md, docs/annotations.md) and what modctl makes of it;
oras-project/oras-go (content/file); OCI image-spec v1.1, "Guidelines for Artifact Usage".
"""

import dataclasses
import datetime
from collections.abc import Mapping
from urllib import parse as urls

import msgspec

from agent.model import digests, oci, times
from agent.model.artifacts import file_tree

MAX_FILES = 5000
"""Layers of an artifact: each is a request to its registry."""

TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath", TITLE)
_METADATA = ("org.cncf.model.file.metadata+json", "org.cnai.model.file.metadata+json")
_MODEL = ("application/vnd.cncf.model.", "application/vnd.cnai.model.")

_OTHERS = {
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.dev.cosign.": "a signature",
    "application/vnd.dev.sigstore.": "a signature",
    "application/vnd.cncf.notary.": "a signature",
    "application/vnd.in-toto": "an attestation",
    "application/vnd.dsse.": "an attestation",
    "application/spdx": "an SBOM",
    "text/spdx": "an SBOM",
    "application/vnd.cyclonedx": "an SBOM",
    "application/vnd.syft": "an SBOM",
    "application/vnd.docker.plugin.": "a plugin of Docker",
}
"""Artifacts that are no files for a container, by how their media types begin."""

_MODES, _DEFAULT_MODE = 0o777, 0o644
_MOST = (1 << 32) - 2
"""The last number that an owner may have; the next one means that it stays as it is."""

_REGULAR = (0, ord("0"))


class _Metadata(msgspec.Struct):
    """What ModelPack says of a file (docs/annotations.md); the size is that of the layer."""

    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: str = ""
    typeflag: int = 0


# Made here, not at first use: msgspec builds type information lazily, which threads must not do.
_METADATA_OF = msgspec.json.Decoder(_Metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One layer of an artifact: a file at `path`, or a tar of several.

    Entries of a tar have their paths from the root of the artifact, and are below `within`.
    Mode, owner and time are of a file that is no tar.
    """

    blob: oci.Descriptor
    path: bytes
    is_tar: bool = False
    is_compressed: bool = False
    within: bytes = b""
    mode: int = _DEFAULT_MODE
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_ns: int = 0

    def line(self) -> str:
        """All of it that decides what the files in the image are."""
        path = urls.quote_from_bytes(self.path) or "."
        blob = f"{path} {self.blob.digest} {self.blob.size}"
        if self.is_tar:
            packed = "packed" if self.is_compressed else "plain"
            return f"tar {blob} {packed} {urls.quote_from_bytes(self.within) or '.'}"
        time = f"{self.mtime}.{self.mtime_ns:09}"
        return f"file {blob} {self.mode:o} {self.uid}:{self.gid} {time}"


@dataclasses.dataclass(frozen=True, slots=True)
class Layer(oci.Layer):
    """The one layer that an artifact becomes. Its `blob` stands for all of those of its files.

    No registry has that blob: its digest is the layer's diff ID, its size that of the files.
    """

    files: tuple[File, ...]

    @property
    def blobs(self) -> tuple[oci.Descriptor, ...]:
        """What is to be fetched, in this order."""
        return tuple(file.blob for file in self.files)


def layer_of(manifest: oci.Manifest) -> Layer:
    """The layer that an artifact becomes; raise UnsupportedImage where it becomes none.

    Its diff ID is a hash of a text that names its files, so the same files make the same layer,
    and it can be looked for before they are fetched.
    """
    files = _files(manifest)
    text = "\n".join(["uimgacc artifact 1", *(file.line() for file in files)])
    if len(text) % 512 == 0:
        # A text that is pushed as a layer has this diff ID. By its length it is never a tar's.
        text += "\n"
    diff_id = digests.DiffID(digests.sha256(text.encode()))
    size = sum(file.blob.size for file in files)
    blob = oci.Descriptor(digest=diff_id, size=size, media_type=oci.PLAIN_LAYER)
    return Layer(diff_id, digests.chain_ids([diff_id])[0], blob, files)


def _files(manifest: oci.Manifest) -> tuple[File, ...]:
    kind = manifest.artifact_type
    for media_type in (kind, manifest.config.media_type, *_layer_types(manifest)):
        for prefix, what in _OTHERS.items():
            if media_type.casefold().startswith(prefix):
                raise oci.UnsupportedImage(
                    f"it is {what} ({_shown(media_type)}), which no container can use as a volume"
                )
    if manifest.has_subject and not kind.startswith(_MODEL):
        raise oci.UnsupportedImage(
            f"it is an artifact of type {_shown(kind)} that says something about another image"
            " (its manifest has a subject)"
        )
    if not manifest.layers or _layer_types(manifest) == [oci.EMPTY]:
        raise oci.UnsupportedImage(f"it is an artifact of type {_shown(kind)} without files")
    if len(manifest.layers) > MAX_FILES:
        raise oci.UnsupportedImage(
            f"it is an artifact of {len(manifest.layers)} layers, and no more than {MAX_FILES} are"
            " fetched for one"
        )
    tree = file_tree.Tree()
    try:
        files = tuple(_file(blob, kind) for blob in manifest.layers)
        for file in files:
            if not file.is_tar:
                tree.add_file(file.path)
    except file_tree.UnsafePath as error:
        raise oci.UnsupportedImage(str(error)) from error
    return files


def _layer_types(manifest: oci.Manifest) -> list[str]:
    return [blob.media_type for blob in manifest.layers]


def _file(blob: oci.Descriptor, kind: str) -> File:
    notes = blob.annotations
    name = _first(notes, _PATHS)
    if not name:
        raise oci.UnsupportedImage(
            f"it is an artifact of type {_shown(kind)} with a layer of type"
            f" {_shown(blob.media_type)} that names no file: neither {_PATHS[0]} nor {TITLE}"
        )
    try:
        path = file_tree.cleaned(name.encode())
    except UnicodeEncodeError as error:
        raise oci.UnsupportedImage(f"its file {name[:80]!r} has a name that is no text") from error
    if blob.media_type.startswith(_MODEL):
        base, _, suffix = blob.media_type.partition("+")
        if base.endswith(".tar") and suffix in ("", "gzip", "zstd"):
            return File(blob=blob, path=path, is_tar=True, is_compressed=bool(suffix))
        if suffix:
            raise oci.UnsupportedImage(f"it has a layer of type {_shown(blob.media_type)}")
    elif notes.get(UNPACK) == "true":
        return File(blob=blob, path=path, is_tar=True, is_compressed=True, within=path)
    if not path:
        raise oci.UnsupportedImage(f"its file {name[:80]!r} has no name")
    return _with_metadata(File(blob=blob, path=path), _first(notes, _METADATA))


def _with_metadata(file: File, text: str) -> File:
    if not text:
        return file
    where = file_tree.show(file.path)
    try:
        said = _METADATA_OF.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise oci.UnsupportedImage(f"the attributes of its file {where!r}: {error}") from error
    if said.typeflag not in _REGULAR:
        raise oci.UnsupportedImage(f"its file {where!r} is said to be of type {said.typeflag}")
    if not 0 <= said.uid <= _MOST or not 0 <= said.gid <= _MOST:
        raise oci.UnsupportedImage(f"its file {where!r} has an owner that no file may have")
    seconds, nanoseconds = _time(said.mtime)
    return dataclasses.replace(
        file,
        mode=said.mode & _MODES or _DEFAULT_MODE,
        uid=said.uid,
        gid=said.gid,
        mtime=seconds,
        mtime_ns=nanoseconds,
    )


def _time(text: str) -> tuple[int, int]:
    """Seconds and nanoseconds since 1970 of a time in RFC 3339; 0 where it is none, or before."""
    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    moment = times.parse(whole + rest[len(digits) :])
    if moment is None or moment < datetime.datetime.fromtimestamp(0, datetime.UTC):
        return 0, 0
    return int(moment.timestamp()), int(digits[:9].ljust(9, "0")) if dot and digits else 0


def _first(annotations: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((annotations[name] for name in names if annotations.get(name)), "")


def _shown(media_type: str) -> str:
    return repr(media_type[:100])
