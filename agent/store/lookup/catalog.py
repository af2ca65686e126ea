"""The store as the node agent reads it: async, with a deadline, never hanging.

Each look-up is one operation in a killable worker (agent.store.lookup.file_reads), decoded
on this side. What is not there is None; what is damaged is None, too, and is
passed to `on_damage`; a store that does not answer raises StoreUnavailable. So
the caller can distinguish "not cached" from "not known".
"""

import dataclasses
import errno
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from agent import errors
from agent.kits.processes import workers
from agent.metrics import shared_metrics
from agent.model import images, records, reports
from agent.store import decoding, layout, profile_files, signatures, trusted_keys
from agent.store.index import cache_entries
from agent.store.lookup import file_reads

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

_MISSING = (errno.ENOENT, errno.ENOTDIR)


_LIMITS: Mapping[records.RecordKind, int] = {
    "blob": file_reads.BLOB_LIMIT,
    "chain": file_reads.LOOKUP_LIMIT,
    "layer": file_reads.LOOKUP_LIMIT,
    "profile": profile_files.LIMIT,
}


_BYTES_LIMIT = 4 << 20
"""Of a record that is read as bytes: a manifest or config of a real image is far smaller."""
_REPORT_LIMIT = 1 << 20
_AT_ONCE = 32
"""Records of one call: each call has its deadline, however many caches there are."""
_ROUNDS = 3
"""How often other entries are followed where some lead nowhere."""


class StoreUnavailable(errors.TemporaryError):
    """The store did not answer within its deadline, or with an I/O error.

    `operation` is what was tried, `reason` what came of it.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"the store does not answer ({operation}): {reason}")
        self.operation = operation
        self.reason = reason


class StoreOfOthers(StoreUnavailable):
    """The store answers, and belongs to another cluster: nothing of it is to be served."""


class Membership(Protocol):
    """Which cluster this machine belongs to."""

    @property
    def cluster(self) -> str | None:
        """The cluster's UID, "" outside of any; None while that is not known yet."""


class DamageSink(Protocol):
    """Where damaged records are reported."""

    def __call__(self, kind: records.RecordKind, name: str, reason: str) -> None:
        """Take one damaged record: its kind, which one it is, what is wrong with it."""


def log_damage(kind: records.RecordKind, name: str, reason: str) -> None:
    """Log and count a damaged record; the default `on_damage`."""
    shared_metrics.record_damaged(kind)
    logger.warning("damaged record in the store", extra={"record": name, "reason": reason})


@dataclasses.dataclass(frozen=True, slots=True)
class CachesFound:
    """The records of caches; `are_all` where they are those of all caches of the store."""

    caches: Sequence[records.CacheRecord]
    are_all: bool = False


