"""Metrics of the agent: how images became present for pods, and what that saved."""

import typing

import prometheus_client

from agent.metrics import registries

ImageReason = typing.Literal["damaged_record", "not_registered", "not_served", "store_unavailable"]
_IMAGE_FALLBACK = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_image_fallback_total",
        "Attempts to have an image present that left it to the ordinary pull, by reason.",
        ["reason"],
        registry=registries.AGENT,
    ),
    typing.get_args(ImageReason),
)


def image_left(reason: ImageReason) -> None:
    """Count an attempt after which an image is left to the ordinary pull, unless another helps."""
    _IMAGE_FALLBACK.labels(reason).inc()


IMAGES_WITHHELD = prometheus_client.Counter(
    "uimgacc_images_withheld_total",
    "Images of pods that were left to the ordinary pull because their tag has moved.",
    registry=registries.AGENT,
)

PullResult = typing.Literal["hit", "partial", "miss"]
_PULL = registries.with_series(
    prometheus_client.Histogram(
        "uimgacc_pull_seconds",
        "Time until an image was present: hit (nothing downloaded), partial, miss (all"
        " downloaded).",
        ["result"],
        buckets=(*registries.LATENCY, 60, 120, 300, 600),
        registry=registries.AGENT,
    ),
    typing.get_args(PullResult),
)


def pulled(result: PullResult, seconds: float) -> None:
    """Observe that an image became present."""
    _PULL.labels(result).observe(seconds)


PULL_SAVED_SECONDS = prometheus_client.Counter(
    "uimgacc_pull_saved_seconds_total",
    "Seconds that ordinary pulls would have taken longer, from measured speeds only.",
    registry=registries.AGENT,
)
PULL_SAVED_BYTES = prometheus_client.Counter(
    "uimgacc_pull_saved_bytes_total",
    "Compressed bytes that were not downloaded.",
    registry=registries.AGENT,
)
PREMOUNT = prometheus_client.Histogram(
    "uimgacc_premount_seconds",
    "Time from a pod's appearance until its images were mounted and registered.",
    buckets=registries.LATENCY,
    registry=registries.AGENT,
)
_POD_READY = registries.with_series(
    prometheus_client.Histogram(
        "uimgacc_pod_ready_seconds",
        "From a pod's acceptance by the kubelet until all its containers had started, by whether "
        "images came from the store.",
        ["accelerated"],
        # The API's times are whole seconds.
        buckets=(1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200),
        registry=registries.AGENT,
    ),
    ("true", "false"),
)


def pod_ready(seconds: float, *, accelerated: bool) -> None:
    """Observe that a pod's containers have started."""
    _POD_READY.labels(str(accelerated).lower()).observe(seconds)


Warmth = typing.Literal["missing", "ready"]
_WARM = registries.with_series(
    prometheus_client.Gauge(
        "uimgacc_warm_images",
        "Images that are to be present before any pod asks for them, by whether they are.",
        ["state"],
        registry=registries.AGENT,
    ),
    typing.get_args(Warmth),
)


def warm(*, ready: int, missing: int) -> None:
    """Note how many images are present before any pod asks for them, and how many are not."""
    _WARM.labels("ready").set(ready)
    _WARM.labels("missing").set(missing)
