"""Metrics of the controller: caches and their builds, tags, policies, and the collector."""

import typing

import prometheus_client

from agent.metrics import registries

Phase = typing.Literal["Pending", "Creating", "Ready", "Updating", "Failed", "UpdateFailed"]
CACHES = registries.with_series(
    prometheus_client.Gauge(
        "uimgacc_caches", "Image caches, by phase.", ["phase"], registry=registries.CONTROLLER
    ),
    typing.get_args(Phase),
)
RECONCILE = registries.with_series(
    prometheus_client.Histogram(
        "uimgacc_reconcile_seconds",
        "Time that one step for one cache took, by whether it failed.",
        ["failed"],
        buckets=registries.LATENCY,
        registry=registries.CONTROLLER,
    ),
    ("true", "false"),
)


def reconciled(seconds: float, *, failed: bool) -> None:
    """Observe one step."""
    RECONCILE.labels(str(failed).lower()).observe(seconds)


BuildResult = typing.Literal["ready", "failed"]
_BUILDS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_builds_total",
        "Builds of caches that ended, by how.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(BuildResult),
)


def built(result: BuildResult) -> None:
    """Count a build that ended."""
    _BUILDS.labels(result).inc()


UNSIGNED_CACHES = prometheus_client.Gauge(
    "uimgacc_unsigned_caches",
    "Caches of the store that no key in use has signed.",
    registry=registries.CONTROLLER,
)

ProfileTaking = typing.Literal["stored", "known", "refused"]
_PROFILES_TAKEN = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_profiles_taken_total",
        "Start profiles that nodes sent: stored, known already, refused as not of the image.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(ProfileTaking),
)


def profile_taken(result: ProfileTaking) -> None:
    """Count a start profile that a node has sent."""
    _PROFILES_TAKEN.labels(result).inc()


TAGS = prometheus_client.Gauge(
    "uimgacc_tags",
    "Tags of caches that serve, each once for the same credentials: they are looked up.",
    registry=registries.CONTROLLER,
)
TAGS_OVERDUE = prometheus_client.Gauge(
    "uimgacc_tags_overdue_seconds",
    "For how long the tag waits that should have been looked up first.",
    registry=registries.CONTROLLER,
)

TagLookup = typing.Literal["same", "moved", "refused", "unanswered"]
_TAG_LOOKUPS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_tag_lookups_total",
        "Questions to registries what a tag stands for, by the answer.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(TagLookup),
)


def tag_looked_up(result: TagLookup) -> None:
    """Count a question about a tag: as it was, another image, refused, or no answer."""
    _TAG_LOOKUPS.labels(result).inc()


Notification = typing.Literal["taken", "ignored", "refused"]
_NOTIFICATIONS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_push_notifications_total",
        "Notifications of registries, by what became of them.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(Notification),
)


def notified(result: Notification) -> None:
    """Count a notification: its tags are looked up, it names none, or it is refused."""
    _NOTIFICATIONS.labels(result).inc()


POLICY_CACHES = prometheus_client.Gauge(
    "uimgacc_policy_caches", "Caches that policies have made.", registry=registries.CONTROLLER
)
POLICY_BYTES = prometheus_client.Gauge(
    "uimgacc_policy_bytes",
    "Bytes of the store that count against the budgets of policies.",
    registry=registries.CONTROLLER,
)
POLICY_BUDGET_BYTES = prometheus_client.Gauge(
    "uimgacc_policy_budget_bytes",
    "The budgets of all policies together.",
    registry=registries.CONTROLLER,
)

Collection = typing.Literal["done", "busy", "refused", "failed"]
_COLLECTIONS = registries.with_series(
    prometheus_client.Counter(
        "uimgacc_collections_total",
        "Rounds of the collector: done, another one at work, refused for a damaged record, failed.",
        ["result"],
        registry=registries.CONTROLLER,
    ),
    typing.get_args(Collection),
)
COLLECTED_LAYERS = prometheus_client.Counter(
    "uimgacc_collected_layers_total",
    "Layer files that were deleted from the store.",
    registry=registries.CONTROLLER,
)
COLLECTED_BYTES = prometheus_client.Counter(
    "uimgacc_collected_bytes_total",
    "Bytes of the layer files that were deleted from the store.",
    registry=registries.CONTROLLER,
)


def collected(result: Collection) -> None:
    """Count a round of the collector."""
    _COLLECTIONS.labels(result).inc()


LEADING = prometheus_client.Gauge(
    "uimgacc_leading",
    "Whether this controller leads (1) or waits (0).",
    registry=registries.CONTROLLER,
)
