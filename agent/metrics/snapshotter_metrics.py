"""Metrics of the snapshotter: layers, mounts, requests of containerd."""

import typing

import prometheus_client

from agent.metrics import registries

LayerReason = typing.Literal[
    "corrupt_layer",
    "damaged_record",
    "mount_failed",
    "no_store",
    "not_announced",
    "not_from_here",
    "not_in_store",
    "not_verifiable",
    "store_deadline",
    "store_error",
    "store_format",
    "store_unhealthy",
    "unsigned",
]
_LAYER_FALLBACK = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_fallback_total",
        "Layers that the snapshotter left to the ordinary pull, by reason.",
        ["reason"],
        registry=registries.SNAPSHOTTER,
    ),
    typing.get_args(LayerReason),
)


def layer_left(reason: LayerReason) -> None:
    """Count a layer that was left to the ordinary pull."""
    _LAYER_FALLBACK.labels(reason).inc()


CORRUPT_LAYERS = prometheus_client.Counter(
    "uimgacc_corrupt_layers_total",
    "Layers of which bytes were read that are not what was built, each once an hour.",
    registry=registries.SNAPSHOTTER,
)
MOUNTS = prometheus_client.Gauge(
    "uimgacc_mounts", "EROFS layers mounted on this node.", registry=registries.SNAPSHOTTER
)
SNAPSHOT_REQUEST = prometheus_client.Histogram(
    "uimgacc_snapshot_request_seconds",
    "Time that the snapshotter took to answer containerd, by method.",
    ["method"],
    buckets=registries.LATENCY,
    registry=registries.SNAPSHOTTER,
)
