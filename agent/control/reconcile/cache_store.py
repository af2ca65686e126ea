"""The store as the controller uses it: the calls, and below them what each does.

Every call runs in a child process that can be killed: a server that hangs takes no controller
with it. The child imports this module, too, and runs one of OPERATIONS.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agent import errors
from agent.control.decisions import outcome
from agent.kits import files
from agent.kits.processes import workers
from agent.model import caches, images, records, reports
from agent.model.starts import start_profiles
from agent.store import decoding, layout
from agent.store.gc import generations
from agent.store.index import index_files
from agent.store.lookup import direct_reader, file_reads
from agent.store.publish import ownership, start_reports, writer

_SECONDS = 20.0


class StoreAway(errors.TemporaryError):
    """The store does not answer, or answers nonsense. `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store does not answer: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What the store has of a cache and of its build (agent.control.decisions.outcome.Seen)."""

    stored: outcome.Stored | None
    report: reports.Report | None


class CacheStore:
    """The store at `root`. All raise StoreAway."""

    def __init__(self, root: str, pool: workers.Caller, *, deadline: float = _SECONDS) -> None:
        self._root = root
        self._pool = pool
        self._deadline = deadline

    async def prepare(self, compression: str, cluster: str) -> str:
        """Turn an empty folder into a store, and have it belong to a cluster; the store's ID."""
        return str(await self._call("prepare", compression, cluster))

    async def probe(self) -> None:
        """Raise StoreAway where it does not answer."""
        await self._call("probe")

    async def look(self, cache_id: str, *, job: str, detail: bool) -> Content:
        """The record of a cache, and the report of the builder of a Job ("": none)."""
        answer = await self._call("look", cache_id, job, detail)
        stored = None
        if answer["record"] is not None:
            record = records.decode(answer["record"], records.CacheRecord, cache_id)
            stored = outcome.Stored(record=record, platforms=tuple(answer["platforms"]))
        return Content(stored, _report(answer["report"], job))

    async def is_going(self, cache_id: str) -> bool:
        """Whether layers of a deleted cache are still in the store."""
        return bool(await self._call("is_going", cache_id))

    async def begin(self, job: str) -> None:
        """Create the file for a report."""
        await self._call("begin", job)

    async def settle(self, job: str) -> None:
        """Remove the file of a report."""
        await self._call("settle", job)

    async def adjust(self, request: caches.CacheRequest, moved: Sequence[records.MovedTag]) -> None:
        """Write into the record of a cache what changes without a build."""
        selector = dict(request.node_selector)
        local = request.local or ""
        encoded = msgspec.json.encode(moved)
        await self._call("adjust", request.cache_id, request.keep_warm, selector, local, encoded)

    async def write_tags(self, confirmed: Mapping[str, str]) -> None:
        """Write when the tags of caches were last confirmed, by their IDs."""
        await self._call(
            "write_tags", records.encode(records.TagsRecord(confirmed=dict(confirmed)))
        )

    async def remove(self, cache_id: str) -> None:
        """Delete the record of a cache, if it is there."""
        await self._call("remove", cache_id)

    async def take_start(self, cache_id: str, report: str) -> bool:
        """Store what a node says of the start of an image of a cache; False: it adds nothing.

        Raises ProfileError where it is not of that image.
        """
        taken, problem = await self._call("take_start", cache_id, report)
        if problem:
            raise start_profiles.ProfileError(problem)
        return bool(taken)

    async def _call(self, operation: str, *arguments: Any) -> Any:
        try:
            return await self._pool.call(operation, self._root, *arguments, deadline=self._deadline)
        except (errors.AgentError, OSError) as error:
            raise StoreAway(str(error)) from error


def _report(data: bytes | None, job: str) -> reports.Report | None:
    """Decode a report; one that is damaged counts as none: the Job's status has the result."""
    if data is None:
        return None
    try:
        return reports.decode(data, job)
    except records.RecordError:
        return None


def prepare(root: str, compression: str, cluster: str) -> str:
    """Turn an empty folder into a store of a cluster; the ID of the store that is there then."""
    writer.create(pathlib.Path(root), compression=compression or "lz4")
    return ownership.claim(layout.Layout(pathlib.Path(root)), cluster).id


def probe(root: str) -> None:
    """Ask the server whether the store is there."""
    os.statvfs(root)
    direct_reader.open_store(pathlib.Path(root))


def look(root: str, cache_id: str, job: str, detail: bool) -> dict[str, Any]:
    """What there is of a cache: its `record` and the `report` of a Job's builder ("": none).

    With `detail`, `platforms` are those that its images have.
    """
    place = layout.Layout(pathlib.Path(root))
    record = _record(place, cache_id)
    answer: dict[str, Any] = {
        "record": records.encode(record) if record is not None else None,
        "report": _read(place.build_report(job)) if job else None,
        "platforms": [],
    }
    if detail and record is not None:
        answer["platforms"] = _platforms(place, record)
    return answer


def is_going(root: str, cache_id: str) -> bool:
    """Whether layers of a deleted cache wait for something before they can be deleted."""
    place = layout.Layout(pathlib.Path(root))
    if (place.deleted_caches / f"{cache_id}.json").exists():
        return True
    open_ = generations.outstanding(place)
    lists = [generations.planned(place, token) for token in open_.pending]
    lists += [generations.content(place, number) for number in open_.phases]
    return any(one is not None and cache_id in one.caches for one in lists)


def begin(root: str, job: str) -> None:
    """Create the file that the builder of a Job will replace, unless it is there."""
    path = layout.Layout(pathlib.Path(root)).build_report(job)
    with contextlib.suppress(FileExistsError), path.open("xb") as file:
        file.write(reports.encode(reports.Report()))


def settle(root: str, job: str) -> None:
    """Remove the report of a build that is over."""
    layout.Layout(pathlib.Path(root)).build_report(job).unlink(missing_ok=True)


def adjust(
    root: str,
    cache_id: str,
    keep_warm: bool,
    node_selector: dict[str, str],
    local: str,
    moved: bytes,
) -> None:
    """Change what the record of a cache says to nodes; its signatures do not cover that.

    Raises OSError EAGAIN where the record is replaced at the same moment.
    """
    place = layout.Layout(pathlib.Path(root))
    path = place.cache_record(cache_id)
    if (data := _read(path)) is None:
        return  # deleted meanwhile
    former = decoding.cache(data, cache_id)
    record = msgspec.structs.replace(
        former,
        keep_warm=keep_warm,
        node_selector=node_selector,
        local=local,
        moved=msgspec.json.decode(moved, type=list[records.MovedTag]),
    )
    content = writer.encoded(path, record)
    with writer.translated(path):
        index_files.add(place, record)
        if not files.replace(path, content, expected=data, tmp=place.tmp):
            raise OSError(errno.EAGAIN, "the cache's record was changed at the same moment")
    files.sync_folder(path.parent)
    with writer.translated(path):
        index_files.replace(place, former, record)


def write_tags(root: str, content: bytes) -> None:
    """Replace the file with the times of tags. It is for people, and need not be durable."""
    place = layout.Layout(pathlib.Path(root))
    with writer.translated(place.tags_record):
        files.write(place.tags_record, content, tmp=place.tmp)


def remove(root: str, cache_id: str) -> None:
    """Delete a cache's record, if it is there."""
    with contextlib.suppress(writer.NoSuchCache):
        writer.delete_cache(layout.Layout(pathlib.Path(root)), cache_id)


def take_start(root: str, cache_id: str, report: str) -> tuple[bool, str]:
    """Whether a report of a node was stored, and why it was refused ("": it was not)."""
    place = layout.Layout(pathlib.Path(root))
    record = _record(place, cache_id)
    refs = [image.ref for image in record.images] if record is not None else []
    try:
        return start_reports.take(place, report, refs), ""
    except start_profiles.ProfileError as error:
        return False, error.reason


def _record(place: layout.Layout, cache_id: str) -> records.CacheRecord | None:
    data = _read(place.cache_record(cache_id))
    if data is None:
        # An NFS client may remember for a while that there is no such file. A change of
        # the folder makes it ask the server again.
        probe = place.cache_records / f".look.{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):
            probe.touch()
            probe.unlink()
        data = _read(place.cache_record(cache_id))
    if data is None:
        return None
    try:
        return decoding.cache(data, cache_id)
    except records.RecordError:
        return None  # nodes see no cache either; it is built again


def _platforms(place: layout.Layout, record: records.CacheRecord) -> list[str]:
    reader = direct_reader.Reader(place)
    platforms: set[str] = set()
    for cached in record.images:
        image = reader.image(images.parse_reference(cached.ref))
        platforms |= {each.platform for each in image.platforms} if image is not None else set()
    return sorted(platforms)


def _read(path: pathlib.Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(file_reads.RECORD_LIMIT)
    except FileNotFoundError:
        return None


OPERATIONS = {
    "prepare": prepare,
    "probe": probe,
    "look": look,
    "is_going": is_going,
    "begin": begin,
    "settle": settle,
    "adjust": adjust,
    "write_tags": write_tags,
    "remove": remove,
    "take_start": take_start,
}
