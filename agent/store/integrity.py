"""Is everything in the store what its record says? Reads every byte, changes nothing.

Findings are yielded as they are made, so a person sees the first at once.
"""

import dataclasses
import enum
import functools
import hashlib
import pathlib
import struct
from collections.abc import Callable, Iterator

from agent.model import digests, images, records
from agent.store import decoding, layout
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import build_claims

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""

_CHUNK = 4 << 20
_SUPERBLOCK = 1024
_MAGIC = 0xE0F5E1E2


class Kind(enum.Enum):
    """What is wrong with a thing."""

    DAMAGED = "damaged"
    MISSING = "missing"
    ORPHANED = "orphaned"
    LEFTOVER = "leftover"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, why, and what to do about it."""

    kind: Kind
    path: pathlib.Path
    reason: str
    fix: str


_REBUILD = "create the caches that use it again: a build makes what is missing or damaged anew"
_PRUNE = "harmless; the controller frees the space, or `uimgacc store prune` without a cluster"
_STANDS = (
    "nothing is deleted from the store until this file is gone: move it away once no build runs"
    " (a claim), or restore it (anything else)"
)


def check(
    place: layout.Layout, *, content: bool = True, progress: Progress | None = None
) -> Iterator[Finding]:
    """Verify a store; `content=False` leaves out the reading of the layer files.

    Raises NotAStore and UnknownFormat.
    """
    direct_reader.open_store(place.root)
    yield from _check_layers(place, content=content, progress=progress or (lambda *_: None))
    found: list[Finding] = []
    reader = direct_reader.Reader(
        place,
        on_damage=lambda name, reason: found.append(
            Finding(Kind.DAMAGED, pathlib.Path(name), reason, _REBUILD)
        ),
    )
    for step in (_check_chains, _check_blobs, _check_images, _check_caches):
        yield from step(place, reader)
        yield from found
        found.clear()
    yield from _check_deletions(place)
    yield from _check_tmp(place)


def _check_layers(place: layout.Layout, *, content: bool, progress: Progress) -> Iterator[Finding]:
    layer_files = sorted(place.layer_files.glob("*/*"))
    total = sum(path.stat().st_size for path in layer_files) if content else 0
    done = 0
    for path in layer_files:
        size = path.stat().st_size
        if path != _own_place(place, path):
            yield Finding(Kind.ORPHANED, path, "not the name of a layer file", "remove it by hand")
        else:
            yield from _check_layer(place, path, content=content)
        done += size
        progress(done, total)
    for path in sorted((place.root / "meta" / "layers").glob("*/*.json")):
        if not place.layer(f"sha256:{path.stem}").exists():
            reason = "the record is there, the layer file is not"
            yield Finding(Kind.MISSING, place.layer(f"sha256:{path.stem}"), reason, _REBUILD)


def _own_place(place: layout.Layout, path: pathlib.Path) -> pathlib.Path | None:
    try:
        return place.layer(f"sha256:{path.stem}")
    except digests.DigestError:
        return None


def _check_layer(place: layout.Layout, path: pathlib.Path, *, content: bool) -> Iterator[Finding]:
    diff_id = f"sha256:{path.stem}"
    record_path = place.layer_record(diff_id)
    try:
        record = decoding.layer(record_path.read_bytes(), diff_id)
    except FileNotFoundError:
        yield Finding(Kind.ORPHANED, path, "a layer file without a record", _PRUNE)
        return
    except records.RecordError as error:
        yield Finding(Kind.DAMAGED, record_path, error.reason, _REBUILD)
        return
    if (size := path.stat().st_size) != record.size:
        reason = f"has {size} bytes, its record says {record.size}"
        yield Finding(Kind.DAMAGED, path, reason, _REBUILD)
    elif (fault := superblock_fault(path)) is not None:
        yield Finding(Kind.DAMAGED, path, fault, _REBUILD)
    elif content and sha256_of(path) != record.sha256:
        reason = "its bytes do not have the sha256 of its record"
        yield Finding(Kind.DAMAGED, path, reason, _REBUILD)


def _check_chains(place: layout.Layout, reader: direct_reader.Reader) -> Iterator[Finding]:
    for path in _records_below(place.root / "meta" / "chains"):
        record = reader.chain(f"sha256:{path.stem}")
        if record is None:
            continue
        if not place.layer_record(record.diff_id).exists():
            reason = f"its layer {record.diff_id} is not in the store"
            yield Finding(Kind.ORPHANED, path, reason, _PRUNE)
        if record.parent is not None and not place.chain_record(record.parent).exists():
            reason = f"the chain below, {record.parent}, is not in the store"
            yield Finding(Kind.ORPHANED, path, reason, _PRUNE)


def _check_blobs(place: layout.Layout, reader: direct_reader.Reader) -> Iterator[Finding]:
    for path in sorted((place.root / "meta" / "blobs" / "sha256").glob("*/*")):
        if digests.is_digest(digest := f"sha256:{path.name}"):
            reader.blob(digest)
        else:
            yield Finding(Kind.ORPHANED, path, "not the name of a blob", "remove it by hand")


def _check_images(place: layout.Layout, reader: direct_reader.Reader) -> Iterator[Finding]:
    for record in reader.images():
        path = place.image_record(images.parse_reference(record.ref))
        needed = {place.blob(record.target): "its target"}
        for one in record.platforms:
            needed |= {place.blob(index): f"an index of {one.platform}" for index in one.indexes}
            needed[place.blob(one.manifest)] = f"the manifest of {one.platform}"
            needed[place.blob(one.config)] = f"the config of {one.platform}"
            needed |= {
                place.chain_record(layer.chain_id): f"the chain {layer.chain_id}"
                for layer in one.layers
            }
        for file, what in needed.items():
            if not file.exists():
                reason = f"{record.ref} needs {what}, which is not in the store"
                yield Finding(Kind.MISSING, file, reason, _REBUILD)
        if not path.exists():
            reason = f"the record of {record.ref} is not where it belongs"
            yield Finding(Kind.ORPHANED, path, reason, _REBUILD)


def _check_caches(place: layout.Layout, reader: direct_reader.Reader) -> Iterator[Finding]:
    for record in reader.caches():
        for image in record.images:
            path = place.image_record(images.parse_reference(image.ref))
            if not path.exists():
                reason = f"cache {record.id} names {image.ref}, which has no record"
                yield Finding(Kind.MISSING, path, reason, _REBUILD)


def _check_deletions(place: layout.Layout) -> Iterator[Finding]:
    """Whether what deletions go by can be read: one damaged record and nothing is deleted."""
    found = generations.outstanding(place)
    checks: list[tuple[pathlib.Path, Callable[[], object]]] = [
        (place.generation_record, lambda: generations.newest(place)),
        (place.nodes_record, lambda: generations.nodes(place)),
    ]
    for token in found.pending:
        path = generations.marker(place, token, "pending")
        checks.append((path, functools.partial(generations.planned, place, token)))
    for number, phase in found.phases.items():
        if phase is generations.Phase.HIDING:
            path = generations.marker(place, number, "list")
            checks.append((path, functools.partial(generations.decided, place, number)))
        path = place.retired_record(number)
        checks.append((path, functools.partial(generations.content, place, number)))
    checks += [
        (path, functools.partial(build_claims.read, path))
        for path in sorted(place.claims.glob("*.json"))
    ]
    for path, read in checks:
        try:
            read()
        except generations.CollectionRefused as error:
            yield Finding(Kind.DAMAGED, path, error.reason, _STANDS)


def _check_tmp(place: layout.Layout) -> Iterator[Finding]:
    for path in sorted(place.tmp.iterdir()) if place.tmp.is_dir() else ():
        fix = "of a build that runs, or that ended badly: swept by a build after a day"
        yield Finding(Kind.LEFTOVER, path, f"{path.stat().st_size} bytes in tmp", fix)


def _records_below(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*/*.json") if not path.name.startswith("."))


def superblock_fault(path: pathlib.Path) -> str | None:
    """What is wrong with the EROFS superblock of a layer file; None when nothing is."""
    with path.open("rb") as file:
        file.seek(_SUPERBLOCK)
        block = file.read(128)
    if len(block) < 128 or struct.unpack_from("<I", block)[0] != _MAGIC:
        return "it has no EROFS superblock"
    block_bits = block[12]
    blocks = struct.unpack_from("<I", block, 36)[0]
    if not 9 <= block_bits <= 16:
        return f"its superblock is damaged: blocks of 2^{block_bits} bytes"
    if blocks << block_bits > path.stat().st_size:
        return f"it is cut off: the superblock says {blocks << block_bits} bytes"
    return None


def sha256_of(path: pathlib.Path) -> str:
    """The digest of a file's bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
