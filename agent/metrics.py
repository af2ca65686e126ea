"""Every metric of every role, defined once; docs/reference/metrics.md explains them to operators.

Each role exposes a registry of its own, so that nothing shows a series that
another process counts. Base units, `_total` for counters, no image, digest, node
or pod label: the cardinality is bounded by this file. Labels whose values are
known are there from the start, at 0: Prometheus sees no increase in a series
that begins at 1.
"""

import importlib.metadata
import typing

import prometheus_client

from agent.model import records

# Else every counter and histogram has a second series with the time of its birth.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

AGENT = prometheus_client.CollectorRegistry()
SNAPSHOTTER = prometheus_client.CollectorRegistry()
CONTROLLER = prometheus_client.CollectorRegistry()

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# All.

_BUILD_INFO = prometheus_client.Gauge(
    "uimgacc_build_info", "Always 1; its label says which version runs.", ["version"], registry=None
)
_BUILD_INFO.labels(importlib.metadata.version("uimgacc")).set(1)
for _registry in (AGENT, SNAPSHOTTER, CONTROLLER):
    _registry.register(_BUILD_INFO)
    prometheus_client.ProcessCollector(registry=_registry)

# Snapshotter and node agent.

_DAMAGED_RECORDS = prometheus_client.Counter(
    "uimgacc_damaged_records_total",
    "Reads of a record of the store that was damaged, by the kind of the record.",
    ["kind"],
    registry=None,
)
for _kind in typing.get_args(records.RecordKind):
    _DAMAGED_RECORDS.labels(_kind)
for _registry in (AGENT, SNAPSHOTTER):
    _registry.register(_DAMAGED_RECORDS)


def record_damaged(kind: records.RecordKind) -> None:
    """Count a damaged record that was read."""
    _DAMAGED_RECORDS.labels(kind).inc()


_UNSIGNED_RECORDS = prometheus_client.Counter(
    "uimgacc_unsigned_records_total",
    "Reads of a record of the store that no key in use has signed, where that is refused, by kind.",
    ["kind"],
    registry=None,
)
for _signed_kind in typing.get_args(records.SignedKind):
    _UNSIGNED_RECORDS.labels(_signed_kind)
for _registry in (AGENT, SNAPSHOTTER):
    _registry.register(_UNSIGNED_RECORDS)


def record_unsigned(kind: records.SignedKind) -> None:
    """Count a record that is not used because it is not signed."""
    _UNSIGNED_RECORDS.labels(kind).inc()


# Snapshotter.

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

_LAYER_FALLBACK = prometheus_client.Counter(
    "uimgacc_fallback_total",
    "Layers that the snapshotter left to the ordinary pull, by reason.",
    ["reason"],
    registry=SNAPSHOTTER,
)
for _layer_reason in typing.get_args(LayerReason):
    _LAYER_FALLBACK.labels(_layer_reason)


def layer_left(reason: LayerReason) -> None:
    """Count a layer that was left to the ordinary pull."""
    _LAYER_FALLBACK.labels(reason).inc()


CORRUPT_LAYERS = prometheus_client.Counter(
    "uimgacc_corrupt_layers_total",
    "Layers of which bytes were read that are not what was built, each once an hour.",
    registry=SNAPSHOTTER,
)
MOUNTS = prometheus_client.Gauge(
    "uimgacc_mounts", "EROFS layers mounted on this node.", registry=SNAPSHOTTER
)
SNAPSHOT_REQUEST = prometheus_client.Histogram(
    "uimgacc_snapshot_request_seconds",
    "Time that the snapshotter took to answer containerd, by method.",
    ["method"],
    buckets=_LATENCY,
    registry=SNAPSHOTTER,
)

# Node agent.

ImageReason = typing.Literal["damaged_record", "not_registered", "not_served", "store_unavailable"]

