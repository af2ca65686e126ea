"""A Lease of Kubernetes by the clock of the API server."""

import asyncio

import pytest

from agent.clients.kube import lease, rest_client
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime


def leasing(api: fakes.Api) -> lease.Leasing:
    return lease.Leasing(api, namespace="n", name="l")


async def test_a_lease_is_taken_renewed_and_released() -> None:
    api = fakes.Api()
    one = leasing(api)
    assert await one.read() is None
    taken = await one.take(None, holder="a", seconds=15)
    await asyncio.sleep(5)
    renewed = await one.take(taken, holder="a", seconds=15)
    await one.release(renewed)
    last = await one.take(await one.read(), holder="b", seconds=15)

    assert taken.renewed == fakes.START
    assert one.age(renewed) == 0
    assert [each.transitions for each in (taken, renewed, last)] == [0, 0, 1]


async def test_a_lease_that_has_changed_is_not_written() -> None:
    api = fakes.Api()
    one = leasing(api)
    old = await one.take(None, holder="a", seconds=15)
    new = await one.take(old, holder="b", seconds=15)
    for current in (None, old):
        with pytest.raises(lease.Raced):
            await one.take(current, holder="c", seconds=15)
    with pytest.raises(lease.Raced):
        await one.release(old)

    assert await one.read() == new


async def test_a_lease_is_free_by_the_servers_clock() -> None:
    """This machine's may be wrong by years: the fake server's is."""
    api = fakes.Api()
    one = leasing(api)
    current = await one.take(None, holder="a", seconds=15)
    await asyncio.sleep(14)
    before = one.is_free(current)
    await asyncio.sleep(2)

    assert (before, one.is_free(current)) == (False, True)


@pytest.mark.parametrize("renewed", ["2026-07-01T02:00:00.000000Z", "yesterday", None])
async def test_a_stamp_that_no_server_has_written_blocks_no_one(renewed) -> None:
    api = fakes.Api()
    body = {
        "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 60, "renewTime": renewed},
    }
    api.put(rest_client.LEASES, body, namespace="n")
    current = await leasing(api).read()

    assert leasing(api).is_free(current)
