"""One function for many items, several at a time."""

import contextlib
import threading

import pytest

from agent.kits import parallel


@pytest.mark.parametrize("width", [1, 2, 40])
def test_results_come_in_the_order_of_the_items(width: int) -> None:
    with contextlib.closing(parallel.mapped(lambda item: item * 2, range(100), width=width)) as got:
        assert list(got) == [item * 2 for item in range(100)]


def test_so_many_calls_are_under_way_as_are_asked_for() -> None:
    """Each call waits for two others to have begun: fewer at a time would never end."""
    barrier = threading.Barrier(3, timeout=60)

    parallel.each(lambda _: barrier.wait(), range(9), width=3)


def test_only_a_few_results_are_held() -> None:
    begun: list[int] = []

    with contextlib.closing(parallel.mapped(begun.append, range(1000), width=2)) as results:
        next(results)
        taken = len(begun)

    assert taken <= 4
    assert len(begun) <= 4


@pytest.mark.parametrize("width", [1, 4])
def test_after_a_failure_nothing_goes_on(width: int) -> None:
    done: list[int] = []

    def call(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        parallel.each(call, range(10_000), width=width)

    assert {0, 1, 2} <= set(done)
    assert len(done) <= 3 + 2 * width
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("abreast")]
