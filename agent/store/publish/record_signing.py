"""Signs records: those of one build, or all of a store.

Of a build, only what the builder vouches for is signed: it has reported a digest over the
statements of all records of its cache by a way that is not the store, and what is read from
the store here must have that digest. What is written is what was read and compared, so a change
in between is overwritten, and is signed never. A builder that hostile input has taken over vouches
for anything: so its cache must also be the one that was to be built, of these images and for these
namespaces.
"""

import collections
import contextlib
import dataclasses
import enum
import functools
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence

import msgspec

from agent import errors
from agent.kits import files, parallel
from agent.model import digests, images, records
from agent.store import decoding, layout, signatures, signing_keys
from agent.store.gc import generations
from agent.store.index import index_files
from agent.store.lookup import file_reads
from agent.store.publish import record_changes, writer

_TRIES = 5
_OTHERS = 7
"""Signatures of other keys (another cluster's, the one before) that a record keeps."""

Progress = Callable[[int, int], None]
"""Called with (folders done, folders in all)."""


class SigningRefused(errors.PermanentError):
    """The records of a build are not what the builder made. `reason` says how that shows."""

    def __init__(self, cache_id: str, reason: str) -> None:
        super().__init__(f"the records of cache {cache_id} are not signed: {reason}")
        self.reason = reason


