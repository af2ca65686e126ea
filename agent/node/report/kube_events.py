"""Events of pods and of the node, for the API.

Pods' events have the source that the users of their cloud filter by, and the prefix
that they know; `reportingComponent` names the component that wrote them.
"""

from typing import Protocol

from agent.clients.kube import event_writer
from agent.matching import annotations, decisions
from agent.model import caches, keys, pods

_SOURCES = {caches.Dialect.ALIBABA: "EciService", caches.Dialect.TENCENT: "eklet"}
_PREFIXES = {caches.Dialect.ALIBABA: "[eci.imagecache]"}


class Writer(Protocol):
    """Where events go (agent.clients.kube.event_writer.EventWriter)."""

    def emit(self, record: event_writer.Record) -> None:
        """Take an event for delivery. Never waits, never raises."""


class KubeEvents:
    """Emits events of the pods of a node, and of the node itself. See pod_events.EventSink."""

    def __init__(self, writer: Writer, node: str) -> None:
        self._writer = writer
        self._node = node

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        """Take one event of a pod for delivery."""
        self._writer.emit(pod_event(pod, event, self._node))

    def emit_for_node(self, uid: str, event: decisions.Event) -> None:
        """Take one event of the node for delivery."""
        self._writer.emit(node_event(self._node, uid, event))


def pod_event(pod: pods.Pod, event: decisions.Event, node: str) -> event_writer.Record:
    """The event of a pod, as the cloud whose annotation it has would write it."""
    dialect = annotations.request_of(pod).dialect
    return event_writer.Record(
        involved=event_writer.Involved(
            api_version="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid
        ),
        reason=event.reason,
        message=f"{_PREFIXES.get(dialect, '')}{event.message}",
        type=event.type,
        component=_SOURCES.get(dialect, keys.COMPONENT),
        host=node,
        once=True,
    )


def node_event(node: str, uid: str, event: decisions.Event) -> event_writer.Record:
    """The event of the node; each change is an event of its own."""
    return event_writer.Record(
        involved=event_writer.Involved(api_version="v1", kind="Node", name=node, uid=uid),
        reason=event.reason,
        message=event.message,
        type=event.type,
        host=node,
    )
