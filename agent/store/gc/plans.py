"""What of a store is to be retired next: plans, each of a bounded size."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Collection, Mapping

from agent.kits import files, parallel
from agent.model import records, reports, times
from agent.store import layout
from agent.store.gc import digest_spool, generations, reachability
from agent.store.lookup import direct_reader

MAX_PLANS = 64
"""Of one round; the rest is planned by the next."""

_MAX_CHAINS = 50_000
"""Of one plan, so that nodes can read what becomes of it: about 4 MiB (file_reads.RECORD_LIMIT)."""

_PLANNED = 0
"""Stands for a plan where others have the number of their generation."""


class Listed:
    """What is on its way out already: layers with the generations that name them.

    `images` and `blobs` are those of the plans, `hidden` the generations that this round
    has hidden, with all the chains of their layers that it had seen.
    """

    def __init__(
        self,
        place: layout.Layout,
        deletions: generations.Outstanding,
        scratch: pathlib.Path,
        *,
        hidden: Collection[int] = (),
    ) -> None:
        self.hidden = frozenset(hidden)
        self._layers = digest_spool.Spool(scratch, "listed", width=40)
        self.images: set[str] = set()
        self.blobs: set[str] = set()
        for token in deletions.pending:
            record = generations.planned(place, token)
            if record is not None:
                self._note(record, _PLANNED)
                self.images |= set(record.images)
                self.blobs |= set(record.blobs)
        for number in deletions.phases:
            record = generations.content(place, number)
            if record is not None:
                self._note(record, number)

    def _note(self, record: records.RetiredRecord, number: int) -> None:
        for layer in record.layers:
            self._layers.add(reachability.raw(layer.diff_id) + number.to_bytes(8, "big"))

    def in_bucket(self, number: int) -> Mapping[bytes, list[int]]:
        """The layers of a bucket with the numbers of their generations, 0 for a plan."""
        generations_of: dict[bytes, list[int]] = {}
        for entry in self._layers.bucket(number):
            generations_of.setdefault(entry[:32], []).append(int.from_bytes(entry[32:], "big"))
        return generations_of

    def is_planned(self, diff_id: str) -> bool:
        """Whether a plan names a layer."""
        layer = reachability.raw(diff_id)
        return _PLANNED in self.in_bucket(layer[0]).get(layer, ())


@dataclasses.dataclass(slots=True)
class _Writer:
    """Collects what is not wanted, and writes a plan whenever one is full."""

    place: layout.Layout
    layers: list[records.RetiredLayer] = dataclasses.field(default_factory=list)
    images: list[str] = dataclasses.field(default_factory=list)
    blobs: list[str] = dataclasses.field(default_factory=list)
    earlier: set[int] = dataclasses.field(default_factory=set)
    caches: set[str] = dataclasses.field(default_factory=set)
    chains: int = 0
    written: int = 0
    planned: int = 0

    @property
    def is_full(self) -> bool:
        return self.written >= MAX_PLANS

    def add(
        self, layer: records.RetiredLayer, earlier: Collection[int], caches: Collection[str]
    ) -> None:
        self.layers.append(layer)
        self.earlier |= set(earlier)
        self.caches |= set(caches)
        self.planned += 1
        self.chains += len(layer.chains)
        self.flush(at=1 if self.chains >= _MAX_CHAINS else records.MAX_RETIRED_LAYERS)

    def flush(self, *, at: int = 1) -> None:
        if max(len(self.layers), len(self.images), len(self.blobs)) < at:
            return
        record = records.RetiredRecord(
            generation=1,  # known when it is decided
            layers=self.layers,
            images=self.images,
            blobs=self.blobs,
            earlier=sorted(self.earlier),
            caches=sorted(self.caches),
            created=times.stamp(times.now()),
        )
        generations.plan(self.place, self.written, record)
        self.layers, self.images, self.blobs = [], [], []
        self.earlier, self.caches = set(), set()
        self.chains = 0
        self.written += 1


def plan(
    place: layout.Layout, marks: reachability.Marks, listed: Listed, *, min_age: float
) -> tuple[int, bool]:
    """Plan to retire what is not wanted and on no list: (layers planned, whether that is all).

    What was written less than `min_age` seconds ago, by the server's clock, is left for later.
    """
    writer = _Writer(place)
    complete = True
    old_before = files.time_at(place.tmp) - min_age if min_age > 0 else math.inf
    unwanted = (
        path
        for path in reachability.image_paths(place)
        if str(path) not in marks.wanted_images and not _is_young(path, old_before)
    )
    with contextlib.closing(parallel.mapped(reachability.image_at, unwanted)) as images:
        for record in images:
            if record is not None and record.ref not in listed.images:
                writer.images.append(record.ref)
                writer.flush(at=records.MAX_RETIRED_LAYERS)
    stored_in = functools.partial(_stored, place)
    with contextlib.closing(parallel.mapped(stored_in, range(digest_spool.BUCKETS))) as buckets:
        for number, (blobs, layers) in enumerate(buckets):
            if writer.is_full:
                return writer.planned, False
            bucket = _Bucket(number, marks, listed)
            _plan_blobs(bucket, blobs, writer, old_before=old_before)
            complete &= _plan_layers(bucket, layers, writer, old_before=old_before)
    writer.flush()
    return writer.planned, complete


def _stored(place: layout.Layout, number: int) -> tuple[bytes, bytes]:
    """The blobs of a bucket, and the layers that have a file or record there: joined digests."""
    xx = f"{number:02x}"
    blobs = reachability.stored(f"{place.blobs}/{xx}", "")
    layer_files = reachability.stored(f"{place.layer_files}/{xx}", ".erofs")
    vouched = reachability.stored(f"{place.layer_records}/{xx}", ".json")
    if layer_files != vouched:
        there = {*digest_spool.split(layer_files, 32), *digest_spool.split(vouched, 32)}
        layer_files = b"".join(there)
    return blobs, layer_files


class _Bucket:
    """What is known of one bucket."""

    def __init__(self, number: int, marks: reachability.Marks, listed: Listed) -> None:
        self.wanted = marks.wanted_in(number)
        self.chains = marks.chains_in(number)
        self.deleted = marks.deleted_in(number)
        self.on_lists = listed.in_bucket(number)
        self.hidden = listed.hidden
        self.planned_blobs = listed.blobs


def _plan_blobs(bucket: _Bucket, there: bytes, writer: _Writer, *, old_before: float) -> None:
    for blob in digest_spool.split(there, 32):
        if blob in bucket.wanted:
            continue
        digest = f"sha256:{blob.hex()}"
        if digest in bucket.planned_blobs or _is_young(writer.place.blob(digest), old_before):
            continue
        writer.blobs.append(digest)
        writer.flush(at=records.MAX_RETIRED_LAYERS)


def _plan_layers(bucket: _Bucket, there: bytes, writer: _Writer, *, old_before: float) -> bool:
    """Plan the layers of a bucket; False where some are too young."""
    place = writer.place
    complete = True
    for layer in sorted({*digest_spool.split(there, 32), *bucket.chains} - bucket.wanted):
        earlier = bucket.on_lists.get(layer, ())
        if _PLANNED in earlier:
            continue
        diff_id = f"sha256:{layer.hex()}"
        above = [f"sha256:{chain.hex()}" for chain in sorted(bucket.chains.get(layer, ()))]
        # On a list, and no chain has come up since: on its way.
        if earlier and (not above or not bucket.hidden.isdisjoint(earlier)):
            continue
        if _is_young(place.layer(diff_id), old_before):
            complete = False
            continue
        retired = records.RetiredLayer(diff_id=diff_id, chains=above)
        writer.add(retired, earlier, bucket.deleted.get(layer, ()))
    return complete


def _is_young(path: pathlib.Path, old_before: float) -> bool:
    return old_before < math.inf and not files.was_written_before(path, old_before)


def _is_held(diff_id: str, held: Collection[str], store_id: str) -> bool:
    return diff_id in held or reports.layer_tag(store_id, diff_id) in held


def lift(
    place: layout.Layout, deletions: generations.Outstanding, listed: Listed, held: Collection[str]
) -> None:
    """Plan to move what nodes hold into a generation of its own, behind all others.

    Nodes acknowledge in the order of numbers: one layer in use for weeks would keep
    all that is retired after it.
    """
    waiting = [
        number for number, phase in deletions.phases.items() if phase is generations.Phase.RETIRED
    ]
    layers: list[records.RetiredLayer] = []
    earlier, caches = set[int](), set[str]()
    store_id = direct_reader.open_store(place.root).id if held else ""
    for number in waiting if held else ():
        record = generations.content(place, number)
        if record is None:
            continue
        here = [
            layer
            for layer in record.layers
            if _is_held(layer.diff_id, held, store_id) and not listed.is_planned(layer.diff_id)
        ]
        keeps_others = len(here) < len(record.layers) or number < max(waiting) or deletions.pending
        if here and keeps_others and len(layers) + len(here) <= records.MAX_RETIRED_LAYERS:
            layers += here
            earlier.add(number)
            caches |= set(record.caches)
    if layers:
        record = records.RetiredRecord(
            generation=1, layers=layers, earlier=sorted(earlier), caches=sorted(caches)
        )
        generations.plan(place, MAX_PLANS, record)
