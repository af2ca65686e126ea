"""The one way to serve HTTP in an event loop, and the routes that every role has."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

import prometheus_client
from aiohttp import web

from agent.kits import addresses
from agent.kits.web import connection_bounds

_DRAIN_SECONDS = 2.0
"""How long requests may go on once the context ends."""
_CLOSE_SECONDS = 5.0
_BACKLOG = 128
_BOUNDS = connection_bounds.Bounds()


@contextlib.asynccontextmanager
async def serving(
    app: web.Application,
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    without_host: str = "127.0.0.1",
    bounds: connection_bounds.Bounds = _BOUNDS,
) -> AsyncIterator[str]:
    """Serve on HOST:PORT for the time of the context; yields the address (of port 0, the real one).

    "" serves nothing, and yields "". `without_host` is the host of an address that names none
    ("": all interfaces). `bounds` are for its connections. Raises OSError when the address
    cannot be had.
    """
    if not address:
        yield ""
        return
    host, port = addresses.split(address, without_host=without_host)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=_DRAIN_SECONDS
    )
    connections = connection_bounds.Connections(bounds)
    connections.watch(app)
    await runner.setup()
    make = runner.server
    assert make is not None
    server: asyncio.Server | None = None
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: connections.protocol(make(), tls),
            host or None,
            port,
            backlog=_BACKLOG,
            reuse_address=True,
        )
        yield addresses.join(*server.sockets[0].getsockname()[:2])
    finally:
        if server is not None:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await runner.cleanup()


def add_metrics(app: web.Application, registry: prometheus_client.CollectorRegistry) -> None:
    """Serve the metrics of a registry at /metrics."""

    async def expose(_request: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(registry)
        headers = {"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        return web.Response(body=body, headers=headers)

    app.router.add_get("/metrics", expose)


def add_probes(app: web.Application, missing: Callable[[], str]) -> None:
    """Serve /healthz and /readyz. `missing` says what keeps the process from being ready, or ""."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = missing()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
