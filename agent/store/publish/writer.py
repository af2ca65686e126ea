"""The write side of the store: each thing appears as a whole or not at all.

Order is the caller's duty: layers, chains and blobs, then the image, then the
cache that names it. A crash in between leaves things that nothing names, never a
name without its thing.

Layer files are written by agent.store.publish.layer_writer.
"""

import contextlib
import errno
import logging
import pathlib
import secrets
import uuid
from collections.abc import Iterator

import msgspec

from agent import errors
from agent.kits import files
from agent.model import digests, images, records
from agent.store import decoding, layout, signatures
from agent.store.index import index_files
from agent.store.lookup import direct_reader, file_reads

logger = logging.getLogger(__name__)

COMPRESSIONS = ("lz4", "none")
"""What `create` takes."""

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


class RecordTooLarge(errors.PermanentError):
    """A record would be larger than what is read of it.

    `path` is its file, `size` its bytes, `limit` how many are read.
    """

    def __init__(self, path: str, size: int, limit: int) -> None:
        super().__init__(
            f"the record {path} would have {size} bytes, and at most {limit} are read: its layer"
            " has too many folders that the tar does not name; this image cannot be in a store"
        )
        self.path = path
        self.size = size
        self.limit = limit


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
        if any(not name.name.startswith(("tmp", ".", "lost+record")) for name in root.iterdir()):
            raise decoding.NotAStore(str(root), "it has no store.json, but it is not empty")
        record = records.StoreRecord(
            format=records.FORMAT, id=str(uuid.uuid4()), compression=compression
        )
        with translated(place.store_record):
            write_once(place, place.store_record, records.encode(record))
    record = direct_reader.open_store(root)
    if record.compression != compression:
        raise StoreMismatch(
            f"the store {root} has compression {record.compression}, not {compression}:"
            " all layers of a store have one; make another store for the other"
        )
    for folder in (place.tmp, place.layer_files, place.cache_records, place.image_records):
        files.make_folder(folder)
    with translated(place.index_mark):
        index_files.begin(place)
    return record


def publish_chain(place: layout.Layout, chain_id: str, record: records.ChainRecord) -> None:
    """Write the record of a chain ID."""
    path = place.chain_record(chain_id)
    there = direct_reader.Reader(place).chain(chain_id)
    if there is None or signatures.unsigned(there) != record:
        write_record(place, path, record)


def publish_blob(place: layout.Layout, data: bytes) -> digests.Digest:
    """Write a manifest, index or config; returns its digest."""
    digest = digests.sha256(data)
    if direct_reader.Reader(place).blob(digest) is None:
        with translated(place.blob(digest)):
            files.write(place.blob(digest), data, tmp=place.tmp)
    return digest


def publish_image(place: layout.Layout, record: records.ImageRecord) -> None:
    """Write the record of an image; its layers, chains and blobs must be there.

    A signature stays where it vouches for this record as well: else an image that is built
    again would not be served until it is signed again.
    """
    reference = images.parse_reference(record.ref)
    there = direct_reader.Reader(place).image(reference)
    if there is not None and signatures.of_image(there) == signatures.of_image(record):
        record = msgspec.structs.replace(record, signatures=there.signatures)
    target, *former = place.image_places(reference)
    if target.is_dir():
        _move_to_places(place, target)
    write_record(place, target, record)
    for path in former:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _move_to_places(place: layout.Layout, folder: pathlib.Path) -> None:
    """Move the image records that an earlier version put into a folder where a record belongs.

    One that is damaged is no record, and goes.
    """
    for path in sorted(each for each in folder.rglob("*.json") if each.is_file()):
        with contextlib.suppress(records.RecordError):
            record = decoding.any_image(path.read_bytes(), str(path))
            target = place.image_record(images.parse_reference(record.ref))
            if not target.exists():
                write_record(place, target, record)
        path.unlink()
    for left in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        left.rmdir()
    folder.rmdir()


def publish_cache(place: layout.Layout, record: records.CacheRecord) -> None:
    """Write the record of a cache, which makes it Ready; its images must be there.

    A signature stays where it vouches for this record as well. The entries by which nodes find the
    cache come first.
    """
    there = direct_reader.Reader(place).cache(record.id)
    if there is not None and signatures.of_cache(there) == signatures.of_cache(record):
        record = msgspec.structs.replace(record, signatures=there.signatures)
    path = place.cache_record(record.id)
    with translated(path):
        # Here as well: who made the store may have been killed before it was said.
        index_files.begin(place)
        index_files.add(place, record)
    write_record(place, path, record)
    with translated(path):
        index_files.replace(place, there, record)


def delete_cache(place: layout.Layout, cache_id: str) -> None:
    """Remove a cache; raise NoSuchCache.

    Nothing else goes here: a node may read it, a build may be about to name it. See
    agent.store.gc.collection.
    """
    path = place.cache_record(cache_id)
    former = direct_reader.Reader(place).cache(cache_id)
    # Its record stays for a while: it says which cache a layer that is still there belonged to.
    files.make_folder(place.deleted_caches)
    try:
        path.rename(place.deleted_caches / path.name)
    except FileNotFoundError as error:
        raise NoSuchCache(cache_id) from error
    files.sync_folder(path.parent)
    if former is not None:
        index_files.remove(place, former)


def sweep(place: layout.Layout, *, older_than: float = DAY) -> list[pathlib.Path]:
    """Remove what was left in tmp/ by builds that ended badly; returns what went."""
    if not place.tmp.is_dir():
        return []
    moment = files.time_at(place.tmp) - older_than
    gone = [
        path
        for path in sorted(place.tmp.iterdir())
        if files.was_written_before(path, moment) and not path.is_dir()
    ]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


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


def write_record(place: layout.Layout, path: pathlib.Path, record: msgspec.Struct) -> None:
    """Replace a record; raise RecordTooLarge and StoreFull."""
    data = encoded(path, record)
    with translated(path):
        files.write(path, data, tmp=place.tmp)


def encoded(path: pathlib.Path, record: msgspec.Struct) -> bytes:
    """The bytes of a record's file; raise RecordTooLarge where they would not be read."""
    data = records.encode(record)
    is_looked_up = isinstance(record, records.LayerRecord | records.ChainRecord)
    limit = file_reads.LOOKUP_LIMIT if is_looked_up else file_reads.RECORD_LIMIT
    if len(data) > limit:
        raise RecordTooLarge(str(path), len(data), limit)
    return data


def write_once(place: layout.Layout, path: pathlib.Path, data: bytes) -> None:
    """Write a file unless there is one: of two writers, the first wins for both."""
    files.make_folder(place.tmp)
    files.make_folder(path.parent)
    draft = place.tmp / f".{path.name}.{secrets.token_hex(6)}"
    files.write(draft, data)
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        files.sync_folder(path.parent)
    finally:
        draft.unlink()