_IMAGE_FALLBACK = prometheus_client.Counter(
    "uimgacc_image_fallback_total",
    "Attempts to have an image present that left it to the ordinary pull, by reason.",
    ["reason"],
    registry=AGENT,
)
for _image_reason in typing.get_args(ImageReason):
    _IMAGE_FALLBACK.labels(_image_reason)


def image_left(reason: ImageReason) -> None:
    """Count an attempt after which an image is left to the ordinary pull, unless another helps."""
    _IMAGE_FALLBACK.labels(reason).inc()


IMAGES_WITHHELD = prometheus_client.Counter(
    "uimgacc_images_withheld_total",
    "Images of pods that were left to the ordinary pull because their tag has moved.",
    registry=AGENT,
)

PullResult = typing.Literal["hit", "partial", "miss"]

_PULL = prometheus_client.Histogram(
    "uimgacc_pull_seconds",
    "Time until an image was present: hit (nothing downloaded), partial, miss (all downloaded).",
    ["result"],
    buckets=(*_LATENCY, 60, 120, 300, 600),
    registry=AGENT,
)
for _result in typing.get_args(PullResult):
    _PULL.labels(_result)


def pulled(result: PullResult, seconds: float) -> None:
    """Observe that an image became present."""
    _PULL.labels(result).observe(seconds)


PULL_SAVED_SECONDS = prometheus_client.Counter(
    "uimgacc_pull_saved_seconds_total",
    "Seconds that ordinary pulls would have taken longer, from measured speeds only.",
    registry=AGENT,
)
PULL_SAVED_BYTES = prometheus_client.Counter(
    "uimgacc_pull_saved_bytes_total",
    "Compressed bytes that were not downloaded.",
    registry=AGENT,
)
PREMOUNT = prometheus_client.Histogram(
    "uimgacc_premount_seconds",
    "Time from a pod's appearance until its images were mounted and registered.",
    buckets=_LATENCY,
    registry=AGENT,
)
STORE_HEALTHY = prometheus_client.Gauge(
    "uimgacc_store_healthy",
    "Whether the store answered the last probe (1) or not (0).",
    registry=AGENT,
)
STORE_PROBE = prometheus_client.Histogram(
    "uimgacc_store_probe_seconds",
    "Time that the store took to answer a probe; one that was given up counts in full.",
    buckets=_LATENCY,
    registry=AGENT,
)
NODE_CAPABLE = prometheus_client.Gauge(
    "uimgacc_node_capable",
    "Whether this node can serve images from the store (1) or not (0).",
    registry=AGENT,
)
NODE_PROBLEM = prometheus_client.Gauge(
    "uimgacc_node_problem",
    "Whether the last look found a problem (1) or not (0), by what was checked.",
    ["check"],
    registry=AGENT,
)
SETUP_WAITING = prometheus_client.Gauge(
    "uimgacc_setup_waiting",
    "Whether node set-up waits (1) or not (0): for a slot to restart containerd (slot), or for this"
    " node to be back after it (return).",
    ["state"],
    registry=AGENT,
)
API_REQUEST = prometheus_client.Counter(
    "uimgacc_api_requests_total",
    "Requests to the Kubernetes API server, by method (WATCH apart) and HTTP status; "
    "none: no connection, or a broken one, deadline: no answer in time.",
    ["verb", "code"],
    registry=AGENT,
)

EventDrop = typing.Literal["api_unavailable", "queue_full", "refused", "too_many"]

_EVENT_DROPPED = prometheus_client.Counter(
    "uimgacc_events_dropped_total",
    "Events that were not written to the API, by reason.",
    ["reason"],
    registry=None,
)
for _registry in (AGENT, CONTROLLER):
    _registry.register(_EVENT_DROPPED)
for _event_drop in typing.get_args(EventDrop):
    _EVENT_DROPPED.labels(_event_drop)


def event_dropped(reason: EventDrop) -> None:
    """Count an event that is not written."""
    _EVENT_DROPPED.labels(reason).inc()


