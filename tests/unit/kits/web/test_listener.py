import socket

import aiohttp
import prometheus_client
import pytest
from aiohttp import web

from agent.kits.web import listener


def application(missing: list[str]) -> web.Application:
    app = web.Application()
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("depth", "Of the well.", registry=registry).set(7)
    listener.add_metrics(app, registry)
    listener.add_probes(app, lambda: missing[0])
    return app


async def test_metrics_and_probes_are_served() -> None:
    missing = [""]
    async with (
        listener.serving(application(missing), "127.0.0.1:0") as address,
        aiohttp.ClientSession(f"http://{address}") as session,
    ):
        assert "depth 7.0" in await (await session.get("/metrics")).text()
        assert (await session.get("/healthz")).status == 200
        assert (await session.get("/readyz")).status == 200

        missing[0] = "the store is away"
        response = await session.get("/readyz")

        assert (response.status, await response.text()) == (503, "the store is away\n")
        assert (await session.get("/healthz")).status == 200


async def test_no_address_serves_nothing() -> None:
    async with listener.serving(application([""]), "") as address:
        assert address == ""


async def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match="address already in use"):
            async with listener.serving(application([""]), f"127.0.0.1:{port}"):
                pass
