"""The account of what was saved: this node's own pulls are measured, and what needed none.

An ordinary pull is measured afterwards by containerd's records: from the time of the
manifest to that of the top snapshot, with the blobs that were written in between. The
arithmetic is in agent.matching.estimates; nothing here is estimated.
"""

import collections
import contextlib
import dataclasses
import datetime
import logging
import pathlib
import typing
from collections.abc import Sequence

import msgspec

from agent import errors
from agent.clients.containerd import rpc
from agent.kits import files
from agent.matching import estimates
from agent.metrics import image_metrics
from agent.model import keys, records, times
from agent.node.images import containerd_images, inventory, registration_plan
from agent.node.report import day_savings

logger = logging.getLogger(__name__)

_LONGEST = 3600.0
_REMEMBERED = 256
_SHOWN = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A pull that containerd has made: seconds, and compressed bytes downloaded and not.

    `result` is "miss" where every new layer was downloaded, "hit" where none was.
    """

    seconds: float
    downloaded: int
    spared: int
    result: image_metrics.PullResult


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One saving."""

    image: str
    when: datetime.datetime
    saving: estimates.Saving


@dataclasses.dataclass(frozen=True, slots=True)
class _LaidOut:
    """An image whose layers were made ready, which took so many seconds."""

    record: records.ImageRecord
    done: registration_plan.Registered
    seconds: float


_Waiting = collections.OrderedDict[str, _LaidOut]
"""Images that nothing has asked for yet, by their target; the oldest first."""


