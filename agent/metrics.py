"""Every metric of every role, defined once.

Base units, `_total` for counters, no image, digest, node or pod label: the
cardinality is bounded by this file.
"""

import prometheus_client

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Node and snapshotter.

FALLBACK = prometheus_client.Counter(
    "uimgacc_fallback_total",
    "Layers or images that were left to the ordinary pull, by reason.",
    ["reason"],
)
MOUNTS = prometheus_client.Gauge("uimgacc_mounts", "EROFS layers mounted on this node.")

# Snapshotter.

SNAPSHOT_REQUEST = prometheus_client.Histogram(
    "uimgacc_snapshot_request_seconds",
    "Time that the snapshotter took to answer containerd, by method.",
    ["method"],
    buckets=_LATENCY,
)
