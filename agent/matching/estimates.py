"""How many seconds the store spared: an estimate that rests on measurements alone.

Expected is what an ordinary pull would have taken. It comes from the ordinary
pulls that this node has served (bytes and seconds), and until there is one from
the time that the build of the image took. Where neither is known, nothing is
claimed. Doubt makes the figure smaller, never larger.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping

from agent.model import records

_WINDOW = 64
_MIN_BYTES = 1 << 20


class Method(enum.Enum):
    """What an expectation rests on; NONE: there is none."""

    PULLS = "pulls"
    BUILD = "build"
    NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """An ordinary pull: compressed bytes downloaded and unpacked, and its seconds."""

    size: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Throughput:
    """The last ordinary pulls of a node, newest last."""

    samples: tuple[Sample, ...] = ()

    def learn(self, size: int, seconds: float) -> "Throughput":
        """With one more pull. One that is too small to measure the speed (1 MiB) is left out."""
        if size < _MIN_BYTES or not math.isfinite(seconds) or seconds <= 0:
            return self
        return Throughput((*self.samples, Sample(size, seconds))[-_WINDOW:])

    @property
    def rate(self) -> float | None:
        """Bytes a second: the median pull's, each weighted by its bytes; None without pulls.

        Large pulls weigh more because what a pull costs beside its bytes makes small
        ones look slow; a median because one stalled pull must not spoil it.
        """
        half = sum(sample.size for sample in self.samples) / 2
        seen = 0
        for sample in sorted(
            self.samples, key=lambda sample: sample.size / sample.seconds, reverse=True
        ):
            seen += sample.size
            if seen >= half:
                return sample.size / sample.seconds
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The seconds an ordinary pull would have taken, None where nothing was measured.

    `inputs` are the figures it was computed from, for /status.
    """

    seconds: float | None
    method: Method
    inputs: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Seconds and bytes that were spared; both are 0 or more."""

    seconds: float
    size: int
    actual: float
    expectation: Expectation


def expect(
    size: int, throughput: Throughput, record: records.ImageRecord | None = None
) -> Expectation:
    """What an ordinary pull of so many compressed bytes would take.

    The build is scaled down to the bytes, never up: of a build that found most
    layers in the store, the seconds were not spent on bytes.
    """
    rate = throughput.rate
    if size <= 0:
        return Expectation(seconds=None, method=Method.NONE)
    if rate is not None:
        return Expectation(
            seconds=size / rate,
            method=Method.PULLS,
            inputs={
                "bytes": size,
                "bytes_per_second": rate,
                "samples": len(throughput.samples),
            },
        )
    if record is None or record.fetched_bytes <= 0 or not 0 < record.build_seconds < math.inf:
        return Expectation(seconds=None, method=Method.NONE)
    return Expectation(
        seconds=record.build_seconds * min(1.0, size / record.fetched_bytes),
        method=Method.BUILD,
        inputs={
            "bytes": size,
            "build_seconds": record.build_seconds,
            "fetched_bytes": record.fetched_bytes,
        },
    )


def saved(expectation: Expectation, *, size: int, actual: float) -> Saving:
    """What was spared where `actual` seconds passed; `size` bytes were not downloaded.

    The bytes are counted, not estimated, so they stand without an expectation.
    """
    seconds = 0.0
    if expectation.seconds is not None and math.isfinite(actual) and actual >= 0:
        seconds = max(0.0, expectation.seconds - actual)
    return Saving(seconds=seconds, size=max(0, size), actual=actual, expectation=expectation)
