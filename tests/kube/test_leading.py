"""The controller's Lease beside all else that the controller asks of the API server."""

import asyncio
import pathlib

import pytest

from agent import errors
from agent.clients.kube import rest_client
from agent.roles import controller
from agent.settings import controller_settings
from tests.kube import apis, faults
from tests.kube.test_reporting import until

_WAITING = 100
"""More than a client has connections."""


async def ask(client: rest_client.Client, number: int) -> None:
    with pytest.raises(errors.TemporaryError):
        await client.get(rest_client.NODES, f"node-{number}")


def renewals(proxy: faults.Proxy) -> int:
    return sum(seen.method == "PATCH" and "/leases/" in seen.path for seen in proxy.seen)


async def test_a_renewal_does_not_wait_for_hundreds_of_requests_without_an_answer(
    api: apis.Api, proxy: faults.Proxy, tmp_path: pathlib.Path
) -> None:
    wanted = controller_settings.Controller(
        store=tmp_path,
        namespace=api.namespace,
        kubeconfig=api.kubeconfig(server=proxy.url),
        listen="",
        api_seconds=60.0,
        lease_seconds=6.0,
    )
    async with controller._opened(wanted) as (leader, _), asyncio.TaskGroup() as group:
        await leader.election.win()
        proxy.hang(which=lambda seen: "/nodes/" in seen.path)
        asked = [group.create_task(ask(leader._client, number)) for number in range(_WAITING)]
        await until(lambda: any("/nodes/" in seen.path for seen in proxy.seen))
        before = renewals(proxy)
        keeping = group.create_task(leader.election.keep())
        await until(lambda: keeping.done() or renewals(proxy) >= before + 2)

        assert leader.election.leading
        for task in (keeping, *asked):
            task.cancel()