class WarmLedger:
    """The Ledger for images that are made present before any pod asks for them."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    async def registered(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """Count nothing yet: no pod would have pulled it."""
        self._ledger.warmed(record, done, seconds=seconds)

    def laid_out(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """As Ledger.laid_out: it counts once it is pulled anyway."""
        self._ledger.laid_out(record, done, seconds=seconds)


@dataclasses.dataclass(slots=True)
class Totals:
    """What was saved since the start, and how many images were hits, partial hits and misses."""

    seconds: float = 0.0
    size: int = 0
    images: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(typing.get_args(image_metrics.PullResult), 0)
    )


class Ledger:
    """Learns this node's speed of ordinary pulls and counts what is saved.

    The speed survives a restart in `folder` (None: it does not).
    """

    def __init__(
        self, containerd: containerd_images.ContainerdImages, *, folder: pathlib.Path | None
    ) -> None:
        self._client = containerd.client
        self._inventory = containerd.inventory
        self._snapshotter = containerd.snapshotter
        self._file = folder / "pulls.json" if folder else None
        self._seen: collections.OrderedDict[tuple[str, datetime.datetime], None]
        self._seen = collections.OrderedDict()
        self._entries: collections.deque[Entry] = collections.deque(maxlen=_SHOWN)
        self._laid_out: _Waiting = collections.OrderedDict()
        self._warmed: _Waiting = collections.OrderedDict()
        self.totals = Totals()
        self.today = day_savings.DayTally()
        self.throughput = self._load()

    @property
    def entries(self) -> Sequence[Entry]:
        """The last savings, newest last."""
        return tuple(self._entries)

    async def registered(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """Count an image that was registered. Raises nothing foreseen.

        A layer whose blob containerd has would not have been downloaded.
        """
        if done.already and (warmed := self._warmed.pop(record.target, None)) is not None:
            done = warmed.done
        await self._count_hit(_LaidOut(record, done, seconds))

    def warmed(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """Note an image that was registered before any pod: it counts once one asks for it."""
        if done.new:
            _remember(self._warmed, record, done, seconds)

    def laid_out(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """Note an image that was laid out within so many seconds: its pull counts as a hit.

        `noticed` finds that pull. How long the kubelet's request for the manifest took is
        not known, and not in these seconds.
        """
        if done.new:
            _remember(self._laid_out, record, done, seconds)

    async def _count_hit(self, image: _LaidOut) -> None:
        if not image.done.new:
            return
        size = 0
        with contextlib.suppress(errors.AgentError):
            for layer in image.done.new:
                size += 0 if await self._has(layer.digest) else layer.size
        self._count_image("hit", image.seconds)
        self._count_saving(image.record.ref, size, image.seconds, image.record)

    async def noticed(self, name: str) -> None:
        """Measure the pull behind a new or changed image record, unless the agent registered it."""
        image = await self._client.image(name)
        if image is None or keys.REGISTERED in image.labels:
            return
        if (laid_out := self._laid_out.pop(image.target.digest, None)) is not None:
            await self._count_hit(laid_out)
            present = await self._inventory.look_up([image])
            if present is not None:
                self._note_seen(present)
            return
        present = await self._inventory.look_up([image])
        if present is None or (present.target, present.since) in self._seen:
            return
        pull = await self._measure(present)
        if pull is None:
            return
        self._note_seen(present)
        self._count_image(pull.result, pull.seconds)
        if pull.spared:
            self._count_saving(name, pull.downloaded + pull.spared, pull.seconds, None, pull.spared)
        else:
            self._learn(pull)
        logger.info(
            "a pull",
            extra={"image": name, **dataclasses.asdict(pull)},
        )

    def _note_seen(self, present: inventory.Present) -> None:
        self._seen[present.target, present.since] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    async def _measure(self, present: inventory.Present) -> Pull | None:
        """Read a pull off containerd's records; None where nothing was pulled."""
        ended: list[datetime.datetime] = []
        for snapshotter in present.snapshotters:
            with contextlib.suppress(rpc.NotFoundError, rpc.RefusedError):
                ended.append((await self._client.stat(snapshotter, present.contents.top)).created)
        after = [moment for moment in ended if moment >= present.since]
        if not after:
            return None
        seconds = (min(after) - present.since).total_seconds()
        if not 0 < seconds < _LONGEST:
            return None
        downloaded = spared = 0
        for (digest, size), chain_id in zip(
            present.contents.layers, present.contents.chain, strict=False
        ):
            written = await self._blob_time(digest)
            if written is not None:
                downloaded += size if written >= present.since else 0
            elif await self._was_served(chain_id, present.since):
                spared += size
        if not downloaded and not spared:
            return None
        result: image_metrics.PullResult = "miss"
        if spared:
            result = "partial" if downloaded else "hit"
        return Pull(seconds=seconds, downloaded=downloaded, spared=spared, result=result)

    async def _was_served(self, chain_id: str, since: datetime.datetime) -> bool:
        """Whether the snapshotter served a layer from the store in this pull.

        Such a layer takes no space on the local disk; one that was unpacked, and
        whose blob containerd has discarded since, has at least its root folder.
        """
        try:
            snapshot = await self._client.stat(self._snapshotter, chain_id)
            return snapshot.created >= since and not await self._client.usage(
                self._snapshotter, chain_id
            )
        except (rpc.NotFoundError, rpc.RefusedError):
            return False

    async def _blob_time(self, digest: str) -> datetime.datetime | None:
        try:
            return (await self._client.blob(digest)).created
        except rpc.NotFoundError:
            return None

    async def _has(self, digest: str) -> bool:
        return await self._blob_time(digest) is not None

    def _count_image(self, result: image_metrics.PullResult, seconds: float) -> None:
        image_metrics.pulled(result, seconds)
        self.totals.images[result] += 1

    def _count_saving(
        self,
        image: str,
        size: int,
        seconds: float,
        record: records.ImageRecord | None,
        spared: int | None = None,
    ) -> None:
        """Count the saving for an image of `size` bytes, `spared` of which were not downloaded."""
        expectation = estimates.expect(size, self.throughput, record)
        saving = estimates.saved(
            expectation, size=size if spared is None else spared, actual=seconds
        )
        image_metrics.PULL_SAVED_SECONDS.inc(saving.seconds)
        image_metrics.PULL_SAVED_BYTES.inc(saving.size)
        self.totals.seconds += saving.seconds
        self.totals.size += saving.size
        when = times.now().replace(microsecond=0)
        self.today.add(image, saving, when=when)
        self._entries.append(Entry(image=image, when=when, saving=saving))

    def _learn(self, pull: Pull) -> None:
        learned = self.throughput.learn(pull.downloaded, pull.seconds)
        if learned is self.throughput:
            return
        self.throughput = learned
        if self._file is not None:
            try:
                files.write(self._file, msgspec.json.encode(_Samples(list(learned.samples))))
            except OSError as error:
                logger.warning("the speed of pulls is not saved", extra={"reason": str(error)})

    def _load(self) -> estimates.Throughput:
        throughput = estimates.Throughput()
        if self._file is not None:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                kept = msgspec.json.decode(self._file.read_bytes(), type=_Samples)
                for sample in kept.samples:
                    throughput = throughput.learn(sample.size, sample.seconds)
        return throughput


class _Samples(msgspec.Struct):
    samples: list[estimates.Sample]


def _remember(
    waiting: _Waiting,
    record: records.ImageRecord,
    done: registration_plan.Registered,
    seconds: float,
) -> None:
    waiting[record.target] = _LaidOut(record, done, seconds)
    while len(waiting) > _REMEMBERED:
        waiting.popitem(last=False)