class Catalog:
    """Look-ups in one store.

    `pool` runs the operations of `agent.store.lookup.file_reads`, `deadline` is the seconds
    that one look-up may take; `on_damage` takes each damaged record that was read. A record that
    `keys` do not accept counts as missing. With a `membership`,
    a store of another cluster is refused: nothing is read from it.
    """

    def __init__(
        self,
        place: layout.Layout,
        pool: workers.Caller,
        *,
        deadline: float = 2.0,
        on_damage: DamageSink = log_damage,
        keys: trusted_keys.Keys | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.layout = place
        self._pool = pool
        self._deadline = deadline
        self._on_damage = on_damage
        self._keys = keys or trusted_keys.Keys()
        self._membership = membership
        self._refused = ""
        self._is_of_others = False
        self.is_silent = False
        """Whether the last call had no answer: the next one may have to wait for its deadline."""

    @property
    def note(self) -> str:
        """A sentence about records that are not used because they are not signed; "" for none."""
        return self._keys.note

    async def store(self) -> records.StoreRecord:
        """What the folder is; raise NotAStore, UnknownFormat, ForeignStore, StoreUnavailable.

        It is the probe of health, too: one small file that is always there, and the server is
        asked even where a cache has it.
        """
        self._refused = ""
        data = await self._read("store", self.layout.store_record, "probe")
        if data is None:
            raise decoding.NotAStore(str(self.layout.root), "it has no store.json")
        record = decoding.store(data, str(self.layout.root))
        try:
            self._check(record)
        except errors.AgentError as error:
            self._refused = str(error)
            self._is_of_others = isinstance(error, decoding.ForeignStore)
            raise
        return record

    def _check(self, record: records.StoreRecord) -> None:
        """Raise where this machine may not use the store, or does not know that yet."""
        if self._membership is None or not record.cluster:
            return
        if (cluster := self._membership.cluster) is None:
            reason = "it belongs to a cluster, and the API server has not said yet which this is"
            raise StoreUnavailable("compare clusters", reason)
        decoding.check_cluster(record, str(self.layout.root), cluster)

    async def image(self, reference: images.Reference) -> records.ImageRecord | None:
        """The record of an image; None when it is not in the store.

        A reference with a digest also finds the record of a tag that resolved to
        that digest, or has it as the manifest of one of its platforms.
        """
        places = self.layout.image_places(reference)
        for path in places:
            if (record := await self._image_at(path, reference)) is not None:
                return record
        for path in places if reference.digest else ():
            if (record := await self._sibling(path.parent, reference.digest)) is not None:
                return record
        return None

    async def _image_at(
        self, path: pathlib.Path, reference: images.Reference
    ) -> records.ImageRecord | None:
        data = await self._read("image", path)
        if data is None:
            return None
        record = self._decode("image", lambda: decoding.image(data, reference))
        accepted = record is not None and self._keys.accept(record, signatures.of_image)
        return record if accepted else None

    async def _sibling(self, folder: pathlib.Path, digest: str) -> records.ImageRecord | None:
        """The image of a repository's folder that has a digest."""
        for name, content in await self._read_folder("image", folder):
            sibling = self._decode("image", lambda: decoding.any_image(content, name))  # noqa: B023
            if (
                sibling is not None
                and decoding.has_digest(sibling, digest)
                and self._keys.accept(sibling, signatures.of_image)
            ):
                return sibling
        return None

    async def profiles(self, reference: images.Reference) -> list[records.ProfileRecord]:
        """The start profiles of an image, and then the newest of its repository."""
        found = []
        own, newest = profile_files.paths(self.layout.profile_records, reference)
        if (data := await self._read("profile", own)) is not None:
            found.append(self._decode("profile", lambda: decoding.profile(data, reference)))
        if (other := await self._read("profile", newest)) is not None:
            decode = functools.partial(records.decode, other, records.ProfileRecord, str(newest))
            found.append(self._decode("profile", decode))
        return [record for record in found if record is not None]

    async def caches(self) -> list[records.CacheRecord]:
        """All Ready caches, by ID: as many reads as there are caches. See `caches_for`."""
        return self._cache_records(await self._read_folder("cache", self.layout.cache_records))

    async def caches_for(self, wanted: cache_entries.Wanted) -> CachesFound:
        """The caches that may serve what is wanted: as many reads as that has images.

        Of a store whose index is not complete, all caches.
        """
        listings = await self._listings(list(wanted.folders))
        if listings is None:
            return CachesFound(await self.caches(), are_all=True)
        found: dict[str, records.CacheRecord] = {}
        tried: set[str] = set()
        absent: set[str] = set()
        for _ in range(_ROUNDS):
            chosen = cache_entries.choose(wanted, listings, absent=absent)
            ids = [each for each in chosen if each not in tried]
            read = await self._caches_of(ids)
            found |= {record.id: record for record in read}
            tried.update(ids)
            absent.update(each for each in ids if each not in found)
            if not absent.intersection(ids):
                break
        return CachesFound(sorted(found.values(), key=lambda record: record.id))

    async def warm_caches(self) -> list[records.CacheRecord]:
        """The caches that nodes keep warm. Of a store whose index is not complete, all caches."""
        listings = await self._listings([cache_entries.WARM])
        if listings is None:
            return await self.caches()
        read = await self._caches_of(cache_entries.ids(listings[cache_entries.WARM]))
        return [record for record in read if record.keep_warm]

    async def _listings(self, subjects: Sequence[str]) -> dict[str, list[str]] | None:
        """The names of the entries for some subjects; None where the index is not complete."""
        mark, most = str(self.layout.index_mark), cache_entries.MOST_NAMES
        listings: dict[str, list[str]] = {}
        for begin in range(0, len(subjects), _AT_ONCE):
            part = subjects[begin : begin + _AT_ONCE]
            paths = [str(self.layout.index_folder(subject)) for subject in part]
            try:
                names = await self._call("names_where", mark, paths, most)
            except OSError as error:
                raise StoreUnavailable(f"list {self.layout.index}", str(error)) from error
            if names is None:
                return None
            listings |= zip(part, names, strict=True)
        return listings

    async def _caches_of(self, ids: Sequence[str]) -> list[records.CacheRecord]:
        folder = self.layout.cache_records
        names = [self.layout.cache_record(cache_id).name for cache_id in ids]
        return self._cache_records(await self._read_files("cache", folder, names))

    def _cache_records(self, contents: Sequence[tuple[str, bytes]]) -> list[records.CacheRecord]:
        caches = []
        for name, content in contents:
            cache_id = name.removesuffix(".json").rpartition("/")[2]
            record = self._decode("cache", lambda: decoding.cache(content, cache_id))  # noqa: B023
            if record is not None and self._keys.accept(record, signatures.of_cache):
                caches.append(record)
        return caches

    async def builds(self) -> dict[str, int]:
        """How far builds that run are, in percent, by the IDs of their caches.

        Raises StoreUnavailable.
        """
        folder = str(self.layout.tmp)
        try:
            files = await self._call("read_folder", folder, layout.REPORT, _REPORT_LIMIT)
        except OSError as error:
            raise StoreUnavailable(f"read {folder}", str(error)) from error
        percents: dict[str, int] = {}
        for name, content, number in files:
            # The name of a Job is that of its cache, and two parts more.
            cache_id = name.removesuffix(layout.REPORT).rsplit("-", 2)[0]
            try:
                report = None if number else reports.decode(content, name)
            except records.RecordError:
                continue  # it is read again, or the build goes on without
            if report is not None and report.result is None:
                percents[cache_id] = max(report.percent, percents.get(cache_id, 0))
        return percents

    async def caches_time(self) -> int:
        """When a cache was added, changed or removed last, 0 before the first.

        It is one request, however many caches there are; only equality means something.
        """
        path = str(self.layout.cache_records)
        try:
            return int(await self._call("time_of", path))
        except OSError as error:
            raise StoreUnavailable(f"look at {path}", str(error)) from error

    async def cache(self, cache_id: str) -> records.CacheRecord | None:
        """The record of a cache; None when there is no such cache, or it is not Ready."""
        if not records.is_cache_id(cache_id):
            return None
        data = await self._read("cache", self.layout.cache_record(cache_id))
        if data is None:
            return None
        record = self._decode("cache", lambda: decoding.cache(data, cache_id))
        is_usable = record is not None and self._keys.accept(record, signatures.of_cache)
        return record if is_usable else None

    async def layer(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a layer; None when the layer is not in the store, or is damaged."""
        data = await self._read("layer", self.layout.layer_record(diff_id))
        if data is None:
            return None
        record = self._decode("layer", lambda: decoding.sound_layer(data, diff_id))
        is_usable = record is not None and self._keys.accept(record, signatures.of_layer)
        return record if is_usable else None

    async def damage(self, diff_ids: Sequence[str]) -> str:
        """The first layer that is damaged and was not built again, and why; "" for none."""
        for diff_id in diff_ids:
            data = await self._read("layer", self.layout.layer_record(diff_id))
            if data is None:
                continue
            record = self._decode("layer", lambda: decoding.layer(data, diff_id))  # noqa: B023
            if record is not None and record.damaged and record.replaced_by is None:
                return f"{diff_id} ({record.damaged})"
        return ""

    async def chain(self, chain_id: str) -> records.ChainRecord | None:
        """The record of a chain ID; None when it is not in the store."""
        data = await self._read("chain", self.layout.chain_record(chain_id))
        if data is None:
            return None
        record = self._decode("chain", lambda: decoding.chain(data, chain_id))
        statement_of = functools.partial(signatures.of_chain, chain_id)
        is_usable = record is not None and self._keys.accept(record, statement_of)
        return record if is_usable else None

    async def blob(self, digest: str) -> bytes | None:
        """A manifest, index or config, verified against its digest; None when not there."""
        data = await self._read("blob", self.layout.blob(digest))
        return None if data is None else self._decode("blob", lambda: decoding.blob(data, digest))

    async def generation(self) -> int:
        """The newest generation of deletions, 0 before the first.

        Damage is no miss here: it raises RecordError, as nothing may follow from it.
        """
        record = await self._generation()
        return record.generation if record is not None else 0

    async def generation_spread(self) -> float:
        """The seconds within which nodes look at the newest generation; raises as `generation`."""
        record = await self._generation()
        return record.spread if record is not None else 0.0

    async def _generation(self) -> records.GenerationRecord | None:
        data = await self._read("generation", self.layout.generation_record)
        if data is None:
            return None
        return self._verify("generation", lambda: decoding.generation(data))

    async def retired(self, generation: int) -> records.RetiredRecord | None:
        """What a generation retires; None after all of it has been deleted.

        Raises RecordError where it is damaged, as `generation` does.
        """
        data = await self._read("retired", self.layout.retired_record(generation))
        if data is None:
            return None
        return self._verify("retired", lambda: decoding.retired(data, generation))

    async def bytes_of(self, paths: Sequence[pathlib.Path]) -> list[bytes | None]:
        """The bytes of some records of the store as they are; None for each that is not there.

        Raises StoreUnavailable, also where the store has gone meanwhile: an empty mountpoint does
        not mean that everything is deleted.
        """
        store = self.layout.store_record
        names = [str(path) for path in (store, *paths, store)]
        try:
            contents: list[bytes | None] = await self._call("read_all", names, _BYTES_LIMIT)
        except OSError as error:
            raise StoreUnavailable("read records", str(error)) from error
        if (first := contents[0]) is None or first != contents[-1]:
            raise StoreUnavailable("read records", f"{store} is not there")
        self._check(decoding.store(first, str(self.layout.root)))
        return contents[1:-1]

    def _decode(self, kind: records.RecordKind, decode: Callable[[], Found]) -> Found | None:
        """What a record says; None where it is damaged."""
        try:
            return self._verify(kind, decode)
        except records.RecordError:
            return None

    def _verify(self, kind: records.RecordKind, decode: Callable[[], Found]) -> Found:
        """What a record says; raises RecordError where it is damaged."""
        try:
            return decode()
        except records.RecordError as error:
            self._on_damage(kind, error.name, error.reason)
            raise

    async def _read(
        self, kind: records.RecordKind, path: pathlib.Path, operation: str = "read"
    ) -> bytes | None:
        limit = _LIMITS.get(kind, file_reads.RECORD_LIMIT)
        try:
            data = await self._call(operation, str(path), limit)
        except OSError as error:
            # A folder is of a repository whose name ends in .json, by an earlier version.
            if error.errno in _MISSING or (kind == "image" and error.errno == errno.EISDIR):
                return None
            if error.errno in (errno.EFBIG, errno.EISDIR):
                self._on_damage(kind, str(path), error.strerror or str(error))
                return None
            raise StoreUnavailable(f"read {path}", str(error)) from error
        assert isinstance(data, bytes)
        return data

    async def _read_folder(
        self, kind: records.RecordKind, path: pathlib.Path
    ) -> list[tuple[str, bytes]]:
        try:
            names = await self._call("names_in", str(path), ".json")
        except OSError as error:
            if error.errno in _MISSING:
                return []
            raise StoreUnavailable(f"read {path}", str(error)) from error
        return await self._read_files(kind, path, names)

    async def _read_files(
        self, kind: records.RecordKind, path: pathlib.Path, names: Sequence[str]
    ) -> list[tuple[str, bytes]]:
        """The paths and contents of files of a folder that are there."""
        contents = []
        for begin in range(0, len(names), _AT_ONCE):
            part = list(names[begin : begin + _AT_ONCE])
            try:
                files = await self._call("read_some", str(path), part, file_reads.RECORD_LIMIT)
            except OSError as error:
                raise StoreUnavailable(f"read {path}", str(error)) from error
            for name, content, number in files:
                if number == errno.EFBIG:
                    self._on_damage(kind, f"{path}/{name}", os.strerror(number))
                elif number:
                    raise StoreUnavailable(f"read {path}/{name}", os.strerror(number))
                else:
                    contents.append((f"{path}/{name}", content))
        return contents

    async def _call(self, operation: str, *arguments: Any) -> Any:
        if self._refused:
            kind = StoreOfOthers if self._is_of_others else StoreUnavailable
            raise kind(operation, self._refused)
        try:
            answer = await self._pool.call(operation, *arguments, deadline=self._deadline)
        except errors.TemporaryError as error:
            self.is_silent = True
            raise StoreUnavailable(f"{operation} {arguments[0]}", str(error)) from error
        self.is_silent = False
        return answer
