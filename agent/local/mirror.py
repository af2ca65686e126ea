"""The mirrored records: those of the images that this node serves, as the store has them.

Byte for byte, with their signatures, at the same places in the folder of local copies as in the
store; so whatever reads a store reads them. What the store does not say any more goes. Blocking,
on the local disk, for threads.

An image record is what keeps the others: those that no mirrored image needs are removed, and the
images that were used last are kept. A layer's record stays for as long as there is its copy.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.kits import files
from agent.model import images, records
from agent.store import decoding, layout
from agent.store.lookup import chain_index, file_reads

MOST_IMAGES = 256
"""A kubelet runs 110 pods unless it is configured for more."""


_COPIED_SECONDS = 3600.0
"""For which a layer's record is kept without a copy: it is written before the copy is complete."""


class Mirror:
    """The records in the folder of local copies `folder`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.layout = layout.Layout(folder)

    def belongs_to(self, store: bytes) -> bool:
        """Whether the records are those of the store with this `store.json`; else there are none.

        Records of another store are removed: their layers may be another cluster's.
        """
        here = self._read(self.layout.store_record)
        if here == store:
            return True
        if here is not None and _id_of(here) != _id_of(store):
            self._remove_all()
        self.put({"store.json": store})
        return False

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Write records by their paths in the store, in this order, where they differ.

        Where a layer's record is of other bytes now, there is none: the copy is of the former ones.
        """
        for name, data in contents.items():
            path = self.layout.root / name
            here = self._read(path)
            if here is not None and self._has_copy(path) and not _is_of_same_bytes(here, data):
                path.unlink()
            elif here != data:
                files.write(path, data, tmp=self.layout.tmp)

    def remove(self, names: Iterable[str]) -> None:
        """Remove records by their paths in the store, but those of layers with copies.

        A deleted layer that a container still runs on is mounted, and verified, by its record.
        """
        for name in names:
            path = self.layout.root / name
            if not self._has_copy(path):
                path.unlink(missing_ok=True)

    def touch(self, name: str) -> bool:
        """Note that an image is used, by its record's path; whether that is mirrored."""
        try:
            os.utime(self.layout.root / name)
        except FileNotFoundError:
            return False
        return True

    def images(self) -> list[str]:
        """The paths of all image records, those that were used last first."""
        dated = []
        for path in self.layout.image_records.rglob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                dated.append((-path.stat().st_mtime, self._name(path)))
        return [name for _, name in sorted(dated)]

    def names(self) -> tuple[list[str], list[str]]:
        """The paths of all records: those that say who may have what, and the others.

        Blobs are in neither: their content never changes.
        """
        first = [*self.images(), *self._below(self.layout.cache_records)]
        rest = [
            *self._below(self.layout.chain_records),
            *self._below(self.layout.layer_records),
        ]
        return first, rest

    def complete(self) -> list[str]:
        """The references of the images of which everything is here, for one platform at least."""
        return [
            record.ref
            for record in self._image_records()
            if any(self.is_complete(made) for made in record.platforms)
        ]

    def is_complete(self, made: records.PlatformImage) -> bool:
        """Whether manifest, config, the records of all layers and their copies are here."""
        if not all(self.layout.blob(digest).exists() for digest in made.blobs):
            return False
        if not made.layers:
            return True
        top = made.layers[-1].chain_id.removeprefix("sha256:")
        rows = chain_index.find_chains(str(self.layout.root), top, len(made.layers) + 1)
        return rows is not None and all(
            chain_index.size_of(layer) == size and not chain_index.is_damaged(layer)
            for _, _, layer, size in rows
        )

    def sweep(self) -> None:
        """Remove the images that are too many, and records that no image needs."""
        self.remove(self.images()[MOST_IMAGES:])
        kept = set(self._needed())
        for path in self._records():
            name = self._name(path)
            if name not in kept and not self._is_of_copy(path):
                path.unlink(missing_ok=True)

    def _needed(self) -> Iterator[str]:
        """The paths of all records that mirrored images need."""
        targets = set()
        for record in self._image_records():
            targets.add((record.ref, record.target))
            for made in record.platforms:
                for digest in (*made.blobs, record.target):
                    yield self._name(self.layout.blob(digest))
                for layer in made.layers:
                    path = self.layout.chain_record(layer.chain_id)
                    yield self._name(path)
                    yield from self._layer_of(path)
        for path in self.layout.cache_records.glob("*.json"):
            if any((one.ref, one.target) in targets for one in self._images_of_cache(path)):
                yield self._name(path)

    def _layer_of(self, chain: pathlib.Path) -> Iterator[str]:
        with contextlib.suppress(OSError):
            name = chain_index.layer_of(chain.read_bytes())
            yield self._name(self.layout.layer_record(f"sha256:{name}"))

    def _images_of_cache(self, path: pathlib.Path) -> Sequence[records.CachedImage]:
        with contextlib.suppress(OSError, records.RecordError):
            return decoding.cache(path.read_bytes(), path.stem).images
        return ()

    def _image_records(self) -> Iterator[records.ImageRecord]:
        for name in self.images():
            data = self._read(self.layout.root / name)
            with contextlib.suppress(records.RecordError, images.ImageReferenceError):
                if data is not None:
                    yield decoding.any_image(data, name)

    def _records(self) -> Iterator[pathlib.Path]:
        """All records but those of images."""
        for folder in (self.layout.cache_records, self.layout.chain_records):
            yield from folder.rglob("*.json")
        yield from self.layout.layer_records.rglob("*.json")
        yield from (path for path in self.layout.blobs.rglob("*") if path.is_file())

    def _is_of_copy(self, path: pathlib.Path) -> bool:
        """Whether a record is that of a layer which has a copy, or is being copied."""
        if not path.is_relative_to(self.layout.layer_records):
            return False
        recent = time.time() - _COPIED_SECONDS
        return self._has_copy(path) or not files.was_written_before(path, recent)

    def _has_copy(self, path: pathlib.Path) -> bool:
        """Whether a record is that of a layer which has a copy here."""
        is_of_layer = path.is_relative_to(self.layout.layer_records)
        copy = self.layout.layer_files / path.stem[:2] / f"{path.stem}.erofs"
        return is_of_layer and copy.exists()

    def forget(self) -> None:
        """Serve nothing any more; the records of layers that have copies stay."""
        for path in (*self.layout.image_records.rglob("*.json"), *self._records()):
            if not self._has_copy(path):
                path.unlink(missing_ok=True)
        self.layout.store_record.unlink(missing_ok=True)

    def _remove_all(self) -> None:
        for path in (*self.layout.image_records.rglob("*.json"), *self._records()):
            path.unlink(missing_ok=True)
        # Last: for as long as one of them is here, it says whose they are.
        self.layout.store_record.unlink(missing_ok=True)

    def _below(self, folder: pathlib.Path) -> list[str]:
        return sorted(self._name(path) for path in folder.rglob("*.json"))

    def _name(self, path: pathlib.Path) -> str:
        return str(path.relative_to(self.layout.root))

    def _read(self, path: pathlib.Path) -> bytes | None:
        try:
            return file_reads.read(str(path), file_reads.BLOB_LIMIT)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def _is_of_same_bytes(here: bytes, there: bytes) -> bool:
    """Whether two records of a layer are of the same file."""
    try:
        one, other = (records.decode(data, records.LayerRecord, "") for data in (here, there))
    except records.RecordError:
        return False
    return one.sha256 == other.sha256


def _id_of(store: bytes) -> str:
    """The ID in a `store.json`; "" where it is damaged."""
    with contextlib.suppress(records.RecordError):
        record = records.decode(store, records.StoreRecord, "store.json")
        return f"{record.id} {record.cluster}"
    return ""
