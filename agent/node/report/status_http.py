"""What the agent shows over HTTP: a page for people, the same as JSON, metrics and probes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import prometheus_client
from aiohttp import web

from agent import metrics
from agent.kits.web import html
from agent.model import times
from agent.node.report import status
from agent.node.report import status_page as views


def metrics_application() -> web.Application:
    """Nothing but the metrics, which name no image: for an address that others can reach."""

    async def expose(_request: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(metrics.AGENT)
        return web.Response(
            body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.router.add_get("/metrics", expose)
    return app


def application(
    describe: Callable[[], status.Status], is_ready: Callable[[], str]
) -> web.Application:
    """The routes. `is_ready` says "" or what is missing."""

    async def index(_request: web.Request) -> web.Response:
        now = times.now().replace(microsecond=0)
        return web.Response(body=views.render(describe(), now=now), headers=html.headers())

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        missing = is_ready()
        return web.Response(status=503 if missing else 200, text=f"{missing or 'ok'}\n")

    async def show(_request: web.Request) -> web.Response:
        body = msgspec.json.format(msgspec.json.encode(describe()), indent=2)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return web.Response(body=body + b"\n", headers=headers)

    app = metrics_application()
    app.router.add_get("/", index)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/status", show)
    return app


@contextlib.asynccontextmanager
async def listening(app: web.Application, address: str) -> AsyncIterator[str]:
    """Serve on `host:port` for the time of the context; yields where (port 0: which one).

    Raises OSError when the address cannot be had.
    """
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]") or "127.0.0.1", int(port))
        await site.start()
        found = runner.addresses[0]
        yield f"{found[0]}:{found[1]}"
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await runner.cleanup()
