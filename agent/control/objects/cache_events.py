"""Events on ImageCache objects: what `kubectl describe` shows. Never in anybody's way."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.decisions import outcome
from agent.kits.aio import token_bucket
from agent.model import keys, times

logger = logging.getLogger(__name__)

# Objects that are in no namespace have their events in this one.
_NAMESPACE = "default"
_WAITING = 1000
_PER_SECOND = 10.0
_BURST = 200
_MESSAGE = 1000


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object, *, namespace: str = ""
    ) -> rest_client.Object:
        """Create an object."""


class Teller:
    """Writes events in the order in which they are told; what does not fit is dropped."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_WAITING)
        clock = asyncio.get_running_loop().time
        self._bucket = token_bucket.Bucket(rate=_PER_SECOND, burst=_BURST, clock=clock)

    def tell(self, cache: cache_object.CacheObject, event: outcome.Event) -> None:
        """Take an event."""
        if not self._waiting.full() and self._bucket.take():
            self._waiting.put_nowait(_manifest(cache, event))

    async def run(self) -> None:
        """Write events for ever; one that is refused is not tried again."""
        while True:
            body = await self._waiting.get()
            try:
                await self._api.create(rest_client.EVENTS, body, namespace=_NAMESPACE)
            except errors.AgentError as error:
                logger.info("an event is not written", extra={"reason": str(error)})


def _manifest(cache: cache_object.CacheObject, event: outcome.Event) -> dict[str, Any]:
    now = times.stamp(times.now())
    involved = {
        "apiVersion": f"{cache.key.group}/v1",
        "kind": keys.IMAGE_CACHE,
        "name": cache.key.name,
        "uid": cache.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{cache.key.name[:200]}.{uuid.uuid4().hex[:16]}",
            "namespace": _NAMESPACE,
        },
        "involvedObject": involved,
        "reason": event.reason,
        "message": event.message[:_MESSAGE],
        "type": "Warning" if event.warning else "Normal",
        "source": {"component": keys.COMPONENT},
        "reportingComponent": keys.COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
