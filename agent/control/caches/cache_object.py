"""An ImageCache object as the controller reads it, whatever its dialect."""

import dataclasses
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from agent.control.caches import cache_state, schedules, status_format
from agent.model import cache_manifest, caches, keys, manifests, times

PEOPLE = ""
"""In the place of a namespace: the tenant of all caches that people have created."""

_UNKNOWN = "-"
"""The tenant of automatic caches that do not name the pod that they were created for."""

_REMEMBERED = 128
"""Specs whose hash is remembered: a step asks for that of its cache ten times."""

_POD_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object: kinds of different dialects may have objects of one name."""

    group: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The pod for which an agent has created an object; "" for what the object does not name."""

    namespace: str = ""
    pod: str = ""
    uid: str = ""
    node: str = ""

    @property
    def complete(self) -> bool:
        """Whether there can be such a pod."""
        return bool(_POD_NAME.fullmatch(self.pod) and self.namespace and self.uid and self.node)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheObject:
    """The parts of an object on which decisions depend.

    `request` is None where the spec is invalid in a way that its schema does not catch;
    `problem` then says how. `tenant` is the namespace of the pod that an automatic cache was
    created for: builds and automatic caches are shared out by it. `origin` is None where no agent
    created the object, or a person has edited it since. `deleted` is when it was deleted.
    `refresh_seconds` is None where no interval is set, `schedule` where no schedule is.
    `of_cloud`: it was asked for in the words of a cloud. `policy` is the ImageCachePolicy that it
    says it is of, `policy_spec` the hash of what that said.
    """

    key: Key
    uid: str
    version: str
    generation: int
    created: datetime.datetime
    dialect: caches.Dialect
    request: caches.CacheRequest | None
    problem: str = ""
    deleted: datetime.datetime | None = None
    finalizers: tuple[str, ...] = ()
    auto: bool = False
    tenant: str = PEOPLE
    origin: Origin | None = None
    matched: datetime.datetime | None = None
    start_report: str = ""
    refresh: str = ""
    refresh_seconds: float | None = None
    schedule: schedules.Schedule | None = None
    of_cloud: bool = False
    policy: str = ""
    policy_spec: str = ""
    state: cache_state.State = dataclasses.field(default_factory=cache_state.State)
    status: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def finalized(self) -> bool:
        """Whether it has the finalizer of uimgacc."""
        return keys.FINALIZER in self.finalizers

    @property
    def unverified(self) -> bool:
        """Whether an agent named credentials, and the right to use them is not verified yet."""
        request = self.request
        opens = request is not None and (request.pull_secrets or request.acr_instances)
        return bool(opens) and self.origin is not None and not self.state.verified

    @property
    def cache_id(self) -> str:
        """The ID of its cache, also where the spec is invalid."""
        if self.request is not None:
            return self.request.cache_id
        return self.state.cache_id or caches.id_of_name(self.key.name, dialect=self.dialect)

    @property
    def spec_hash(self) -> str:
        """The hash of everything that a build depends on: another hash needs another build."""
        return _spec_hash(self.request, self.refresh) if self.request is not None else ""


