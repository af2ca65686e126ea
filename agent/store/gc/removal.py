"""Files out of many folders: the folders side by side, the files of one in turn.

A client of NFS makes one change of a folder at a time, and waits for the server's
answer to each. So thousands of files are removed in many folders at once.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from agent.kits import files, parallel
from agent.model import images, records
from agent.store import layout, profile_files
from agent.store.gc import generations, reachability

Entries = Mapping[str, Collection[str]]
"""Names by the folder that they are in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gone:
    """How many layer files are gone, and the bytes that they had."""

    layers: int = 0
    freed: int = 0


def hide(place: layout.Layout, record: records.RetiredRecord) -> set[str]:
    """Remove what leads to the layers of a generation: the folders that it was in."""
    chains = (chain for layer in record.layers for chain in layer.chains)
    ways = (
        _image_entries(place, record.images),
        _entries(place.chain_records, chains, suffix=".json"),
        _entries(place.blobs, record.blobs, suffix=""),
    )
    for entries in ways:
        parallel.each(_remove, entries.items())
    # These are advice: that one of them comes back after a power cut does no harm.
    parallel.each(functools.partial(_forget_starts, place), record.images)
    return {folder for entries in ways for folder in entries}


def sync(folders: Iterable[str]) -> None:
    """Make removals durable; a folder that is not there needs nothing."""
    parallel.each(_sync, sorted(folders))


def delete(place: layout.Layout, record: records.RetiredRecord) -> Gone:
    """Remove the files of a generation: each record before the file that it vouches for."""
    buckets = _buckets(layer.diff_id for layer in record.layers)
    delete_bucket = functools.partial(_delete_layers, place)
    with contextlib.closing(parallel.mapped(delete_bucket, buckets.items())) as results:
        gone = list(results)
    return Gone(sum(one.layers for one in gone), sum(one.freed for one in gone))


def _buckets(digests: Iterable[str]) -> dict[str, list[str]]:
    """The hex digits of digests (fields of records, which have been checked) by the first two."""
    buckets: dict[str, list[str]] = {}
    for digest in digests:
        name = digest[7:]
        buckets.setdefault(name[:2], []).append(name)
    return buckets


def _entries(root: pathlib.Path, digests: Iterable[str], *, suffix: str) -> Entries:
    """The files of digests below a folder of the store."""
    return {
        f"{root}/{xx}": [f"{name}{suffix}" for name in names]
        for xx, names in _buckets(digests).items()
    }


def _image_entries(place: layout.Layout, references: Iterable[str]) -> Entries:
    entries: dict[str, list[str]] = {}
    for reference in references:
        for path in reachability.image_places(place, reference):
            entries.setdefault(str(path.parent), []).append(path.name)
    return entries


def _forget_starts(place: layout.Layout, ref: str) -> None:
    profile_files.remove(place.profile_records, images.parse_reference(ref))


def _remove(entries: tuple[str, Collection[str]]) -> None:
    folder, names = entries
    with _opened(folder) as descriptor:
        if descriptor is not None:
            for name in names:
                generations.remove(name, folder=descriptor)


def _delete_layers(place: layout.Layout, entries: tuple[str, Collection[str]]) -> Gone:
    xx, names = entries
    layers = freed = 0
    wanted = {f"{name}.erofs{suffix}" for name in names for suffix in layout.BESIDE}
    with (
        _opened(f"{place.layer_records}/{xx}") as of_records,
        _opened(f"{place.layer_files}/{xx}") as of_files,
    ):
        for name in names:
            if of_records is not None:
                generations.remove(f"{name}.json", folder=of_records)
            if of_files is not None and (size := _size(f"{name}.erofs", of_files)) is not None:
                gone = generations.remove(f"{name}.erofs", folder=of_files)
                layers += gone
                freed += size if gone else 0
        if of_files is not None:
            # Few layers have them all: to ask for each would cost two answers of the server.
            for name in wanted.intersection(os.listdir(of_files)):
                generations.remove(name, folder=of_files)
    return Gone(layers, freed)


def _size(name: str, folder: int) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder).st_size
    return None


def _sync(folder: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.sync_folder(pathlib.Path(folder))


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int | None]:
    """A folder's descriptor, so that the server is not asked for each part of each path."""
    descriptor = None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