class Result(enum.Enum):
    """What came of one record."""

    SIGNED = "signed"
    KEPT = "had a signature"
    UNTRUSTED = "has no signature that counts"
    UNREADABLE = "is damaged"
    CHANGED = "was changed at the same moment"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs by `key` for the store of the ID `store`, and takes signatures of `retired` keys away.

    With `trust`, only what has a signature that counts is signed again; without it, everything.
    """

    key: signing_keys.SigningKey
    store: str
    retired: frozenset[str] = frozenset()
    trust: signatures.Trust | None = None

    def signed(self, record: "Record", statement: signatures.Statement) -> tuple[Result, "Record"]:
        """The record with a signature, and what came of it."""
        present = record.signatures
        if self.trust is not None and not self.trust.has_signed(statement, present):
            return Result.UNTRUSTED, record
        signature = self.key.sign(statement, self.store)
        if signature in present and self.retired.isdisjoint(each.key for each in present):
            return Result.KEPT, record  # the same key gives the same signature
        others = [
            each for each in present if each.key != self.key.id and each.key not in self.retired
        ]
        new = [signature, *others[:_OTHERS]]
        return Result.SIGNED, msgspec.structs.replace(record, signatures=new)


Record = records.LayerRecord | records.ChainRecord | records.ImageRecord | records.CacheRecord


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A record that was read: its file, the file's bytes, and what a signature vouches for."""

    path: pathlib.Path
    data: bytes
    record: Record
    statement: signatures.Statement


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The cache that was to be built: its images, and its namespaces (None: all)."""

    cache_id: str
    images: Sequence[str]
    namespaces: Sequence[str] | None = None

    def problem(self, record: records.CacheRecord) -> str:
        """How the record of a cache is of another one; "" where it is not."""
        if {image.ref for image in record.images} != set(self.images):
            return "the cache has other images than were to be built"
        if record.namespaces is None or self.namespaces is None:
            same = record.namespaces is self.namespaces
        else:
            same = set(record.namespaces) == set(self.namespaces)
        return "" if same else "the cache serves other namespaces than it was built for"


@dataclasses.dataclass(frozen=True, slots=True)
class Attested:
    """What a builder vouches for: a digest over the statements (`signatures.digest_of`).

    They are those of all records of its cache, and of these `layers`: of some, an
    image uses a variant only. The list may come from the store: the digest is over them, too.
    """

    digest: str
    layers: Sequence[str] = ()


def sign_build(place: layout.Layout, wanted: Wanted, attested: Attested, signer: Signer) -> int:
    """Sign the records of a build, provided that they are what its builder attests.

    Returns how many records were written. Raises SigningRefused and StoreFull.
    """
    cache_id = wanted.cache_id
    for _ in range(_TRIES):
        entries = _entries_of(place, wanted, attested.layers)
        actual = signatures.digest_of((each.statement for each in entries), signer.store)
        if actual != attested.digest:
            reason = "they are not what its builder has made: something else has changed them"
            raise SigningRefused(cache_id, reason)
        results = collections.Counter(_sign_attested(place, signer, entry) for entry in entries)
        for folder in {entry.path.parent for entry in entries}:
            files.sync_folder(folder)
        if not results[Result.CHANGED]:
            return results[Result.SIGNED]
    raise SigningRefused(cache_id, "other builds change them all the time")


def _sign_attested(place: layout.Layout, signer: Signer, entry: _Entry) -> Result:
    """Sign a record of a build. Builders that run add to layer records at the same time."""
    if not isinstance(entry.record, records.LayerRecord):
        return _sign(place, signer, entry)
    with record_changes.locked(place, entry.record.diff_id):
        current = _layer(entry.path)
        if current.statement != entry.statement:
            return Result.CHANGED
        return _sign(place, signer, current)


def _entries_of(place: layout.Layout, wanted: Wanted, layers: Sequence[str]) -> list[_Entry]:
    """The records of a build, what is named before what names it; raise SigningRefused."""
    entries: dict[pathlib.Path, _Entry] = {}
    try:
        for name in layers:
            layer = _layer(place.layer_record(name))
            entries[layer.path] = layer
        cache = _cache(place.cache_record(wanted.cache_id))
        assert isinstance(cache.record, records.CacheRecord)
        if problem := wanted.problem(cache.record):
            raise SigningRefused(wanted.cache_id, problem)
        for cached in cache.record.images:
            places = place.image_places(images.parse_reference(cached.ref))
            image = _image(next((path for path in places if path.is_file()), places[0]))
            assert isinstance(image.record, records.ImageRecord)
            for chain_id in (
                layer.chain_id for one in image.record.platforms for layer in one.layers
            ):
                chain = _chain(place.chain_record(chain_id))
                assert isinstance(chain.record, records.ChainRecord)
                layer = _layer(place.layer_record(chain.record.diff_id))
                entries |= {layer.path: layer, chain.path: chain}
            entries[image.path] = image
    except (OSError, records.RecordError, digests.DigestError, images.ImageReferenceError) as error:
        raise SigningRefused(wanted.cache_id, str(error)) from error
    return [*entries.values(), cache]


def sign_all(
    place: layout.Layout, signer: Signer, *, progress: Progress = lambda _done, _total: None
) -> collections.Counter[Result]:
    """Sign every record of a store, what is named before what names it; how many of each result.

    Nothing is compared with the layer files: run `store check` first. The collector waits
    meanwhile, or else this raises CollectorBusy. Raises StoreFull.
    """
    with generations.locked(place):
        files.make_folder(place.tmp)
        steps = [
            *((folder, _layer) for folder in _below(place.layer_records)),
            *((folder, _chain) for folder in _below(place.chain_records)),
            *((folder, _image) for folder in _below(place.image_records)),
            (place.cache_records, _cache),
        ]
        results: collections.Counter[Result] = collections.Counter()
        sign = functools.partial(_sign_folder, place, signer)
        with contextlib.closing(parallel.mapped(sign, steps)) as counted:
            for done, each in enumerate(counted, 1):
                results.update(each)
                progress(done, len(steps))
    return results


def _below(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for folder, folders, _ in os.walk(root):
        folders.sort()
        yield pathlib.Path(folder)


def _sign_folder(
    place: layout.Layout,
    signer: Signer,
    step: tuple[pathlib.Path, Callable[[pathlib.Path], _Entry]],
) -> collections.Counter[Result]:
    folder, read = step
    with contextlib.ExitStack() as stack:
        if read is _layer and folder != place.layer_records:
            # Builders that run add to layer records at the same time.
            stack.enter_context(record_changes.locked(place, f"sha256:{folder.name:0<64}"))
        return _sign_files(place, signer, folder, read)


def _sign_files(
    place: layout.Layout,
    signer: Signer,
    folder: pathlib.Path,
    read: Callable[[pathlib.Path], _Entry],
) -> collections.Counter[Result]:
    results: collections.Counter[Result] = collections.Counter()
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            results[_sign(place, signer, read(path))] += 1
        except FileNotFoundError:
            continue
        except (OSError, records.RecordError, writer.RecordTooLarge):
            results[Result.UNREADABLE] += 1
    if results[Result.SIGNED]:
        files.sync_folder(folder)
    return results


def _sign(place: layout.Layout, signer: Signer, entry: _Entry) -> Result:
    result, record = signer.signed(entry.record, entry.statement)
    if result is not Result.SIGNED:
        return result
    data = writer.encoded(entry.path, record)
    with writer.translated(entry.path):
        if isinstance(record, records.CacheRecord):
            # A builder of an earlier version has written none.
            index_files.add(place, record)
        written = files.replace(entry.path, data, expected=entry.data, tmp=place.tmp)
    return Result.SIGNED if written else Result.CHANGED


def _read(path: pathlib.Path, limit: int) -> bytes:
    try:
        return file_reads.read(str(path), limit)
    except FileNotFoundError:
        if path.parent.is_dir():
            # An NFS client may remember for a while that there is no such file. A change of the
            # folder makes it ask the server again.
            probe = path.parent / f".look.{secrets.token_hex(6)}"
            probe.touch()
            probe.unlink(missing_ok=True)
        return file_reads.read(str(path), limit)


def _layer(path: pathlib.Path) -> _Entry:
    data = _read(path, file_reads.LOOKUP_LIMIT)
    record = decoding.layer(data, f"sha256:{path.stem}")
    return _Entry(path, data, record, signatures.of_layer(record))


def _chain(path: pathlib.Path) -> _Entry:
    data, name = _read(path, file_reads.LOOKUP_LIMIT), f"sha256:{path.stem}"
    record = decoding.chain(data, name)
    return _Entry(path, data, record, signatures.of_chain(name, record))


def _image(path: pathlib.Path) -> _Entry:
    data = _read(path, file_reads.RECORD_LIMIT)
    record = decoding.any_image(data, str(path))
    return _Entry(path, data, record, signatures.of_image(record))


def _cache(path: pathlib.Path) -> _Entry:
    data = _read(path, file_reads.RECORD_LIMIT)
    record = decoding.cache(data, path.stem)
    return _Entry(path, data, record, signatures.of_cache(record))
