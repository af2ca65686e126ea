"""What the controller says over HTTP of itself: metrics, and whether it lives and is ready."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import prometheus_client
from aiohttp import web

from agent import metrics


def application(missing: Callable[[], str]) -> web.Application:
    """The routes. `missing` says "" or what keeps the controller from its work."""

    async def expose(_request: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(metrics.CONTROLLER)
        return web.Response(
            body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = missing()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    app = web.Application()
    app.router.add_get("/metrics", expose)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


@contextlib.asynccontextmanager
async def listening(app: web.Application, address: str) -> AsyncIterator[str]:
    """Serve on `host:port` for the time of the context; yields where. "" is nowhere."""
    if not address:
        yield ""
        return
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or "127.0.0.1", int(port)).start()
        found = runner.addresses[0]
        yield f"{found[0]}:{found[1]}"
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await runner.cleanup()
