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

# Node agent.

PULL = prometheus_client.Histogram(
    "uimgacc_pull_seconds",
    "Time until an image was present: hit (nothing downloaded), partial, miss (all downloaded).",
    ["result"],
    buckets=(*_LATENCY, 60, 120, 300, 600),
)
PULL_SAVED_SECONDS = prometheus_client.Counter(
    "uimgacc_pull_saved_seconds_total",
    "Seconds that ordinary pulls would have taken longer, from measured speeds only.",
)
PULL_SAVED_BYTES = prometheus_client.Counter(
    "uimgacc_pull_saved_bytes_total", "Compressed bytes that were not downloaded."
)
PREMOUNT = prometheus_client.Histogram(
    "uimgacc_premount_seconds",
    "Time from a pod's appearance until its images were mounted and registered.",
    buckets=_LATENCY,
)
STORE_HEALTHY = prometheus_client.Gauge(
    "uimgacc_store_healthy", "Whether the store answered the last probe (1) or not (0)."
)
STORE_PROBE = prometheus_client.Histogram(
    "uimgacc_store_probe_seconds",
    "Time that the store took to answer a probe; one that was given up counts in full.",
    buckets=_LATENCY,
)
NODE_CAPABLE = prometheus_client.Gauge(
    "uimgacc_node_capable", "Whether this node can serve images from the store (1) or not (0)."
)
