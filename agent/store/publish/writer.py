"""The write side of the store: each thing appears as a whole or not at all.

Order is the caller's duty: layers, chains and blobs, then the image, then the
cache that names it. A crash in between leaves things that nothing names, never a
name without its thing.

A layer file that is there is not replaced while its record vouches for it: nodes
have it mounted, and on NFS a rename over a file that another client reads takes
it away from that client (ESTALE). The bytes would be the same anyway. So layers
are published with link(2), which fails where something is.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
import time
import uuid
from collections.abc import Callable, Collection, Iterator

import msgspec

from agent import errors
from agent.kits import files
from agent.model import digests, images, records
from agent.store import decoding, layout
from agent.store.lookup import direct_reader

COMPRESSIONS = ("lz4", "none")
DAY = 86400.0


class StoreFull(errors.PermanentError):
    """The store's file system has no room left.

    `path` is the file that could not be written.
    """

    def __init__(self, path: str) -> None:
        super().__init__(
            f"no space left in the store while writing {path}:"
            " free some space there or delete caches, then build again"
        )
        self.path = path


class StoreMismatch(errors.PermanentError):
    """A store is there already, but made with another compression."""


class NoSuchCache(errors.PermanentError):
    """There is no Ready cache of an ID. `cache_id` is that ID."""

    def __init__(self, cache_id: str) -> None:
        super().__init__(f"there is no cache {cache_id} in the store")
        self.cache_id = cache_id


@contextlib.contextmanager
def translated(path: pathlib.Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(str(path)) from error
        raise


def create(root: pathlib.Path, *, compression: str = "lz4") -> records.StoreRecord:
    """Make a folder a store; one that is a store already is opened.

    Raises StoreMismatch when that one has another compression, UnknownFormat, and
    NotAStore when the folder has other things in it.
    """
    place = layout.Layout(root)
    if not place.store_record.exists():
        files.make_folder(root)
        if any(not name.name.startswith(("tmp", ".", "lost+found")) for name in root.iterdir()):
            raise decoding.NotAStore(str(root), "it has no store.json, but it is not empty")
        record = records.StoreRecord(
            format=records.FORMAT, id=str(uuid.uuid4()), compression=compression
        )
        with translated(place.store_record):
            _write_once(place, place.store_record, records.encode(record))
    found = direct_reader.open_store(root)
    if found.compression != compression:
        raise StoreMismatch(
            f"the store {root} has compression {found.compression}, not {compression}:"
            " all layers of a store have one; make another store for the other"
        )
    for folder in (place.tmp, place.layer_files, place.cache_records, place.image_records):
        files.make_folder(folder)
    return found


def draft_of(place: layout.Layout, diff_id: str) -> pathlib.Path:
    """A new path in tmp/ for the making of a layer file."""
    files.make_folder(place.tmp)
    return place.tmp / f"{digests.hex_of(diff_id)}.{secrets.token_hex(6)}.erofs"


def copy(source: pathlib.Path, draft: pathlib.Path) -> str:
    """Bring a file from elsewhere to a draft's path; returns the digest of its bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(4 << 20))
    with source.open("rb", buffering=0) as reader, draft.open("xb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            digest.update(buffer[:count])
            done = 0
            while done < count:
                done += writer.write(buffer[done:count]) or 0
    return f"sha256:{digest.hexdigest()}"


def publish_layer(
    place: layout.Layout, draft: pathlib.Path, record: records.LayerRecord
) -> records.LayerRecord:
    """Move a finished layer file to its place, then write its record.

    Returns the record that is in the store afterwards: another builder's where that
    one was faster. The draft is gone in any case.
    """
    target = place.layer(record.diff_id)
    try:
        with translated(target):
            there = direct_reader.Reader(place).layer(record.diff_id)
            if there is None:
                _move_layer(draft, target)
                there = record
                _write_record(place, place.layer_record(record.diff_id), record)
            else:
                there = add_blobs(place, there, record.blobs)
            return there
    finally:
        draft.unlink(missing_ok=True)


def add_blobs(
    place: layout.Layout, record: records.LayerRecord, blobs: list[str]
) -> records.LayerRecord:
    """Note that more blobs unpack to a layer; nothing is written where all are known."""
    union = sorted({*record.blobs, *blobs})
    if union == sorted(record.blobs):
        return record
    record = msgspec.structs.replace(record, blobs=union)
    _write_record(place, place.layer_record(record.diff_id), record)
    return record


def publish_chain(place: layout.Layout, chain_id: str, record: records.ChainRecord) -> None:
    """Write the record of a chain ID."""
    path = place.chain_record(chain_id)
    if direct_reader.Reader(place).chain(chain_id) != record:
        _write_record(place, path, record)


def publish_blob(place: layout.Layout, data: bytes) -> digests.Digest:
    """Write a manifest, index or config; returns its digest."""
    digest = digests.sha256(data)
    if direct_reader.Reader(place).blob(digest) is None:
        with translated(place.blob(digest)):
            files.write(place.blob(digest), data, tmp=place.tmp)
    return digest


def publish_image(place: layout.Layout, record: records.ImageRecord) -> None:
    """Write the record of an image; its layers, chains and blobs must be there."""
    reference = images.parse_reference(record.ref)
    _write_record(place, place.image_record(reference), record)


def publish_cache(place: layout.Layout, record: records.CacheRecord) -> None:
    """Write the record of a cache, which makes it Ready; its images must be there."""
    _write_record(place, place.cache_record(record.id), record)


def delete_cache(place: layout.Layout, cache_id: str) -> None:
    """Remove a cache; raise NoSuchCache.

    Nothing else goes here: a node may read it, a build may be about to name it. See
    agent.store.gc.collection.
    """
    path = place.cache_record(cache_id)
    # What it had is told apart later by its record, for those who ask why a layer is still there.
    files.make_folder(place.deleted_caches)
    try:
        path.rename(place.deleted_caches / path.name)
    except FileNotFoundError as error:
        raise NoSuchCache(cache_id) from error
    files.sync_folder(path.parent)


def sweep(place: layout.Layout, *, older_than: float = DAY) -> list[pathlib.Path]:
    """Remove what was left in tmp/ by builds that ended badly; returns what went."""
    gone = []
    if place.tmp.is_dir():
        for path in sorted(place.tmp.iterdir()):
            if age(path) > older_than and not path.is_dir():
                path.unlink(missing_ok=True)
                gone.append(path)
    return gone


def take_back(
    place: layout.Layout, diff_ids: Collection[str], others: Callable[[], Collection[str]]
) -> None:
    """Remove layers that a build has just made and that no image needs.

    `others` tells what other builds count on. A build claims a layer before it looks for
    its record: so either it finds none, or `others`, asked after the record is gone, has it.
    """
    needed = referenced(direct_reader.Reader(place))
    going: dict[str, bytes] = {}
    for diff_id in diff_ids:
        if digests.hex_of(diff_id) not in needed:
            path = place.layer_record(diff_id)
            with contextlib.suppress(FileNotFoundError):
                going[diff_id] = path.read_bytes()
                path.unlink()
    claimed = others() if going else ()
    for diff_id, data in going.items():
        if diff_id in claimed:
            files.write(place.layer_record(diff_id), data, tmp=place.tmp)
        else:
            place.layer(diff_id).unlink(missing_ok=True)


def referenced(reader: direct_reader.Reader) -> set[str]:
    """The hex digests of everything that an image in the store needs."""
    wanted = set()
    for image in reader.images():
        wanted.add(digests.hex_of(image.target))
        for one in image.platforms:
            wanted |= {digests.hex_of(digest) for digest in one.blobs}
            for item in one.layers:
                wanted |= {digests.hex_of(item.diff_id), digests.hex_of(item.chain_id)}
                chain = reader.chain(item.chain_id)
                wanted |= {digests.hex_of(chain.diff_id)} if chain is not None else set()
    return wanted


def age(path: pathlib.Path) -> float:
    """Seconds since a file was last written; 0 when it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _move_layer(draft: pathlib.Path, target: pathlib.Path) -> None:
    files.make_folder(target.parent)
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        target.hardlink_to(draft)
    except OSError:
        # Something without a record is there: no image names it, so it may be
        # replaced. Or this file system has no hard links.
        draft.rename(target)
    files.sync_folder(target.parent)


def _write_record(place: layout.Layout, path: pathlib.Path, record: msgspec.Struct) -> None:
    with translated(path):
        files.write(path, records.encode(record), tmp=place.tmp)


def _write_once(place: layout.Layout, path: pathlib.Path, data: bytes) -> None:
    """Write a file unless there is one: of two writers, the first wins for both."""
    files.make_folder(place.tmp)
    draft = place.tmp / f".{path.name}.{secrets.token_hex(6)}"
    files.write(draft, data)
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        files.sync_folder(path.parent)
    finally:
        draft.unlink()