@functools.lru_cache(maxsize=_REMEMBERED)
def _spec_hash(request: caches.CacheRequest, refresh: str) -> str:
    parts = [
        [str(image) for image in request.images],
        [str(secret) for secret in request.pull_secrets],
        request.size_gib,
        request.architecture,
        request.plain_http_registries,
        request.insecure_registries,
        request.acr_instances,
        refresh,
        # Only where it is set: caches built before the field existed are not built again.
        *([request.namespaces] if request.serves else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def key_of(body: Mapping[str, Any]) -> Key:
    """Which object this is."""
    return Key(str(body["apiVersion"]).partition("/")[0], body["metadata"]["name"])


def parse(body: Mapping[str, Any]) -> CacheObject:
    """Read an object as the API server has it."""
    meta = body["metadata"]
    key = key_of(body)
    dialect = caches.GROUPS[key.group]
    annotations = meta.get("annotations") or {}
    request, problem = _request(body)
    labelled = (meta.get("labels") or {}).get(keys.AUTO_CREATED) == "true"
    # Agents cannot change a spec: from the second generation on, it is a person's.
    from_agent = labelled and meta.get("generation", 0) <= 1
    if request is not None and from_agent:
        # An agent must not give images that a pod's Secrets open to other namespaces, nor have
        # other nodes read what no pod of theirs asks for.
        request = dataclasses.replace(
            request, serves=(), keep_warm=False, node_selector=(), local=None, stale=None
        )
    if request is not None and labelled:
        on_demand = _on_demand(request, _origin(annotations))
        # One that a person has edited since is a cache of its name like any other.
        if caches.is_auto_cache(on_demand.cache_id, request.name):
            request = on_demand
        elif from_agent:
            request, problem = None, _NOT_ITS_NAME
    schedule, remark = _schedule(annotations)
    if request is not None and remark:
        request = dataclasses.replace(request, warnings=(*request.warnings, remark))
    auto = from_agent or (request is not None and request.auto)
    return CacheObject(
        key=key,
        uid=meta["uid"],
        version=meta["resourceVersion"],
        generation=meta.get("generation", 0),
        created=times.parse(meta.get("creationTimestamp")) or times.EPOCH,
        dialect=dialect,
        request=request,
        problem=problem,
        deleted=times.parse(meta.get("deletionTimestamp")),
        finalizers=tuple(meta.get("finalizers") or ()),
        auto=auto,
        tenant=(_origin(annotations).namespace or _UNKNOWN) if auto else PEOPLE,
        origin=_origin(annotations) if from_agent else None,
        matched=times.parse(annotations.get(keys.LAST_MATCHED)),
        start_report=annotations.get(keys.START_PROFILE, ""),
        refresh=annotations.get(keys.REFRESH, ""),
        refresh_seconds=_hours(annotations.get(keys.REFRESH_HOURS, "")),
        schedule=schedule,
        of_cloud=_is_of_cloud(dialect, meta.get("labels") or {}, annotations if auto else {}),
        policy=(meta.get("labels") or {}).get(keys.POLICY, ""),
        policy_spec=annotations.get(keys.POLICY_SPEC, ""),
        state=status_format.of_status(body.get("status"), dialect),
        status=body.get("status") or {},
    )


def _is_of_cloud(
    dialect: caches.Dialect, labels: Mapping[str, str], asked: Mapping[str, str]
) -> bool:
    """Whether a cloud's kind, UCloud's API or a pod with a cloud's annotation caused a cache."""
    native = caches.Dialect.NATIVE
    said = asked.get(keys.DIALECT, native.value)
    return dialect is not native or labels.get(keys.UCLOUD_LABEL) == "true" or said != native.value


_NOT_ITS_NAME = (
    "metadata.name: the name of an automatic cache follows from its images and what opens them;"
    f" take the label {keys.AUTO_CREATED} away to have one of another name"
)


def _on_demand(request: caches.CacheRequest, origin: Origin) -> caches.CacheRequest:
    """The request as caused by a pod: what registry instances open is for its namespace."""
    serves = request.serves
    if request.acr_instances and not serves:
        serves = (origin.namespace,)
    return dataclasses.replace(request, auto=True, serves=serves)


def _origin(annotations: Mapping[str, str]) -> Origin:
    namespace, _, pod = annotations.get(keys.CREATED_FOR, "").partition("/")
    return Origin(
        namespace=namespace,
        pod=pod,
        uid=annotations.get(keys.CREATED_FOR_UID, ""),
        node=annotations.get(keys.CREATED_ON, ""),
    )


def _request(body: Mapping[str, Any]) -> tuple[caches.CacheRequest | None, str]:
    try:
        return cache_manifest.read(body), ""
    except manifests.ManifestError as error:
        return None, str(error)


def _schedule(annotations: Mapping[str, str]) -> tuple[schedules.Schedule | None, str]:
    """The schedule that annotations name, and what is wrong with it."""
    cron = annotations.get(keys.REFRESH_SCHEDULE, "")
    if not cron.strip():
        return None, ""
    try:
        return schedules.schedule(cron, annotations.get(keys.REFRESH_ZONE, "")), ""
    except schedules.ScheduleInvalid as error:
        return None, f"{keys.REFRESH_SCHEDULE}: {error}; it is ignored."


def _hours(text: str) -> float | None:
    try:
        hours = float(text)
    except ValueError:
        return None
    return hours * 3600 if 0 < hours < 1e5 else None
