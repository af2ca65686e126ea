import asyncio

import pytest

from agent.kits.aio import backoff


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No delay has a random part."""
    monkeypatch.setattr(backoff.random, "uniform", lambda low, high: 0.0)


@pytest.mark.usefixtures("exact")
async def test_delays_grow_along_the_list_and_its_last_one_repeats() -> None:
    pauses = backoff.Backoff([1, 2, 5])

    assert [pauses.take() for _ in range(5)] == [1, 2, 5, 5, 5]
    assert pauses.failures == 5


@pytest.mark.usefixtures("exact")
async def test_progress_begins_the_list_again() -> None:
    pauses = backoff.Backoff([1, 2, 5])
    pauses.take()
    pauses.take()
    pauses.reset()

    assert (pauses.failures, pauses.take()) == (0, 1)


@pytest.mark.usefixtures("exact")
async def test_the_longer_of_the_own_and_the_delay_asked_for_is_obeyed() -> None:
    pauses = backoff.Backoff([1, 10])

    assert [pauses.take(3), pauses.take(3)] == [3, 10]


async def test_delays_are_spread_so_that_nodes_do_not_return_together() -> None:
    delays = [backoff.Backoff([100], jitter=0.25).take() for _ in range(50)]

    assert all(75 <= delay <= 125 for delay in delays)
    assert max(delays) - min(delays) > 5


@pytest.mark.looptime
async def test_it_waits_as_long_as_the_deadline_allows() -> None:
    loop = asyncio.get_running_loop()
    pauses = backoff.Backoff([4], deadline=10, jitter=0)
    start = loop.time()
    waited = [await pauses.wait() for _ in range(3)]

    assert waited == [True, True, False]
    assert loop.time() - start == pytest.approx(8)


@pytest.mark.looptime
async def test_an_event_ends_a_wait_early_and_stays_set() -> None:
    loop = asyncio.get_running_loop()
    wake = asyncio.Event()
    loop.call_later(1, wake.set)
    start = loop.time()

    assert await backoff.Backoff([60], jitter=0).wait(wake=wake)
    assert loop.time() - start == pytest.approx(1)
    assert wake.is_set()
