"""What the agent shows over HTTP: a page for people, the same as JSON, metrics and probes."""

from collections.abc import Callable

import msgspec
from aiohttp import web

from agent.kits.web import html, listener
from agent.metrics import registries
from agent.model import times
from agent.node.report import status
from agent.node.report import status_page as views


def metrics_application() -> web.Application:
    """Nothing but the metrics, which name no image: for an address that others can reach."""
    app = web.Application()
    listener.add_metrics(app, registries.AGENT)
    return app


def application(
    describe: Callable[[], status.Status], missing: Callable[[], str]
) -> web.Application:
    """The routes. `missing` says what keeps the node from being ready, or ""."""

    async def index(_request: web.Request) -> web.Response:
        now = times.now().replace(microsecond=0)
        return web.Response(body=views.render(describe(), now=now), headers=html.headers())

    async def show(_request: web.Request) -> web.Response:
        body = msgspec.json.format(msgspec.json.encode(describe()), indent=2)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return web.Response(body=body + b"\n", headers=headers)

    app = metrics_application()
    listener.add_probes(app, missing)
    app.router.add_get("/", index)
    app.router.add_get("/status", show)
    return app
