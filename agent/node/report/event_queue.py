"""Events of pods and of the node, written to the API by one service in the background.

Nobody ever waits for it. An event that does not fit (too many in a short time, or
a queue full because the API is away) is dropped and counted: events are for
people, and no decision rests on them.

Their names follow from what they say, so an agent that starts again and tells the
same finds that the API server has it already. Pods' events have the source that
the users of their cloud filter by, and the prefix that they know; which component
really wrote them stands in `reportingComponent`.
"""

import asyncio
import collections
import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent import errors, metrics
from agent.clients.kube import refusals, rest_client
from agent.kits.aio import backoff, token_bucket
from agent.matching import annotations, decisions
from agent.model import caches, keys, pods, times

logger = logging.getLogger(__name__)

_SOURCES = {caches.Dialect.ALIBABA: "EciService", caches.Dialect.TENCENT: "eklet"}
_PREFIXES = {caches.Dialect.ALIBABA: "[eci.imagecache]"}
_MESSAGE_LIMIT = 1024
_NAME_LIMIT = 200
_FORBIDDEN = 403
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object, *, namespace: str = ""
    ) -> rest_client.Object:
        """Create an object."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """An event on its way: `until` is the loop's time after which nobody wants it."""

    namespace: str
    body: Mapping[str, Any] = dataclasses.field(hash=False)
    until: float


class Poster:
    """Takes events for the pods of a node and for the node itself. See reporting.EventSink.

    `burst` events are taken at once and `rate` a second in the long run. An event that
    could not be delivered within `patience` seconds is dropped.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        rate: float = 5.0,
        burst: int = 100,
        queue: int = 500,
        patience: float = 600.0,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        self._api = api
        self._node = node
        self._bucket = token_bucket.Bucket(rate=rate, burst=burst, clock=_time)
        self._bound = queue
        self._patience = patience
        self._pauses = pauses
        self._waiting: collections.deque[_Post] = collections.deque()
        self._wake = asyncio.Event()

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        """Take one event of a pod for delivery."""
        self._take(pod.namespace, pod_event(pod, event, self._node, times.now()))

    def emit_for_node(self, uid: str, event: decisions.Event) -> None:
        """Take one event of the node for delivery."""
        self._take("default", node_event(self._node, uid, event, times.now()))

    async def run(self) -> None:
        """Deliver for ever, one after the other."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._deliver(self._waiting.popleft())

    def _take(self, namespace: str, body: Mapping[str, Any]) -> None:
        if len(self._waiting) >= self._bound:
            metrics.event_dropped("queue_full")
        elif not self._bucket.take():
            metrics.event_dropped("too_many")
        else:
            until = _time() + self._patience
            self._waiting.append(_Post(namespace=namespace, body=body, until=until))
            self._wake.set()

    async def _deliver(self, post: _Post) -> None:
        pauses = backoff.Backoff(self._pauses, deadline=post.until - _time())
        while True:
            try:
                await self._api.create(rest_client.EVENTS, post.body, namespace=post.namespace)
            except refusals.AlreadyExists:
                return
            except errors.TemporaryError as error:
                if isinstance(error, refusals.Denied) and error.refusal.status == _FORBIDDEN:
                    # Its namespace is going, or we may not: nobody will read it.
                    self._refused(error)
                    return
                if not await pauses.wait(error.delay):
                    metrics.event_dropped("api_unavailable")
                    return
            except errors.PermanentError as error:
                self._refused(error)
                return
            else:
                return

    def _refused(self, error: errors.AgentError) -> None:
        metrics.event_dropped("refused")
        logger.debug("an event is refused", extra={"reason": str(error)})


def pod_event(
    pod: pods.Pod, event: decisions.Event, node: str, now: datetime.datetime
) -> dict[str, Any]:
    """The Event object for a pod, as the cloud whose annotation it has would write it."""
    dialect = annotations.request_of(pod).dialect
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
    }
    message = f"{_PREFIXES.get(dialect, '')}{event.message}"
    identity = (pod.uid, event.reason, message)
    return {
        **_event(involved, dataclasses.replace(event, message=message), now, identity),
        "source": {"component": _SOURCES.get(dialect, keys.COMPONENT), "host": node},
        "reportingComponent": keys.COMPONENT,
        "reportingInstance": node,
    }


def node_event(
    node: str, uid: str, event: decisions.Event, now: datetime.datetime
) -> dict[str, Any]:
    """The Event object for the node; each change is an event of its own."""
    involved = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    identity = (uid, event.reason, event.message, now.isoformat())
    return {
        **_event(involved, event, now, identity),
        "source": {"component": keys.COMPONENT, "host": node},
        "reportingComponent": keys.COMPONENT,
        "reportingInstance": node,
    }


def _event(
    involved: Mapping[str, str],
    event: decisions.Event,
    now: datetime.datetime,
    identity: Sequence[str],
) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
    stem = involved["name"][:_NAME_LIMIT].rstrip("-.")
    moment = times.stamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{stem}.{digest}",
            "namespace": involved.get("namespace", "default"),
        },
        "involvedObject": dict(involved),
        "reason": event.reason,
        "message": event.message.encode()[:_MESSAGE_LIMIT].decode(errors="ignore"),
        "type": event.type,
        "count": 1,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
    }


def _time() -> float:
    return asyncio.get_running_loop().time()
