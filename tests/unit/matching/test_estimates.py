"""The estimate of seconds spared: measured, or not claimed."""

import math

import msgspec
import pytest

from agent.matching import estimates
from tests.unit.matching import making

MIB = 1 << 20


def throughput(*pulls: tuple[int, float]) -> estimates.Throughput:
    learned = estimates.Throughput()
    for size, seconds in pulls:
        learned = learned.learn(size, seconds)
    return learned


def test_nothing_measured_nothing_claimed() -> None:
    expectation = estimates.expect(100 * MIB, estimates.Throughput())
    saving = estimates.saved(expectation, size=100 * MIB, actual=0.1)

    assert (expectation.seconds, expectation.method) == (None, estimates.Method.NONE)
    assert (saving.seconds, saving.size) == (0.0, 100 * MIB)


def test_the_nodes_own_pulls_come_before_the_build() -> None:
    record = msgspec.structs.replace(
        making.image("app", "a"), build_seconds=100.0, fetched_bytes=100 * MIB
    )
    expectation = estimates.expect(100 * MIB, throughput((10 * MIB, 1.0)), record)

    assert (expectation.seconds, expectation.method) == (10.0, estimates.Method.PULLS)
    assert expectation.inputs == {
        "bytes": 100 * MIB,
        "bytes_per_second": 10 * MIB,
        "samples": 1,
    }


@pytest.mark.parametrize(
    ("fetched", "expected"), [(100 * MIB, 20.0), (200 * MIB, 10.0), (10 * MIB, 20.0)]
)
def test_a_build_is_scaled_down_and_never_up(fetched: int, expected: float) -> None:
    record = msgspec.structs.replace(
        making.image("app", "a"), build_seconds=20.0, fetched_bytes=fetched
    )

    assert estimates.expect(100 * MIB, estimates.Throughput(), record).seconds == expected


def test_a_build_that_fetched_nothing_measured_nothing() -> None:
    record = msgspec.structs.replace(making.image("app", "a"), build_seconds=20.0, fetched_bytes=0)

    assert estimates.expect(MIB, estimates.Throughput(), record).method is estimates.Method.NONE


def test_slower_than_expected_is_no_negative_saving() -> None:
    expectation = estimates.expect(10 * MIB, throughput((10 * MIB, 1.0)))

    assert estimates.saved(expectation, size=10 * MIB, actual=5.0).seconds == 0.0


def test_one_stalled_pull_does_not_spoil_the_rate() -> None:
    learned = throughput(*[(100 * MIB, 1.0)] * 9, (100 * MIB, 600.0))

    assert learned.rate == 100 * MIB


def test_small_pulls_do_not_make_the_registry_look_slow() -> None:
    learned = throughput(*[(2 * MIB, 1.0)] * 20, (500 * MIB, 5.0))

    assert learned.rate == 100 * MIB


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(1000, 1.0), (10 * MIB, 0.0), (10 * MIB, -1.0), (10 * MIB, math.nan), (10 * MIB, math.inf)],
)
def test_a_pull_that_says_nothing_about_speed_is_not_learned(size: int, seconds: float) -> None:
    assert throughput((size, seconds)).rate is None


def test_the_window_is_bounded_and_old_pulls_are_forgotten() -> None:
    learned = throughput(*[(10 * MIB, 10.0)] * 100, *[(10 * MIB, 1.0)] * 100)

    assert len(learned.samples) == 64
    assert learned.rate == 10 * MIB
