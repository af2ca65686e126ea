"""Metrics of the agent: copies of layers on the node's disk, and from where layers are read."""

import typing

import prometheus_client

from agent.metrics import registries

LOCAL_COPIES = prometheus_client.Gauge(
    "uimgacc_local_copies",
    "Layers of which this node has a copy of its own.",
    registry=registries.AGENT,
)
LOCAL_BYTES = prometheus_client.Gauge(
    "uimgacc_local_bytes",
    "Bytes that these copies take on the node's disk.",
    registry=registries.AGENT,
)
LOCAL_IMAGES = prometheus_client.Gauge(
    "uimgacc_local_images",
    "Images that this node can start without the store: records and all layers are here.",
    registry=registries.AGENT,
)
LOCAL_BUDGET_BYTES = prometheus_client.Gauge(
    "uimgacc_local_budget_bytes",
    "What local copies may take now: their own bound, or less where the disk has too little free.",
    registry=registries.AGENT,
)
LOCAL_COPIED_BYTES = prometheus_client.Counter(
    "uimgacc_local_copied_bytes_total",
    "Bytes that were read from the store to make local copies.",
    registry=registries.AGENT,
)

Eviction = typing.Literal["budget", "deleted", "pressure"]
_LOCAL_EVICTIONS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_local_evictions_total",
        "Local copies that were removed: for others, with their layer, for want of free disk.",
        ["reason"],
        registry=registries.AGENT,
    ),
    typing.get_args(Eviction),
)


def evicted(reason: Eviction) -> None:
    """Count a local copy that was removed."""
    _LOCAL_EVICTIONS.labels(reason).inc()


CopyFailure = typing.Literal[
    "disk_error", "disk_full", "not_switched", "store_deadline", "store_error", "wrong_bytes"
]
_LOCAL_FAILURES = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_local_failures_total",
        "Attempts to copy a layer, or to switch a mount to the copy, that failed, by reason.",
        ["reason"],
        registry=registries.AGENT,
    ),
    typing.get_args(CopyFailure),
)


def copy_failed(reason: CopyFailure) -> None:
    """Count an attempt that failed."""
    _LOCAL_FAILURES.labels(reason).inc()


Side = typing.Literal["local", "store"]
_LOCAL_SWITCHES = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_local_switches_total",
        "Mounted layers that were switched to another file, by where that is.",
        ["to"],
        registry=registries.AGENT,
    ),
    typing.get_args(Side),
)
_USED_BYTES = registries.with_series(
    prometheus_client.Gauge(
        "uimgacc_used_layer_bytes",
        "Bytes of the layers that running containers stand on, by where they are read from.",
        ["source"],
        registry=registries.AGENT,
    ),
    typing.get_args(Side),
)
_USED_CONTAINERS = registries.with_series(
    prometheus_client.Gauge(
        "uimgacc_used_containers",
        "Running containers and image volumes on layers of the store: local, if on this node's"
        " disk.",
        ["source"],
        registry=registries.AGENT,
    ),
    typing.get_args(Side),
)
_READ_BYTES = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_read_bytes_total",
        "Bytes that this node has read: from the store, for whatever purpose, and from local"
        " copies.",
        ["source"],
        registry=registries.AGENT,
    ),
    typing.get_args(Side),
)


def switched(to: Side) -> None:
    """Count a mounted layer that was switched to another file."""
    _LOCAL_SWITCHES.labels(to).inc()


def layers_used(*, local: int, store: int) -> None:
    """Note from where how many bytes of the layers in use are read."""
    _USED_BYTES.labels("local").set(local)
    _USED_BYTES.labels("store").set(store)


def containers_run(*, local: int, store: int) -> None:
    """Note how many containers need the store, and how many do not."""
    _USED_CONTAINERS.labels("local").set(local)
    _USED_CONTAINERS.labels("store").set(store)


def bytes_read(source: Side, count: int) -> None:
    """Count bytes that were read."""
    _READ_BYTES.labels(source).inc(count)


LOCAL_INDEPENDENT = prometheus_client.Histogram(
    "uimgacc_local_independent_seconds",
    "From a container's start on a layer without a copy until all layers in use had one.",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 1800, 3600),
    registry=registries.AGENT,
)
