"""Metrics of the agent: start profiles, and what is read ahead by them."""

import typing

import prometheus_client

from agent.metrics import registries

ProfileRecording = typing.Literal["recorded", "not_cold", "not_started", "failed"]
_PROFILES_RECORDED = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_profiles_recorded_total",
        "First starts of images that were observed for a start profile, by result.",
        ["result"],
        registry=registries.AGENT,
    ),
    typing.get_args(ProfileRecording),
)


def profile_recorded(result: ProfileRecording) -> None:
    """Count a first start that was observed, or could not be."""
    _PROFILES_RECORDED.labels(result).inc()


ProfileSending = typing.Literal["sent", "known", "failed"]
_PROFILES_SENT = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_profiles_sent_total",
        "Start profiles offered to the controller: sent, known there already, or failed for good.",
        ["result"],
        registry=registries.AGENT,
    ),
    typing.get_args(ProfileSending),
)


def profile_sent(result: ProfileSending) -> None:
    """Count a profile that was offered to the controller."""
    _PROFILES_SENT.labels(result).inc()


ProfileSource = typing.Literal["node", "store", "shared", "none"]
_PROFILES_USED = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_profiles_used_total",
        "Images made ready, by where their start profile came from: this node, the store, another "
        "build that shares layers, or none.",
        ["source"],
        registry=registries.AGENT,
    ),
    typing.get_args(ProfileSource),
)


def profile_used(source: ProfileSource) -> None:
    """Count an image that was made ready, with a profile or without."""
    _PROFILES_USED.labels(source).inc()


READ_AHEAD_BYTES = prometheus_client.Counter(
    "uimgacc_read_ahead_bytes_total",
    "Bytes of layer files that were read from the store ahead of starts.",
    registry=registries.AGENT,
)
READ_AHEAD_STOPPED = prometheus_client.Counter(
    "uimgacc_read_ahead_stopped_total",
    "Times that reading ahead stopped because the store did not answer.",
    registry=registries.AGENT,
)
_START_BYTES = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_start_bytes_total",
        "Bytes of layer files in memory after starts with a profile, by whether it had foreseen"
        " them.",
        ["foreseen"],
        registry=registries.AGENT,
    ),
    ("true", "false"),
)


def start_bytes(count: int, *, foreseen: bool) -> None:
    """Count what a start with a profile has read of layer files."""
    _START_BYTES.labels(str(foreseen).lower()).inc(count)
