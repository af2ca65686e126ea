"""Metrics that more than one role exposes, and those of the client of the API server."""

import typing

import prometheus_client

from agent.metrics import registries
from agent.model import records

_DAMAGED_RECORDS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_damaged_records_total",
        "Reads of a record of the store that was damaged, by the kind of the record.",
        ["kind"],
        registry=None,
    ),
    typing.get_args(records.RecordKind),
)
registries.AGENT.register(_DAMAGED_RECORDS)
registries.SNAPSHOTTER.register(_DAMAGED_RECORDS)


def record_damaged(kind: records.RecordKind) -> None:
    """Count a damaged record that was read."""
    _DAMAGED_RECORDS.labels(kind).inc()


_UNSIGNED_RECORDS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_unsigned_records_total",
        "Reads of a record of the store that no key in use has signed, where that is refused, by"
        " kind.",
        ["kind"],
        registry=None,
    ),
    typing.get_args(records.SignedKind),
)
registries.AGENT.register(_UNSIGNED_RECORDS)
registries.SNAPSHOTTER.register(_UNSIGNED_RECORDS)


def record_unsigned(kind: records.SignedKind) -> None:
    """Count a record that is not used because it is not signed."""
    _UNSIGNED_RECORDS.labels(kind).inc()


API_REQUEST = prometheus_client.Counter(
    "uimgacc_api_requests_total",
    "Requests to the Kubernetes API server, by method (WATCH apart) and HTTP status; "
    "none: no connection, or a broken one, deadline: no answer in time.",
    ["verb", "code"],
    registry=registries.AGENT,
)

EventDrop = typing.Literal["api_unavailable", "queue_full", "refused", "too_many"]
_EVENT_DROPPED = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_events_dropped_total",
        "Events that were not written to the API, by reason.",
        ["reason"],
        registry=None,
    ),
    typing.get_args(EventDrop),
)
registries.AGENT.register(_EVENT_DROPPED)
registries.CONTROLLER.register(_EVENT_DROPPED)


def event_dropped(reason: EventDrop) -> None:
    """Count an event that is not written."""
    _EVENT_DROPPED.labels(reason).inc()
