"""Events of ImageCache objects: what `kubectl describe` shows."""

from typing import Protocol

from agent.clients.kube import event_writer
from agent.control.caches import cache_object
from agent.control.decisions import outcome
from agent.model import keys

LIMITS = event_writer.Limits(rate=10.0, burst=200, queue=1000)
"""Of a cluster with many caches, all written by one controller."""


class Writer(Protocol):
    """Where events go (agent.clients.kube.event_writer.EventWriter)."""

    def emit(self, record: event_writer.Record) -> None:
        """Take an event for delivery. Never waits, never raises."""


class CacheEvents:
    """Emits events of caches."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def emit(self, cache: cache_object.CacheObject, event: outcome.Event) -> None:
        """Take an event for delivery."""
        involved = event_writer.Involved(
            api_version=f"{cache.key.group}/v1",
            kind=keys.IMAGE_CACHE,
            name=cache.key.name,
            uid=cache.uid,
        )
        record = event_writer.Record(
            involved=involved,
            reason=event.reason,
            message=event.message,
            type="Warning" if event.warning else "Normal",
        )
        self._writer.emit(record)
