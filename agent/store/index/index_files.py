"""The files of the index: written before the record of a cache, removed after it.

A crash in between leaves an entry that leads nowhere, never a cache without entries. Nothing is
locked. Of a build and a deletion of one cache at once, each writes first and looks afterwards at
what the other has written, so one of them sees that the entries are to be there.
"""

import collections
import contextlib
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from agent.kits import files
from agent.model import records
from agent.store import layout
from agent.store.index import cache_entries
from agent.store.lookup import direct_reader

logger = logging.getLogger(__name__)

_TRIES = 5
_DAY = 86400.0
"""An entry without a record may be of a cache that is being published; not a day later."""


def add(place: layout.Layout, record: records.CacheRecord) -> int:
    """Have all entries of a cache, durably; how many there were not."""
    added = 0
    for subject, names in cache_entries.entries_of(record).items():
        added += _add(place.index_folder(subject), names)
    return added


def _add(folder: pathlib.Path, names: Iterable[str]) -> int:
    files.make_folder(folder)
    for _ in range(_TRIES):
        try:
            new = sum([_create(folder / name) for name in sorted(names)])
        except FileNotFoundError:
            # It was empty and is being removed. An NFS client may still remember it.
            folder.mkdir(parents=True, exist_ok=True)
            continue
        if new:
            files.sync_folder(folder)
        return new
    raise FileNotFoundError(f"{folder} is removed again and again")


def _create(path: pathlib.Path) -> bool:
    """Create an empty file; whether there was none. The server decides, not what it once said."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    os.close(descriptor)
    return True


def replace(
    place: layout.Layout, former: records.CacheRecord | None, record: records.CacheRecord
) -> None:
    """After the record of a cache was written: its entries stay, others of it go."""
    add(place, record)
    if former is not None:
        _remove(place, former, but=cache_entries.entries_of(record))


def remove(place: layout.Layout, former: records.CacheRecord) -> None:
    """After the record of a cache was removed: its entries go, unless it is there again."""
    _remove(place, former, but={})
    again = direct_reader.Reader(place).cache(former.id)
    if again is not None:
        add(place, again)


def _remove(
    place: layout.Layout, former: records.CacheRecord, *, but: Mapping[str, set[str]]
) -> None:
    for subject, names in cache_entries.entries_of(former).items():
        for name in names - but.get(subject, set()):
            # It is a hint: what stays leads nowhere, and goes when the index is completed.
            with contextlib.suppress(OSError):
                (place.index_folder(subject) / name).unlink()


def is_complete(place: layout.Layout) -> bool:
    """Whether nodes go by the index: an earlier version's store has none."""
    return place.index_mark.exists()


def begin(place: layout.Layout) -> None:
    """Say of a store without caches that its index is complete."""
    if not is_complete(place) and not _has_caches(place):
        _mark(place)


def _has_caches(place: layout.Layout) -> bool:
    folder = place.cache_records
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _mark(place: layout.Layout) -> None:
    files.make_folder(place.index)
    files.write(place.index_mark, b"", tmp=place.tmp)


def complete(place: layout.Layout) -> int:
    """Add the entries that caches lack, and remove old ones that lead nowhere; how many of both.

    Builds may run meanwhile. Afterwards nodes go by the index.
    """
    expected = _expected(place)
    changed = sum(
        [_add(folder, names) for folder, names in _differences(expected, _present(place))]
    )
    moment = files.time_at(place.tmp) - _DAY
    for path in _surplus(place, expected, moment):
        path.unlink(missing_ok=True)
        changed += 1
    _remove_empty(place)
    if not is_complete(place):
        _mark(place)
    if changed:
        logger.info("the index of caches is completed", extra={"entries": changed})
    return changed


def lacking(place: layout.Layout) -> list[str]:
    """The IDs of the caches that lack entries. It changes nothing."""
    found: set[str] = set()
    for _, names in _differences(_expected(place), _present(place)):
        found.update(cache_entries.ids(names))
    # One whose entries were removed meanwhile has no record by then.
    return sorted(each for each in found if place.cache_record(each).exists())


def _expected(place: layout.Layout) -> dict[pathlib.Path, set[str]]:
    expected: dict[pathlib.Path, set[str]] = collections.defaultdict(set)
    for record in direct_reader.Reader(place, on_damage=lambda *_: None).caches():
        for subject, names in cache_entries.entries_of(record).items():
            expected[place.index_folder(subject)] |= names
    return expected


def _present(place: layout.Layout) -> dict[pathlib.Path, set[str]]:
    return {
        folder: {path.name for path in _listed(folder)}
        for upper in _listed(place.index)
        for folder in _listed(upper)
    }


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _differences(
    expected: Mapping[pathlib.Path, set[str]], present: Mapping[pathlib.Path, set[str]]
) -> Iterator[tuple[pathlib.Path, set[str]]]:
    for folder, names in expected.items():
        if lacking := names - present.get(folder, set()):
            yield folder, lacking


def _surplus(
    place: layout.Layout, expected: Mapping[pathlib.Path, set[str]], moment: float
) -> Iterator[pathlib.Path]:
    for folder, names in _present(place).items():
        for name in sorted(names - expected.get(folder, set())):
            if files.was_written_before(folder / name, moment):
                yield folder / name


def _remove_empty(place: layout.Layout) -> None:
    for upper in _listed(place.index):
        for folder in _listed(upper):
            with contextlib.suppress(OSError):
                folder.rmdir()  # it fails where something is in it
