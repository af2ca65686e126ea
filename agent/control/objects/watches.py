"""The watches of the controller, by kopf: which kinds there are, every object, every change.

kopf notices by itself when the kind of a cloud is installed, and gets over watches that
break. It runs in a thread with an event loop of its own: it takes signals for itself where it
can, and ends every task of its loop when it ends. What comes is handed to the
controller's loop, and nothing is written from here.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
import kopf

from agent.clients.kube import connection
from agent.kits.aio import threads
from agent.model import caches, keys

logger = logging.getLogger(__name__)

Deliver = Callable[[str, str | None, dict[str, Any]], None]
"""Takes a plural, a kind of event (ADDED, MODIFIED, DELETED; None: listed) and an object."""

_READ_AGAIN = 300.0


class Watcher:
    """Watches image caches of all dialects, and the builders in `namespace`."""

    def __init__(
        self, credentials: connection.Credentials, *, namespace: str, deliver: Deliver
    ) -> None:
        self._credentials = credentials
        self._namespace = namespace
        self._deliver = deliver
        self._stop = threading.Event()

    async def run(self) -> None:
        """Watch for ever."""
        loop = asyncio.get_running_loop()

        def deliver(plural: str, kind: str | None, body: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(self._deliver, plural, kind, body)

        try:
            await threads.start("watches", self._serve, deliver)
        finally:
            self._stop.set()

    def _serve(self, deliver: Deliver) -> None:
        # It tells of each event of each object.
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
        logging.getLogger("kopf._core.reactor.running").addFilter(_not_about_signals)
        # Else kopf asks for the name of its user, who has none in most clusters.
        identity: Any = keys.CONTROLLER
        asyncio.run(
            kopf.operator(
                registry=_registry(self._credentials, deliver),
                settings=_settings(),
                identity=identity,
                standalone=True,
                namespaces=[self._namespace],
                stop_flag=self._stop,
            )
        )


def _registry(credentials: connection.Credentials, deliver: Deliver) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        access = await credentials.read()
        headers = {"User-Agent": keys.CONTROLLER}
        if access.authorization:
            headers["Authorization"] = access.authorization
        connector = aiohttp.TCPConnector(limit=0, ssl=access.tls or True)
        session = aiohttp.ClientSession(connector=connector, headers=headers, proxy=access.proxy)
        return kopf.AiohttpSession(server=access.server, aiohttp_session=session)

    async def saw(event: Any, resource: Any, **_: Any) -> None:
        deliver(resource.plural, event["type"], dict(event["object"]))

    for group in caches.GROUPS:
        kopf.on.event(group, "v1", "imagecaches", registry=registry, id=group)(saw)
    ours: Any = dict(keys.BUILDER_LABELS)
    kopf.on.event("batch", "v1", "jobs", labels=ours, registry=registry, id="jobs")(saw)
    kopf.on.event("", "v1", "pods", labels=ours, registry=registry, id="pods")(saw)
    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.networking.request_timeout = _READ_AGAIN
    # The controller ends itself: see agent.roles.controller.
    settings.process.ultimate_exiting_timeout = None
    # Each object that is seen has a task for as long as this.
    settings.queueing.idle_timeout = 1.0
    return settings


def _not_about_signals(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("OS signals are ignored")
