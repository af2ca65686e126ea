"""The registry that each role exposes, and what all metrics have in common.

Each role has a registry of its own, so that none shows a series that another process counts.
Metrics are in base units, and counters end in `_total`. No label names an image, digest, node or
pod, so the number of series is bounded by the code.
"""

import importlib.metadata
from collections.abc import Iterable
from typing import TypeVar

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase

# Without this, every counter and histogram has a second series with the time when it was created.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

AGENT = prometheus_client.CollectorRegistry()
SNAPSHOTTER = prometheus_client.CollectorRegistry()
CONTROLLER = prometheus_client.CollectorRegistry()

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Buckets of histograms of latencies, in seconds."""

_BUILD_INFO = prometheus_client.Gauge(
    "uimgacc_build_info", "Always 1; its label says which version runs.", ["version"], registry=None
)
_BUILD_INFO.labels(importlib.metadata.version("uimgacc")).set(1)
for _registry in (AGENT, SNAPSHOTTER, CONTROLLER):
    _registry.register(_BUILD_INFO)
    prometheus_client.ProcessCollector(registry=_registry)

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def with_series(metric: _Metric, values: Iterable[str]) -> _Metric:
    """Return a metric of one label with a series, at 0, for each of the label's values.

    Prometheus sees no increase in a series that begins at 1.
    """
    for value in values:
        metric.labels(value)
    return metric