GENERATION = prometheus_client.Gauge(
    "uimgacc_generation",
    "The store's generation of deletions: the newest seen, and the highest acknowledged.",
    ["which"],
    registry=AGENT,
)
for _which in ("seen", "acknowledged"):
    GENERATION.labels(_which)
_POD_READY = prometheus_client.Histogram(
    "uimgacc_pod_ready_seconds",
    "From a pod's acceptance by the kubelet until all its containers had started, by whether "
    "images came from the store.",
    ["accelerated"],
    # The API's times are whole seconds.
    buckets=(1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200),
    registry=AGENT,
)
for _accelerated in ("true", "false"):
    _POD_READY.labels(_accelerated)


def pod_ready(seconds: float, *, accelerated: bool) -> None:
    """Observe that a pod's containers have started."""
    _POD_READY.labels(str(accelerated).lower()).observe(seconds)


Warmth = typing.Literal["missing", "ready"]

_WARM = prometheus_client.Gauge(
    "uimgacc_warm_images",
    "Images that are to be present before any pod asks for them, by whether they are.",
    ["state"],
    registry=AGENT,
)
for _warmth in typing.get_args(Warmth):
    _WARM.labels(_warmth)


def warm(*, ready: int, missing: int) -> None:
    """Note how many images are present before any pod asks for them, and how many are not."""
    _WARM.labels("ready").set(ready)
    _WARM.labels("missing").set(missing)


LOCAL_COPIES = prometheus_client.Gauge(
    "uimgacc_local_copies", "Layers of which this node has a copy of its own.", registry=AGENT
)
LOCAL_BYTES = prometheus_client.Gauge(
    "uimgacc_local_bytes", "Bytes that these copies take on the node's disk.", registry=AGENT
)
LOCAL_IMAGES = prometheus_client.Gauge(
    "uimgacc_local_images",
    "Images that this node can start without the store: records and all layers are here.",
    registry=AGENT,
)
LOCAL_BUDGET_BYTES = prometheus_client.Gauge(
    "uimgacc_local_budget_bytes",
    "What local copies may take now: their own bound, or less where the disk has too little free.",
    registry=AGENT,
)
LOCAL_COPIED_BYTES = prometheus_client.Counter(
    "uimgacc_local_copied_bytes_total",
    "Bytes that were read from the store to make local copies.",
    registry=AGENT,
)

Eviction = typing.Literal["budget", "deleted", "pressure"]

_LOCAL_EVICTIONS = prometheus_client.Counter(
    "uimgacc_local_evictions_total",
    "Local copies that were removed: for others, with their layer, for want of free disk.",
    ["reason"],
    registry=AGENT,
)
for _eviction in typing.get_args(Eviction):
    _LOCAL_EVICTIONS.labels(_eviction)


def evicted(reason: Eviction) -> None:
    """Count a local copy that was removed."""
    _LOCAL_EVICTIONS.labels(reason).inc()


CopyFailure = typing.Literal[
    "disk_error", "disk_full", "not_switched", "store_deadline", "store_error", "wrong_bytes"
]

_LOCAL_FAILURES = prometheus_client.Counter(
    "uimgacc_local_failures_total",
    "Attempts to copy a layer, or to switch a mount to the copy, that failed, by reason.",
    ["reason"],
    registry=AGENT,
)
for _copy_failure in typing.get_args(CopyFailure):
    _LOCAL_FAILURES.labels(_copy_failure)


def copy_failed(reason: CopyFailure) -> None:
    """Count an attempt that failed."""
    _LOCAL_FAILURES.labels(reason).inc()


Side = typing.Literal["local", "store"]

