"""The table of images and what their pulls cost: bounded, by the hour, for a week.

Of the last two days each hour has a sum, before that each day; a week is kept. There are at most
so many images. Where one is too many, the cheapest go of the namespace that has the most, so
that forged events of one tenant do not push out the images of others; what they cost stays
in the sums. An image's nodes are counted by a bitmap of fixed size (linear counting: Whang and
others, 1990), exact within some per cent up to 5,000 of them.

One node that was taken over must not decide: an image has the size that most of the last nodes say,
and a node has pulled for so long in an hour at most.
"""

import collections
import dataclasses
import datetime
import hashlib
import math
import statistics
from collections.abc import Generator, Iterable

import msgspec

from agent.control.pulls import image_costs, pull_events
from agent.kits.aio import slices
from agent.model import times

DAYS = 7
_HOUR = 3600
_HOURS_OF_DAY = 24
_HOURS_KEPT = 48
_SAMPLES = 32
_CLAIMS = 16
_HOURLY = 4 * 3600.0
"""Seconds of pulls that a node is believed in an hour: it pulls a few images at the same time."""
_NAMESPACES = 8
_NODE_BITS = 2048
_EVICTED_SHARE = 0.05
_SHORTEST = 1.0
_FASTEST = 256 << 20
_OTHERS = ""
_SLICE = 50
"""Images that are looked at in one turn of the event loop: some milliseconds."""


class Bucket(msgspec.Struct, array_like=True):
    """Sums of the `hours` from `start`, in hours since 1970."""

    start: int
    hours: int = 1
    pulls: int = 0
    downloads: int = 0
    seconds: float = 0.0
    size: int = 0


class Row(msgspec.Struct):
    """An image of the table; `sample` are the seconds of its last downloads.

    `nodes` is the bitmap in hexadecimal digits, `pods` the last pod in each of a few namespaces.
    `claims` are the bytes that the last nodes said, each node by its bit and once; `size` is what
    most of them say.
    """

    image: str
    buckets: list[Bucket] = []
    sample: list[float] = []
    size: int = 0
    nodes: str = "0"
    pods: dict[str, str] = {}
    claims: list[tuple[int, int]] = []

    @property
    def seconds(self) -> float:
        """How long all its pulls took."""
        return sum(bucket.seconds for bucket in self.buckets)


