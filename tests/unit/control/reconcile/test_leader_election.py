"""One leader, in fake time, whatever happens to the API server and to the others."""

import asyncio
import contextlib
import copy
from typing import Any

import pytest

from agent.clients.kube import refusals, rest_client
from agent.control.reconcile import leader_election

pytestmark = pytest.mark.looptime

TIMES = leader_election.Times(lasts=15.0)


def refusal(status: int) -> Any:
    return refusals.error_of("a request", status, b"{}", {})


class Api:
    """One Lease, written only as it was read; may be away."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False
        self.hangs = False

    async def _answer(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        if self.away:
            raise refusals.Unavailable("away")

    async def get(self, _resource: rest_client.Resource, _name: str, *, namespace: str = "") -> Any:
        await self._answer()
        if self.lease is None:
            raise refusal(404)
        return copy.deepcopy(self.lease)

    async def create(
        self, _resource: rest_client.Resource, body: Any, *, namespace: str = ""
    ) -> Any:
        await self._answer()
        if self.lease is not None:
            raise refusals.error_of("r", 409, b'{"reason": "AlreadyExists"}', {})
        self._write(body["spec"])
        return self.lease

    async def patch(
        self, _resource: rest_client.Resource, _name: str, body: Any, *, namespace: str = ""
    ) -> Any:
        await self._answer()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise refusal(409)
        self._write({**self.lease["spec"], **body["spec"]})
        return self.lease

    def _write(self, spec: Any) -> None:
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


def election(api: Api, identity: str) -> leader_election.Election:
    return leader_election.Election(api, namespace="n", name="l", identity=identity, times=TIMES)


async def test_the_first_leads_and_others_wait_while_it_renews() -> None:
    api = Api()
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
    api = Api()
    all_ = [election(api, f"c{at}") for at in range(10)]
    tasks = [asyncio.create_task(each.win()) for each in all_]
    await asyncio.sleep(10)

    assert sum(each.leading for each in all_) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_ends_without_a_word_is_replaced_when_its_lease_is_over() -> None:
    api = Api()
    await election(api, "a").win()
    began = asyncio.get_running_loop().time()

    await election(api, "b").win()

    assert 15.0 <= asyncio.get_running_loop().time() - began <= 20.0
    assert (api.holder, api.lease["spec"]["leaseTransitions"]) == ("b", 1)


async def test_who_resigns_is_replaced_at_once_and_its_next_container_goes_on() -> None:
    api = Api()
    first = election(api, "a")
    await first.win()
    await election(api, "a").win()  # the same pod, after its container was killed
    began = asyncio.get_running_loop().time()
    await first.resign()

    await election(api, "b").win()

    assert asyncio.get_running_loop().time() - began < 1


@pytest.mark.parametrize("fault", ["away", "hangs"])
async def test_who_cannot_renew_stops_before_another_may_begin(fault: str) -> None:
    api = Api()
    first = election(api, "a")
    await first.win()
    began = asyncio.get_running_loop().time()
    setattr(api, fault, True)

    with pytest.raises(leader_election.LeadershipLost):
        await first.keep()

    assert not first.leading
    assert asyncio.get_running_loop().time() - began < TIMES.lasts


async def test_a_short_absence_of_the_api_server_costs_nothing() -> None:
    api = Api()
    first = election(api, "a")
    await first.win()
    keeping = asyncio.create_task(first.keep())
    for _ in range(20):
        api.away = not api.away
        await asyncio.sleep(4)

    assert first.leading
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_who_cannot_ask_who_leads_is_not_ready_to_take_over() -> None:
    api = Api()
    await election(api, "a").win()
    second = election(api, "b")
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(1)
    assert second.problem == ""
    api.away = True
    await asyncio.sleep(4)
    assert "who leads" in second.problem
    api.away = False

    await waiting

    assert second.problem == ""


async def test_who_was_replaced_notices() -> None:
    api = Api()
    first = election(api, "a")
    await first.win()
    api._write({**api.lease["spec"], "holderIdentity": "b"})

    with pytest.raises(leader_election.LeadershipLost, match="b leads"):
        await first.keep()
    with contextlib.suppress(leader_election.LeadershipLost):
        await first.resign()
    assert api.holder == "b"