_LOCAL_SWITCHES = prometheus_client.Counter(
    "uimgacc_local_switches_total",
    "Mounted layers that were switched to another file, by where that is.",
    ["to"],
    registry=AGENT,
)
_USED_BYTES = prometheus_client.Gauge(
    "uimgacc_used_layer_bytes",
    "Bytes of the layers that running containers stand on, by where they are read from.",
    ["source"],
    registry=AGENT,
)
_USED_CONTAINERS = prometheus_client.Gauge(
    "uimgacc_used_containers",
    "Running containers and image volumes on layers of the store: local, if on this node's disk.",
    ["source"],
    registry=AGENT,
)
_READ_BYTES = prometheus_client.Counter(
    "uimgacc_read_bytes_total",
    "Bytes that this node has read: from the store, for whatever purpose, and from local copies.",
    ["source"],
    registry=AGENT,
)
for _side in typing.get_args(Side):
    _LOCAL_SWITCHES.labels(_side)
    _USED_BYTES.labels(_side)
    _USED_CONTAINERS.labels(_side)
    _READ_BYTES.labels(_side)


def switched(to: Side) -> None:
    """Count a mounted layer that was switched to another file."""
    _LOCAL_SWITCHES.labels(to).inc()


def layers_used(*, local: int, store: int) -> None:
    """Note from where how many bytes of the layers in use are read."""
    _USED_BYTES.labels("local").set(local)
    _USED_BYTES.labels("store").set(store)


def containers_run(*, local: int, store: int) -> None:
    """Note how many containers need the store, and how many do not."""
    _USED_CONTAINERS.labels("local").set(local)
    _USED_CONTAINERS.labels("store").set(store)


def bytes_read(source: Side, count: int) -> None:
    """Count bytes that were read."""
    _READ_BYTES.labels(source).inc(count)


LOCAL_INDEPENDENT = prometheus_client.Histogram(
    "uimgacc_local_independent_seconds",
    "From a container's start on a layer without a copy until all layers in use had one.",
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 1800, 3600),
    registry=AGENT,
)

ProfileRecording = typing.Literal["recorded", "not_cold", "not_started", "failed"]

_PROFILES_RECORDED = prometheus_client.Counter(
    "uimgacc_profiles_recorded_total",
    "First starts of images that were observed for a start profile, by result.",
    ["result"],
    registry=AGENT,
)
for _recording in typing.get_args(ProfileRecording):
    _PROFILES_RECORDED.labels(_recording)


def profile_recorded(result: ProfileRecording) -> None:
    """Count a first start that was observed, or could not be."""
    _PROFILES_RECORDED.labels(result).inc()


ProfileSending = typing.Literal["sent", "known", "failed"]

_PROFILES_SENT = prometheus_client.Counter(
    "uimgacc_profiles_sent_total",
    "Start profiles offered to the controller: sent, known there already, or failed for good.",
    ["result"],
    registry=AGENT,
)
for _sending in typing.get_args(ProfileSending):
    _PROFILES_SENT.labels(_sending)


def profile_sent(result: ProfileSending) -> None:
    """Count a profile that was offered to the controller."""
    _PROFILES_SENT.labels(result).inc()


ProfileSource = typing.Literal["node", "store", "shared", "none"]

_PROFILES_USED = prometheus_client.Counter(
    "uimgacc_profiles_used_total",
    "Images made ready, by where their start profile came from: this node, the store, another "
    "build that shares layers, or none.",
    ["source"],
    registry=AGENT,
)
for _source in typing.get_args(ProfileSource):
    _PROFILES_USED.labels(_source)


def profile_used(source: ProfileSource) -> None:
    """Count an image that was made ready, with a profile or without."""
    _PROFILES_USED.labels(source).inc()


READ_AHEAD_BYTES = prometheus_client.Counter(
    "uimgacc_read_ahead_bytes_total",
    "Bytes of layer files that were read from the store ahead of starts.",
    registry=AGENT,
)
READ_AHEAD_STOPPED = prometheus_client.Counter(
    "uimgacc_read_ahead_stopped_total",
    "Times that reading ahead stopped because the store did not answer.",
    registry=AGENT,
)
_START_BYTES = prometheus_client.Counter(
    "uimgacc_start_bytes_total",
    "Bytes of layer files in memory after starts with a profile, by whether it had foreseen them.",
    ["foreseen"],
    registry=AGENT,
)
for _foreseen in ("true", "false"):
    _START_BYTES.labels(_foreseen)


