"""Events about pods, emitted once each. Without a cluster they go to the log."""

import collections
import logging
from typing import Protocol

from agent.matching import decisions
from agent.model import pods

logger = logging.getLogger(__name__)

_REMEMBERED = 4096


class EventSink(Protocol):
    """Where a pod's events go. It never waits and never raises: a pod must not depend on it."""

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        """Take one event for delivery."""


class LogSink:
    """Writes events into the log; the reason and text are those of the pod's cloud."""

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        """Log one event; a warning as a warning."""
        level = logging.WARNING if event.warning else logging.INFO
        logger.log(
            level,
            "event",
            extra={
                "namespace": pod.namespace,
                "pod": pod.name,
                "type": event.type,
                "reason": event.reason,
                "text": event.message,
            },
        )


class Once:
    """Passes each event of a pod on once, however often the pod is served."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._emitted: collections.OrderedDict[tuple[str, ...], None] = collections.OrderedDict()

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        """Take one event for delivery, unless it has been emitted before."""
        key = (pod.namespace, pod.name, pod.uid, event.reason, event.message)
        if key in self._emitted:
            return
        self._emitted[key] = None
        while len(self._emitted) > _REMEMBERED:
            self._emitted.popitem(last=False)
        self._sink.emit(pod, event)

    def forget(self, pod_key: str) -> None:
        """Forget a pod that is gone: one that comes under its name is another."""
        for key in [key for key in self._emitted if f"{key[0]}/{key[1]}" == pod_key]:
            del self._emitted[key]
