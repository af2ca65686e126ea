"""The store as a person's command and the builder read it: sync and direct.

May block for as long as the store's server does; the node agent uses
agent.store.lookup.catalog instead. Damage is a miss plus a report, as there.
"""

import errno
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from agent.model import images, records
from agent.store import decoding, layout
from agent.store.lookup import file_reads

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def log_damage(name: str, reason: str) -> None:
    """Log a damaged record; the default `on_damage`."""
    logger.warning("damaged record in the store", extra={"record": name, "reason": reason})


def open_store(root: pathlib.Path) -> records.StoreRecord:
    """Read what a folder is; raise NotAStore or UnknownFormat."""
    place = layout.Layout(root)
    try:
        data = file_reads.read(str(place.store_record), file_reads.RECORD_LIMIT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise decoding.NotAStore(str(root), "it has no store.json") from error
    except OSError as error:
        raise decoding.NotAStore(str(root), f"store.json cannot be read: {error}") from error
    return decoding.store(data, str(root))


class Reader:
    """Look-ups in one store; `on_damage(name, reason)` is called for each damaged record."""

    def __init__(
        self, place: layout.Layout, *, on_damage: Callable[[str, str], None] = log_damage
    ) -> None:
        self.layout = place
        self._on_damage = on_damage

    def layer(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a layer, provided that its file is there and of the right size.

        Of a damaged one that was built again, the record of the new one: it has the name of
        the file to use.
        """
        record = self._layer_record(diff_id)
        if record is not None and record.damaged and record.replaced_by is not None:
            record = self._layer_record(record.replaced_by)
        return record if record is not None and self._has_file(record) else None

    def _layer_record(self, diff_id: str) -> records.LayerRecord | None:
        data = self._read(self.layout.layer_record(diff_id), file_reads.LOOKUP_LIMIT)
        return None if data is None else self._decode(lambda: decoding.layer(data, diff_id))

    def _has_file(self, record: records.LayerRecord) -> bool:
        """Whether a layer's file is what its record says, as far as shows without reading it."""
        path = self.layout.layer(record.diff_id)
        reason = record.damaged
        try:
            size = file_reads.size_of(str(path))
        except FileNotFoundError:
            reason = "the record is there, the layer file is not"
        else:
            if size != record.size:
                reason = f"has {size} bytes, its record says {record.size}"
        if reason:
            self._on_damage(str(path), reason)
        return not reason

    def chain(self, chain_id: str) -> records.ChainRecord | None:
        """The record of a chain ID."""
        data = self._read(self.layout.chain_record(chain_id), file_reads.LOOKUP_LIMIT)
        return None if data is None else self._decode(lambda: decoding.chain(data, chain_id))

    def blob(self, digest: str) -> bytes | None:
        """A manifest, index or config, verified."""
        data = self._read(self.layout.blob(digest), file_reads.BLOB_LIMIT)
        return None if data is None else self._decode(lambda: decoding.blob(data, digest))

    def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image, as agent.store.lookup.catalog.Catalog.image finds it."""
        places = self.layout.image_places(reference)
        for path in places:
            if (record := self._image_at(path, reference)) is not None:
                return record
        if not reference.digest:
            return None
        siblings = itertools.chain.from_iterable(self._images_of(path.parent) for path in places)
        return decoding.pick_by_digest(siblings, reference.digest)

    def _image_at(
        self, path: pathlib.Path, reference: images.Reference
    ) -> records.ImageRecord | None:
        if path.is_dir():
            return None  # of a repository of that name, by an earlier version
        data = self._read(path)
        return None if data is None else self._decode(lambda: decoding.image(data, reference))

    def images_of(self, reference: images.Reference) -> list[records.ImageRecord]:
        """All images of a reference's repository."""
        return [
            record
            for path in self.layout.image_places(reference)
            for record in self._images_of(path.parent)
            if images.parse_reference(record.ref).name == reference.name
        ]

    def images(self) -> Iterator[records.ImageRecord]:
        """All images, by registry, repository and tag."""
        for folder, folders, _ in os.walk(self.layout.image_records):
            folders.sort()
            yield from self._images_of(pathlib.Path(folder))

    def cache(self, cache_id: str) -> records.CacheRecord | None:
        """The record of a cache; None when there is none, or it is not Ready."""
        if not records.is_cache_id(cache_id):
            return None
        data = self._read(self.layout.cache_record(cache_id))
        return None if data is None else self._decode(lambda: decoding.cache(data, cache_id))

    def caches(self) -> Iterator[records.CacheRecord]:
        """All Ready caches, by ID."""
        for name, data in self._read_folder(self.layout.cache_records):
            cache_id = pathlib.PurePath(name).stem
            record = self._decode(lambda: decoding.cache(data, cache_id))  # noqa: B023
            if record is not None:
                yield record

    def confirmed(self) -> Mapping[str, str]:
        """When all tags of caches were last confirmed, by the IDs of the caches; {} if unknown."""
        data = self._read(self.layout.tags_record)
        if data is None:
            return {}
        name = self.layout.tags_record.name
        record = self._decode(lambda: records.decode(data, records.TagsRecord, name))
        return record.confirmed if record is not None else {}

    def _images_of(self, folder: pathlib.Path) -> Iterator[records.ImageRecord]:
        for name, data in self._read_folder(folder):
            record = self._decode(lambda: decoding.any_image(data, name))  # noqa: B023
            if record is not None:
                yield record

    def _decode(self, decode: Callable[[], Found]) -> Found | None:
        try:
            return decode()
        except records.RecordError as error:
            self._on_damage(error.name, error.reason)
            return None

    def _read(self, path: pathlib.Path, limit: int = file_reads.RECORD_LIMIT) -> bytes | None:
        try:
            return file_reads.read(str(path), limit)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._on_damage(str(path), str(error))
            return None

    def _read_folder(self, folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
        # One after the other: all of a large store's would be too much to have in memory.
        for each in file_reads.names_in(str(folder), ".json"):
            read = file_reads.read_some(str(folder), [each], file_reads.RECORD_LIMIT)
            for name, data, number in read:
                if number:
                    self._on_damage(f"{folder}/{name}", os.strerror(number))
                else:
                    yield f"{folder}/{name}", data