def start_bytes(count: int, *, foreseen: bool) -> None:
    """Count what a start with a profile has read of layer files."""
    _START_BYTES.labels(str(foreseen).lower()).inc(count)


# Controller.

ProfileTaking = typing.Literal["stored", "known", "refused"]

_PROFILES_TAKEN = prometheus_client.Counter(
    "uimgacc_profiles_taken_total",
    "Start profiles that nodes sent: stored, known already, refused as not of the image.",
    ["result"],
    registry=CONTROLLER,
)
for _taking in typing.get_args(ProfileTaking):
    _PROFILES_TAKEN.labels(_taking)


def profile_taken(result: ProfileTaking) -> None:
    """Count a start profile that a node has sent."""
    _PROFILES_TAKEN.labels(result).inc()


Collection = typing.Literal["done", "busy", "refused", "failed"]

_COLLECTIONS = prometheus_client.Counter(
    "uimgacc_collections_total",
    "Rounds of the collector: done, another one at work, refused for a damaged record, failed.",
    ["result"],
    registry=CONTROLLER,
)
for _collection in typing.get_args(Collection):
    _COLLECTIONS.labels(_collection)
COLLECTED_LAYERS = prometheus_client.Counter(
    "uimgacc_collected_layers_total",
    "Layer files that were deleted from the store.",
    registry=CONTROLLER,
)
COLLECTED_BYTES = prometheus_client.Counter(
    "uimgacc_collected_bytes_total",
    "Bytes of the layer files that were deleted from the store.",
    registry=CONTROLLER,
)


def collected(result: Collection) -> None:
    """Count a round of the collector."""
    _COLLECTIONS.labels(result).inc()


BuildResult = typing.Literal["ready", "failed"]

_BUILDS = prometheus_client.Counter(
    "uimgacc_builds_total",
    "Builds of caches that ended, by how.",
    ["result"],
    registry=CONTROLLER,
)
for _build_result in typing.get_args(BuildResult):
    _BUILDS.labels(_build_result)


def built(result: BuildResult) -> None:
    """Count a build that ended."""
    _BUILDS.labels(result).inc()


Phase = typing.Literal["Pending", "Creating", "Ready", "Updating", "Failed", "UpdateFailed"]

CACHES = prometheus_client.Gauge(
    "uimgacc_caches", "Image caches, by phase.", ["phase"], registry=CONTROLLER
)
for _phase in typing.get_args(Phase):
    CACHES.labels(_phase)
TAGS = prometheus_client.Gauge(
    "uimgacc_tags",
    "Tags of caches that serve, each once for the same credentials: they are looked up.",
    registry=CONTROLLER,
)
TAGS_OVERDUE = prometheus_client.Gauge(
    "uimgacc_tags_overdue_seconds",
    "For how long the tag waits that should have been looked up first.",
    registry=CONTROLLER,
)
TagLookup = typing.Literal["same", "moved", "refused", "unanswered"]

_TAG_LOOKUPS = prometheus_client.Counter(
    "uimgacc_tag_lookups_total",
    "Questions to registries what a tag stands for, by the answer.",
    ["result"],
    registry=CONTROLLER,
)
for _tag_lookup in typing.get_args(TagLookup):
    _TAG_LOOKUPS.labels(_tag_lookup)


def tag_looked_up(result: TagLookup) -> None:
    """Count a question about a tag: as it was, another image, refused, or no answer."""
    _TAG_LOOKUPS.labels(result).inc()


Notification = typing.Literal["taken", "ignored", "refused"]
_NOTIFICATIONS = prometheus_client.Counter(
    "uimgacc_push_notifications_total",
    "Notifications of registries, by what became of them.",
    ["result"],
    registry=CONTROLLER,
)
for _notification in typing.get_args(Notification):
    _NOTIFICATIONS.labels(_notification)


def notified(result: Notification) -> None:
    """Count a notification: its tags are looked up, it names none, or it is refused."""
    _NOTIFICATIONS.labels(result).inc()


