"""Metrics of the controller: the admission webhook, and pods that no node takes."""

import typing

import prometheus_client

from agent.metrics import registries

Admission = typing.Literal["moved", "annotated", "left", "refused"]
_ADMISSIONS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_admissions_total",
        "Requests to the admission webhook, by what became of the pod.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(Admission),
)


def admitted(result: Admission) -> None:
    """Count a request of the API server to the webhook."""
    _ADMISSIONS.labels(result).inc()


WEBHOOK_CERTIFICATE_END = prometheus_client.Gauge(
    "uimgacc_webhook_certificate_end_timestamp_seconds",
    "When the certificate of the admission webhook ends; 0 without the webhook.",
    registry=registries.CONTROLLER,
)
WAITING_PODS = prometheus_client.Gauge(
    "uimgacc_waiting_pods",
    "Pods of uimgacc's runtime classes that no node has taken in time.",
    registry=registries.CONTROLLER,
)
