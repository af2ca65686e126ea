"""Events, written to the Kubernetes API by one service in the background.

No caller waits for it. An event that does not fit (too many in a short time, or a full
queue while the API server is away) is dropped and counted: events are for people, and
no decision depends on them. A write that fails is tried again for some minutes.

The name of an event follows from its content, so a write that is repeated, also by the
next process, finds the event there already and makes no second one.
"""

import asyncio
import collections
import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.kits.aio import backoff, token_bucket
from agent.metrics import shared_metrics
from agent.model import keys, times

logger = logging.getLogger(__name__)

_MESSAGE_LIMIT = 1024
_NAME_LIMIT = 200
_FORBIDDEN = 403
# Events of objects that are in no namespace are in this one.
_NAMESPACE = "default"


class Api(Protocol):
    """The part of the API that is used: agent.clients.kube.rest_client.Client."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object, *, namespace: str = ""
    ) -> rest_client.Object:
        """Create an object."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Involved:
    """The object that an event is about; `namespace` is "" where it has none."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event. `component` and `host` are its source; `type` is Normal or Warning.

    `once`: the same content is one event for as long as the API server keeps it (an
    hour). Otherwise each time is an event of its own.
    """

    involved: Involved
    reason: str
    message: str
    type: str = "Normal"
    component: str = keys.COMPONENT
    host: str = ""
    once: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`burst` events are taken at once and `rate` a second in the long run; `queue` wait.

    An event is dropped `patience` seconds after it was emitted; `pauses` are between
    the tries.
    """

    rate: float = 5.0
    burst: int = 100
    queue: int = 500
    patience: float = 600.0
    pauses: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """An event in the queue: after `until`, by the loop's clock, it is dropped."""

    namespace: str
    body: Mapping[str, Any] = dataclasses.field(hash=False)
    until: float


class EventWriter:
    """Takes events, and writes them in the order in which they were emitted."""

    def __init__(self, api: Api, limits: Limits | None = None) -> None:
        self._api = api
        self._limits = limits or Limits()
        self._bucket = token_bucket.Bucket(
            rate=self._limits.rate, burst=self._limits.burst, clock=_time
        )
        self._pending: collections.deque[_Pending] = collections.deque()
        self._wake = asyncio.Event()

    def emit(self, record: Record) -> None:
        """Take an event for delivery, or drop it. Never waits, never raises."""
        if len(self._pending) >= self._limits.queue:
            shared_metrics.event_dropped("queue_full")
        elif not self._bucket.take():
            shared_metrics.event_dropped("too_many")
        else:
            namespace = record.involved.namespace or _NAMESPACE
            until = _time() + self._limits.patience
            body = manifest(record, times.now())
            self._pending.append(_Pending(namespace=namespace, body=body, until=until))
            self._wake.set()

    async def run(self) -> None:
        """Deliver for ever, one after the other."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._deliver(self._pending.popleft())

    async def _deliver(self, event: _Pending) -> None:
        pauses = backoff.Backoff(self._limits.pauses, deadline=event.until - _time())
        while True:
            try:
                await self._api.create(rest_client.EVENTS, event.body, namespace=event.namespace)
            except refusals.AlreadyExists:
                return
            except errors.TemporaryError as error:
                if isinstance(error, refusals.Denied) and error.refusal.status == _FORBIDDEN:
                    # The namespace is being deleted, or the role lacks the right.
                    _refused(error)
                    return
                if not await pauses.wait(error.delay):
                    shared_metrics.event_dropped("api_unavailable")
                    return
            except errors.PermanentError as error:
                _refused(error)
                return
            else:
                return


def manifest(record: Record, now: datetime.datetime) -> dict[str, Any]:
    """The Event object, at a time."""
    involved = record.involved
    content = [involved.uid, record.reason, record.message]
    content += [] if record.once else [now.isoformat()]
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    moment = times.stamp(now)
    source = {"component": record.component, "host": record.host}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{involved.name[:_NAME_LIMIT].rstrip('-.')}.{digest}",
            "namespace": involved.namespace or _NAMESPACE,
        },
        "involvedObject": _written(
            apiVersion=involved.api_version,
            kind=involved.kind,
            namespace=involved.namespace,
            name=involved.name,
            uid=involved.uid,
        ),
        "reason": record.reason,
        "message": record.message.encode()[:_MESSAGE_LIMIT].decode(errors="ignore"),
        "type": record.type,
        "count": 1,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": _written(**source),
    }
    return body | _written(reportingComponent=keys.COMPONENT, reportingInstance=record.host)


def _written(**fields: str) -> dict[str, str]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value}


def _refused(error: errors.AgentError) -> None:
    shared_metrics.event_dropped("refused")
    logger.debug("an event is refused", extra={"reason": str(error)})


def _time() -> float:
    return asyncio.get_running_loop().time()