class PullTable:
    """Takes pulls in, and says what they cost. `most` is how many images it has at most."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._rows: dict[str, Row] = {}
        self._others = Row(image=_OTHERS)
        self._began: int | None = None
        self._forgotten = 0
        self._spent: dict[int, float] = {}
        self._spent_hour = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, pull: pull_events.Pull, now: datetime.datetime) -> pull_events.Pull:
        """Take in a pull; returns what is believed of it.

        One that is said to be of the future, or long ago, is of now.
        """
        hour = _hour_of(now)
        when = hour if pull.when is None else _hour_of(pull.when)
        if not hour - DAYS * _HOURS_OF_DAY < when <= hour:
            when = hour
        self._began = when if self._began is None else min(self._began, when)
        row = self._rows.get(pull.image)
        if row is None:
            row = self._rows[pull.image] = Row(image=pull.image)
        pull = self._within_the_hour(pull, hour)
        if pull.size:
            _claim(row, pull)
            pull = dataclasses.replace(pull, size=row.size)
        _count(row, pull, when)
        if len(self._rows) > self._most:
            self._evict()
        return pull

    def _within_the_hour(self, pull: pull_events.Pull, hour: int) -> pull_events.Pull:
        """The pull, of no more seconds than its node has left."""
        if hour != self._spent_hour:
            self._spent, self._spent_hour = {}, hour
        node = _bit_of(pull.node)
        spent = self._spent.get(node, 0.0)
        believed = min(pull.times * pull.seconds, _HOURLY - spent)
        self._spent[node] = spent + believed
        return dataclasses.replace(pull, seconds=believed / pull.times)

    def costs(
        self, since: datetime.datetime, now: datetime.datetime, *, most: int | None = None
    ) -> image_costs.Costs:
        """What the pulls since a time cost, rounded to hours or, before two days ago, to days.

        `most` limits how many images are listed; the others are in the sum.
        """
        return slices.run_nowait(self.summing(since, now, most=most))

    def summing(
        self, since: datetime.datetime, now: datetime.datetime, *, most: int | None = None
    ) -> Generator[None, None, image_costs.Costs]:
        """The same in slices."""
        yield from self.forgetting(now)
        first, hour = _hour_of(since), _hour_of(now)
        counted = []
        for number, row in enumerate(list(self._rows.values())):
            if number % _SLICE == 0:
                yield
            counted.append(_cost(row, first, hour))
        listed = sorted(
            (each for each in counted if each.pulls), key=lambda each: (-each.seconds, each.image)
        )
        unlisted = [*(listed[most:] if most is not None else ()), _cost(self._others, first, hour)]
        others = _sum(unlisted)
        began = hour if self._began is None else self._began
        return image_costs.Costs(
            since=max(since, times.EPOCH + datetime.timedelta(hours=began)),
            images=tuple(listed[:most]),
            others=others if others.pulls else None,
        )

    def forgetting(self, now: datetime.datetime) -> Generator[None, None, None]:
        """Sum the hours of days before up, and drop what is older than a week: once an hour."""
        hour = _hour_of(now)
        if hour == self._forgotten:
            return
        self._forgotten = hour
        self._others.buckets = _merged(self._others.buckets, hour)
        for number, row in enumerate(list(self._rows.values())):
            if number % _SLICE == 0:
                yield
            row.buckets = _merged(row.buckets, hour)
            if not row.buckets:
                self._rows.pop(row.image, None)
        if self._began is not None:
            self._began = max(self._began, hour - DAYS * _HOURS_OF_DAY)

    def rows(self, *, most: int) -> tuple[list[Row], Row, int | None]:
        """The images that cost most, the sum of all others, and the hour in which it began."""
        return slices.run_nowait(self.listing(most=most))

    def listing(self, *, most: int) -> Generator[None, None, tuple[list[Row], Row, int | None]]:
        """The same in slices."""
        seconds: list[tuple[float, str]] = []
        for number, row in enumerate(list(self._rows.values())):
            if number % _SLICE == 0:
                yield
            seconds.append((-row.seconds, row.image))
        listed = [self._rows[name] for _, name in sorted(seconds) if name in self._rows]
        rest = self._others.buckets
        for at in range(most, len(listed), _SLICE):
            yield
            rest = _together(rest, *(row.buckets for row in listed[at : at + _SLICE]))
        return listed[:most], Row(image=_OTHERS, buckets=rest), self._began

    def load(self, rows: Iterable[Row], others: Row, began: int | None) -> None:
        """Take in what `rows` returned before; what is in the table stays."""
        self._forgotten = 0
        for row in rows:
            if row.image != _OTHERS and row.image not in self._rows:
                self._rows[row.image] = row
        self._others.buckets = _together(self._others.buckets, others.buckets)
        if began is not None:
            self._began = began if self._began is None else min(self._began, began)
        if len(self._rows) > self._most:
            self._evict()

    def _evict(self) -> None:
        """Drop a few images at once: finding them reads all of them."""
        target = self._most - math.ceil(self._most * _EVICTED_SHARE)
        by_namespace: dict[str, list[Row]] = collections.defaultdict(list)
        for row in sorted(self._rows.values(), key=lambda row: -row.seconds):
            by_namespace[next(iter(row.pods), "")].append(row)
        while len(self._rows) > max(target, 0):
            largest = max(by_namespace.values(), key=len)
            row = largest.pop()
            del self._rows[row.image]
            self._others.buckets = _together(self._others.buckets, row.buckets)


def is_download(seconds: float, size: int) -> bool:
    """Whether a pull was so slow that it has downloaded the image.

    No node unpacks faster than 256 MiB of compressed layers in a second. What takes less than a
    second is not worth a cache, whatever it was.
    """
    return seconds >= _SHORTEST and size <= seconds * _FASTEST


def _count(row: Row, pull: pull_events.Pull, when: int) -> None:
    if not row.buckets or row.buckets[-1].start != when or row.buckets[-1].hours != 1:
        row.buckets = _together(row.buckets, [Bucket(start=when)])
    bucket = next(each for each in row.buckets if each.start == when and each.hours == 1)
    bucket.pulls += pull.times
    bucket.seconds += pull.times * pull.seconds
    if is_download(pull.seconds, pull.size):
        bucket.downloads += pull.times
        bucket.size += pull.times * pull.size
        row.sample = [*row.sample, round(pull.seconds, 3)][-_SAMPLES:]
    if pull.node:
        row.nodes = f"{int(row.nodes, 16) | 1 << _bit_of(pull.node):x}"
    row.pods.pop(pull.namespace, None)
    row.pods[pull.namespace] = pull.pod
    while len(row.pods) > _NAMESPACES:
        del row.pods[next(iter(row.pods))]


def _claim(row: Row, pull: pull_events.Pull) -> None:
    node = _bit_of(pull.node)
    claims = [each for each in row.claims if each[0] != node]
    row.claims = [*claims, (node, pull.size)][-_CLAIMS:]
    said = collections.Counter(size for _, size in row.claims)
    # Of as many on either side the larger one: a budget is a limit.
    row.size = max(said, key=lambda size: (said[size], size))


def _together(*parts: Iterable[Bucket]) -> list[Bucket]:
    """Buckets of several rows, those of the same hours added up, in the order of time."""
    sums: dict[tuple[int, int], Bucket] = {}
    for bucket in (bucket for part in parts for bucket in part):
        total = sums.setdefault((bucket.start, bucket.hours), Bucket(bucket.start, bucket.hours))
        total.pulls += bucket.pulls
        total.downloads += bucket.downloads
        total.seconds += bucket.seconds
        total.size += bucket.size
    return sorted(sums.values(), key=lambda each: (each.start, each.hours))


def _merged(buckets: list[Bucket], hour: int) -> list[Bucket]:
    """The buckets without those that are too old, hours of earlier days as whole days."""
    kept = [each for each in buckets if each.start + each.hours > hour - DAYS * _HOURS_OF_DAY]
    if all(each.hours > 1 or each.start > hour - _HOURS_KEPT for each in kept):
        return kept
    days = [
        msgspec.structs.replace(
            each, start=each.start - each.start % _HOURS_OF_DAY, hours=_HOURS_OF_DAY
        )
        if each.start <= hour - _HOURS_KEPT
        else each
        for each in kept
    ]
    return _together(days)


def _cost(row: Row, first: int, hour: int) -> image_costs.ImageCost:
    """What a row's pulls since the hour `first` cost; now it is `hour`.

    A day that began before counts where half of what has been summed up of it, or more, is after.
    """
    buckets = [
        each
        for each in row.buckets
        if each.start >= first
        or each.start + min(each.start + each.hours, hour - _HOURS_KEPT + 1) >= 2 * first
    ]
    return image_costs.ImageCost(
        image=row.image,
        pulls=sum(each.pulls for each in buckets),
        downloads=sum(each.downloads for each in buckets),
        seconds=sum(each.seconds for each in buckets),
        typical=statistics.median(row.sample) if row.sample else 0.0,
        size=row.size,
        downloaded=sum(each.size for each in buckets),
        nodes=_nodes(int(row.nodes, 16)),
        pods=dict(row.pods),
    )


def _sum(costs: list[image_costs.ImageCost]) -> image_costs.ImageCost:
    return image_costs.ImageCost(
        image=_OTHERS,
        pulls=sum(each.pulls for each in costs),
        downloads=sum(each.downloads for each in costs),
        seconds=sum(each.seconds for each in costs),
        downloaded=sum(each.downloaded for each in costs),
    )


def _bit_of(node: str) -> int:
    digest = hashlib.blake2b(node.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _NODE_BITS


def _nodes(bitmap: int) -> int:
    empty = _NODE_BITS - bitmap.bit_count()
    return round(-_NODE_BITS * math.log(max(empty, 1) / _NODE_BITS))


def _hour_of(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) // _HOUR
