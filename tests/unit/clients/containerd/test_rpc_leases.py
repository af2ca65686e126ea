"""Leases that protect an unfinished registration end with it, whatever was away meanwhile."""

import pathlib
import tempfile
from collections.abc import AsyncIterator

import pytest

from agent.clients.containerd import rpc
from tests.fakes import containerd as fakes


@pytest.fixture
async def fake() -> AsyncIterator[fakes.Fake]:
    with tempfile.TemporaryDirectory(prefix="fc") as folder:
        address = pathlib.Path(folder) / "s"
        async with fakes.running(address) as running:
            running.address = address
            yield running


@pytest.fixture
async def client(fake) -> AsyncIterator[rpc.Client]:
    async with rpc.Client(str(fake.address), deadline=5) as connected:
        yield connected


async def test_a_lease_that_could_not_be_ended_is_ended_at_the_next_connection(
    fake, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it, and the snapshots that it keeps, stay for ten minutes after a kill of containerd."""
    held = await client.create_lease(600)
    left = await client.create_lease(600)

    async def away(*arguments: object) -> None:
        raise rpc.UnavailableError("containerd is away")

    with monkeypatch.context() as patched:
        patched.setattr(client, "_call", away)
        with pytest.raises(rpc.UnavailableError):
            await client.delete_lease(left)

    assert await client.delete_old_leases() == 1
    assert set(fake.leases) == {held}


async def test_leases_of_an_agent_that_was_killed_are_ended(fake, client) -> None:
    async with rpc.Client(str(fake.address), deadline=5) as killed:
        await killed.create_lease(600)

    assert await client.delete_old_leases() == 1
    assert fake.leases == {}
