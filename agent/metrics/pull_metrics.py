"""Metrics of the controller: pulls as the kubelets' events report them."""

import typing

import prometheus_client

from agent.metrics import registries

PullEvent = typing.Literal["pulled", "present", "unknown"]
_PULL_EVENTS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_pull_events_total",
        "Events of kubelets about images of containers: pulled, present, or in unknown words.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(PullEvent),
)


def pull_event(result: PullEvent) -> None:
    """Count an event of a kubelet."""
    _PULL_EVENTS.labels(result).inc()


_FLEET_PULL_SECONDS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_fleet_pull_seconds_total",
        "Seconds that pulls took as kubelets report them, by whether a cache has the image.",
        ["cached"],
        registry=registries.CONTROLLER,
    ),
    ("true", "false"),
)
_FLEET_PULL_BYTES = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_fleet_pull_bytes_total",
        "Compressed bytes that these pulls downloaded, by whether a cache has the image.",
        ["cached"],
        registry=registries.CONTROLLER,
    ),
    ("true", "false"),
)


def fleet_pulled(seconds: float, size: int, *, cached: bool) -> None:
    """Count a pull that a kubelet reports; `size` is what it has downloaded."""
    _FLEET_PULL_SECONDS.labels(str(cached).lower()).inc(seconds)
    _FLEET_PULL_BYTES.labels(str(cached).lower()).inc(size)
