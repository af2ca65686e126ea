"""One operation at a time in a cluster, whoever asks, and none is shut out for ever."""

import asyncio
import contextlib
import datetime

import pytest

from agent import errors
from agent.clients.kube import rest_client
from agent.control.objects import exclusion
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

START = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


def now() -> datetime.datetime:
    return START + datetime.timedelta(seconds=asyncio.get_running_loop().time())


def turns(api: fakes.Api) -> exclusion.Turns:
    """Of one of several processes."""
    return exclusion.Turns(api, namespace="system", wall_clock=now)


async def taken(api: fakes.Api) -> bool:
    try:
        async with turns(api).one():
            return False
    except exclusion.Taken:
        return True


async def test_who_comes_second_is_told_so() -> None:
    api = fakes.Api()
    for _ in range(2):  # a Lease that is new, and one that is there
        async with turns(api).one():
            assert await taken(api)
        assert not await taken(api)


@pytest.mark.parametrize("there", [True, False])
async def test_of_many_at_the_same_moment_one_begins(there: bool) -> None:
    api = fakes.Api()
    if there:
        assert not await taken(api)
    begun = []

    async def ask() -> None:
        with contextlib.suppress(exclusion.Taken):
            async with turns(Slow(api)).one():
                begun.append(asyncio.get_running_loop().time())
                await asyncio.sleep(10)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(ask())

    assert len(begun) == 1


class Slow:
    """Between what it reads and what it writes, others do as well."""

    def __init__(self, api: fakes.Api) -> None:
        self._api = api

    async def get(self, *request, **more):
        try:
            return await self._api.get(*request, **more)
        finally:
            await asyncio.sleep(1)

    def __getattr__(self, name):
        return getattr(self._api, name)


async def test_an_operation_that_fails_leaves_the_turn_to_others() -> None:
    api = fakes.Api()
    with pytest.raises(LookupError):
        async with turns(api).one():
            raise LookupError

    assert not await taken(api)


async def test_who_ends_in_its_turn_is_waited_for_as_long_as_the_lease_lasts() -> None:
    api = fakes.Api()
    dead = turns(api)
    lease = await dead._take()
    await asyncio.sleep(59)
    assert await taken(api)
    await asyncio.sleep(2)

    async with turns(api).one():
        # Who was only asleep takes nobody's turn by giving back its own.
        await dead._give_back(lease)
        assert await taken(api)


async def test_no_operation_outlasts_its_turn() -> None:
    api = fakes.Api()
    with pytest.raises(errors.TemporaryError, match="too long"):
        async with turns(api).one():
            await asyncio.sleep(100)

    assert not await taken(api)


async def test_an_api_server_that_is_away_is_an_error_like_any_other() -> None:
    api = fakes.Api()
    api.down = True
    with pytest.raises(errors.TemporaryError):
        async with turns(api).one():
            raise AssertionError
    api.down = False

    async with turns(api).one():
        api.down = True
    api.down = False
    assert await taken(api)
    assert api.names(rest_client.LEASES) == ["uimgacc-operation"]
