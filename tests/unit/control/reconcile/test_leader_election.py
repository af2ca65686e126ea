"""One leader, in fake time, whatever happens to the API server and to the others."""

import asyncio
import contextlib
from typing import Any

import pytest

from agent.clients.kube import lease, rest_client
from agent.control.reconcile import leader_election
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

TIMES = leader_election.Times(lasts=15.0)


def the_api() -> fakes.Api:
    """Each change is committed at once and answered a moment later."""
    api = fakes.Api()
    api.answer_seconds = 0.01
    return api


def election(api: fakes.Api, identity: str) -> leader_election.Election:
    leasing = lease.Leasing(api, namespace="n", name="l")
    return leader_election.Election(leasing, identity=identity, times=TIMES)


def spec(api: fakes.Api) -> dict[str, Any]:
    return api.objects["leases", "n", "l"]["spec"]


async def test_the_first_leads_and_others_wait_while_it_renews() -> None:
    api = the_api()
    first, second = election(api, "a"), election(api, "b")
    await first.win()
    keeping = asyncio.create_task(first.keep())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await second.win()

    assert (first.leading, second.leading, second.leader) == (True, False, "a")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_of_many_at_once_exactly_one_wins() -> None:
    api = the_api()
    all_ = [election(api, f"c{at}") for at in range(10)]
    tasks = [asyncio.create_task(each.win()) for each in all_]
    await asyncio.sleep(10)

    assert sum(each.leading for each in all_) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_ends_without_a_word_is_replaced_when_its_lease_is_over() -> None:
    api = the_api()
    await election(api, "a").win()
    began = asyncio.get_running_loop().time()

    await election(api, "b").win()

    assert 15.0 <= asyncio.get_running_loop().time() - began <= 20.0
    assert (spec(api)["holderIdentity"], spec(api)["leaseTransitions"]) == ("b", 1)


async def test_who_resigns_is_replaced_at_once_and_its_next_container_goes_on() -> None:
    api = the_api()
    first = election(api, "a")
    await first.win()
    await election(api, "a").win()  # the same pod, after its container was killed
    began = asyncio.get_running_loop().time()
    await first.resign()

    await election(api, "b").win()

    assert asyncio.get_running_loop().time() - began < 1


@pytest.mark.parametrize(("fault", "value"), [("down", True), ("answer_seconds", 1e6)])
async def test_who_cannot_renew_stops_before_another_may_begin(fault: str, value: Any) -> None:
    api = the_api()
    first = election(api, "a")
    await first.win()
    began = asyncio.get_running_loop().time()
    setattr(api, fault, value)

    with pytest.raises(leader_election.LeadershipLost):
        await first.keep()

    assert not first.leading
    assert asyncio.get_running_loop().time() - began < TIMES.lasts


async def test_a_reply_that_is_slow_does_not_outlive_the_lease() -> None:
    """The server wrote the renewal at once: for others the Lease runs since then."""
    api = the_api()
    first, second = election(api, "a"), election(api, "b")
    await first.win()
    first._leasing._api = link = Link(api)
    keeping = asyncio.create_task(first.keep())
    taking = asyncio.create_task(second.win())
    await asyncio.sleep(10)
    link.seconds = 6.8
    await asyncio.sleep(4)
    link.hangs = True
    async with asyncio.timeout(60):
        await taking

    assert not first.leading
    with pytest.raises(leader_election.LeadershipLost):
        await keeping


async def test_a_lease_that_was_won_by_a_late_reply_is_renewed_before_it_is_used() -> None:
    api = the_api()
    first = election(api, "a")
    api.answer_seconds = 10.5
    winning = asyncio.create_task(first.win())
    await asyncio.sleep(30)
    assert not first.leading
    api.answer_seconds = 0.01
    async with asyncio.timeout(60):
        await winning

    assert first.leading


class Link:
    """The way of one client to the server: replies come late, or no request gets through."""

    def __init__(self, api: fakes.Api) -> None:
        self.now = api.now
        self.seconds = 0.0
        self.hangs = False
        self._api = api

    async def get(self, *request: Any, **more: Any) -> Any:
        return await self._pass(self._api.get, *request, **more)

    async def patch(self, *request: Any, **more: Any) -> Any:
        return await self._pass(self._api.patch, *request, **more)

    async def _pass(self, call: Any, *request: Any, **more: Any) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        reply = await call(*request, **more)
        await asyncio.sleep(self.seconds)
        return reply


async def test_a_short_absence_of_the_api_server_costs_nothing() -> None:
    api = the_api()
    first = election(api, "a")
    await first.win()
    keeping = asyncio.create_task(first.keep())
    for _ in range(20):
        api.down = not api.down
        await asyncio.sleep(4)

    assert first.leading
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_connection_that_died_silently_costs_no_leadership() -> None:
    """The request on it is never answered: the next one goes on another connection, in time."""
    api = the_api()
    first = election(api, "a")
    await first.win()
    first._leasing._api = link = Link(api)
    keeping = asyncio.create_task(first.keep())
    for _ in range(5):
        link.hangs = True
        await asyncio.sleep(TIMES.every + 0.1)
        link.hangs = False
        await asyncio.sleep(TIMES.lasts)

    assert first.leading
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_who_cannot_ask_who_leads_is_not_ready_to_take_over() -> None:
    api = the_api()
    await election(api, "a").win()
    second = election(api, "b")
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(1)
    assert second.problem == ""
    api.down = True
    await asyncio.sleep(4)
    assert "cannot be read" in second.problem
    api.down = False

    await waiting

    assert second.problem == ""


async def test_who_was_replaced_notices() -> None:
    api = the_api()
    first = election(api, "a")
    await first.win()
    await api.patch(rest_client.LEASES, "l", {"spec": {"holderIdentity": "b"}}, namespace="n")

    with pytest.raises(leader_election.LeadershipLost, match="b leads"):
        await first.keep()
    with contextlib.suppress(leader_election.LeadershipLost):
        await first.resign()
    assert spec(api)["holderIdentity"] == "b"