POLICY_CACHES = prometheus_client.Gauge(
    "uimgacc_policy_caches", "Caches that policies have made.", registry=CONTROLLER
)
POLICY_BYTES = prometheus_client.Gauge(
    "uimgacc_policy_bytes",
    "Bytes of the store that count against the budgets of policies.",
    registry=CONTROLLER,
)
POLICY_BUDGET_BYTES = prometheus_client.Gauge(
    "uimgacc_policy_budget_bytes", "The budgets of all policies together.", registry=CONTROLLER
)
UNSIGNED_CACHES = prometheus_client.Gauge(
    "uimgacc_unsigned_caches",
    "Caches of the store that no key in use has signed.",
    registry=CONTROLLER,
)
Admission = typing.Literal["moved", "annotated", "left", "refused"]
_ADMISSIONS = prometheus_client.Counter(
    "uimgacc_admissions_total",
    "Requests to the admission webhook, by what became of the pod.",
    ["result"],
    registry=CONTROLLER,
)
for _admission in typing.get_args(Admission):
    _ADMISSIONS.labels(_admission)


def admitted(result: Admission) -> None:
    """Count a request of the API server to the webhook."""
    _ADMISSIONS.labels(result).inc()


WEBHOOK_CERTIFICATE_END = prometheus_client.Gauge(
    "uimgacc_webhook_certificate_end_timestamp_seconds",
    "When the certificate of the admission webhook ends; 0 without the webhook.",
    registry=CONTROLLER,
)
PullEvent = typing.Literal["pulled", "present", "unknown"]
_PULL_EVENTS = prometheus_client.Counter(
    "uimgacc_pull_events_total",
    "Events of kubelets about images of containers: pulled, present, or in unknown words.",
    ["result"],
    registry=CONTROLLER,
)
for _pull_event in typing.get_args(PullEvent):
    _PULL_EVENTS.labels(_pull_event)


def pull_event(result: PullEvent) -> None:
    """Count an event of a kubelet."""
    _PULL_EVENTS.labels(result).inc()


_FLEET_PULL_SECONDS = prometheus_client.Counter(
    "uimgacc_fleet_pull_seconds_total",
    "Seconds that pulls took as kubelets report them, by whether a cache has the image.",
    ["cached"],
    registry=CONTROLLER,
)
_FLEET_PULL_BYTES = prometheus_client.Counter(
    "uimgacc_fleet_pull_bytes_total",
    "Compressed bytes that these pulls downloaded, by whether a cache has the image.",
    ["cached"],
    registry=CONTROLLER,
)
for _cached in ("true", "false"):
    _FLEET_PULL_SECONDS.labels(_cached)
    _FLEET_PULL_BYTES.labels(_cached)


def fleet_pulled(seconds: float, size: int, *, cached: bool) -> None:
    """Count a pull that a kubelet reports; `size` is what it has downloaded."""
    _FLEET_PULL_SECONDS.labels(str(cached).lower()).inc(seconds)
    _FLEET_PULL_BYTES.labels(str(cached).lower()).inc(size)


WAITING_PODS = prometheus_client.Gauge(
    "uimgacc_waiting_pods",
    "Pods of uimgacc's runtime classes that no node has taken in time.",
    registry=CONTROLLER,
)
LEADING = prometheus_client.Gauge(
    "uimgacc_leading", "Whether this controller leads (1) or waits (0).", registry=CONTROLLER
)
RECONCILE = prometheus_client.Histogram(
    "uimgacc_reconcile_seconds",
    "Time that one step for one cache took, by whether it failed.",
    ["failed"],
    buckets=_LATENCY,
    registry=CONTROLLER,
)
for _failed in ("true", "false"):
    RECONCILE.labels(_failed)


def reconciled(seconds: float, *, failed: bool) -> None:
    """Observe one step."""
    RECONCILE.labels(str(failed).lower()).observe(seconds)
