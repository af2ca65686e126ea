"""Metrics of the agent: whether its node and the store can serve, and deletions."""

import prometheus_client

from agent.metrics import registries

STORE_HEALTHY = prometheus_client.Gauge(
    "uimgacc_store_healthy",
    "Whether the store answered the last probe (1) or not (0).",
    registry=registries.AGENT,
)
STORE_PROBE = prometheus_client.Histogram(
    "uimgacc_store_probe_seconds",
    "Time that the store took to answer a probe; one that was given up counts in full.",
    buckets=registries.LATENCY,
    registry=registries.AGENT,
)
NODE_CAPABLE = prometheus_client.Gauge(
    "uimgacc_node_capable",
    "Whether this node can serve images from the store (1) or not (0).",
    registry=registries.AGENT,
)
NODE_PROBLEM = prometheus_client.Gauge(
    "uimgacc_node_problem",
    "Whether the last look found a problem (1) or not (0), by what was checked.",
    ["check"],
    registry=registries.AGENT,
)
SETUP_WAITING = prometheus_client.Gauge(
    "uimgacc_setup_waiting",
    "Whether node set-up waits (1) or not (0): for a slot to restart containerd (slot), or for this"
    " node to be back after it (return).",
    ["state"],
    registry=registries.AGENT,
)
GENERATION = registries.with_series(
    prometheus_client.Gauge(
        "uimgacc_generation",
        "The store's generation of deletions: the newest seen, and the highest acknowledged.",
        ["which"],
        registry=registries.AGENT,
    ),
    ("seen", "acknowledged"),
)
