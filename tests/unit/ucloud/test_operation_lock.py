"""One operation at a time in a cluster, and none is blocked for ever."""

import asyncio
import contextlib

import pytest

from agent import errors
from agent.clients.kube import rest_client
from agent.ucloud import operation_lock
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime


def lock(api: fakes.Api) -> operation_lock.OperationLock:
    """That of one of several processes."""
    return operation_lock.OperationLock(api, namespace="system")


async def taken(api: fakes.Api) -> bool:
    try:
        async with lock(api).held():
            return False
    except operation_lock.Taken:
        return True


async def test_a_second_operation_is_refused() -> None:
    api = fakes.Api()
    for _ in range(2):  # a Lease that is new, and one that is there
        async with lock(api).held():
            assert await taken(api)
        assert not await taken(api)


@pytest.mark.parametrize("there", [True, False])
async def test_of_many_at_the_same_moment_one_begins(there: bool) -> None:
    api = fakes.Api()
    if there:
        assert not await taken(api)
    begun = []

    async def ask() -> None:
        with contextlib.suppress(operation_lock.Taken):
            async with lock(Slow(api)).held():
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


async def test_an_operation_that_fails_releases_the_lock() -> None:
    api = fakes.Api()
    with pytest.raises(LookupError):
        async with lock(api).held():
            raise LookupError

    assert not await taken(api)


async def test_a_holder_that_ends_is_waited_for_as_long_as_the_lease_lasts() -> None:
    api = fakes.Api()
    dead = lock(api)
    lease = await dead._take()
    await asyncio.sleep(59)
    assert await taken(api)
    await asyncio.sleep(2)

    async with lock(api).held():
        # A holder that was only asleep does not release the lock of the next one.
        await dead._release(lease)
        assert await taken(api)


async def test_no_operation_outlasts_its_lock() -> None:
    api = fakes.Api()
    with pytest.raises(errors.TemporaryError, match="too long"):
        async with lock(api).held():
            await asyncio.sleep(100)

    assert not await taken(api)


async def test_an_api_server_that_is_away_is_an_error_like_any_other() -> None:
    api = fakes.Api()
    api.down = True
    with pytest.raises(errors.TemporaryError):
        async with lock(api).held():
            raise AssertionError
    api.down = False

    async with lock(api).held():
        api.down = True
    api.down = False
    assert await taken(api)
    assert api.names(rest_client.LEASES) == ["uimgacc-operation"]
