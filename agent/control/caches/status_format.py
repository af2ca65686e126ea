"""The status of an ImageCache object in the words of its dialect, read and written.

Fields that a cloud has published have the cloud's names; the fields that uimgacc adds have the
same names in all dialects.
"""

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.control.caches import cache_state
from agent.model import caches, times

Status = dict[str, Any]

_PHASES = {phase.value: phase for phase in cache_state.Phase}
# Tencent has no word for a first build that runs.
_TENCENT = {cache_state.Phase.CREATING: cache_state.Phase.PENDING}


class _Image(msgspec.Struct):
    image: str
    digest: str
    size: int = 0


class _Build(msgspec.Struct, rename="camel"):
    spec: str = ""
    platforms: tuple[str, ...] = ()
    time: datetime.datetime | None = None
    failures: int = 0
    failed: str = ""
    retry_time: datetime.datetime | None = None
    verified: bool = False


class _MovedTag(msgspec.Struct, rename="camel"):
    image: str
    cached: str
    digest: str
    noticed_time: datetime.datetime
    withheld: bool = False


class _Tags(msgspec.Struct, rename="camel"):
    confirmed_time: datetime.datetime | None = None
    moved: tuple[_MovedTag, ...] = ()
    problem: str = ""


class _Event(msgspec.Struct, rename="camel"):
    message: str
    last_timestamp: datetime.datetime
    type: str = "Normal"
    metadata: dict[str, Any] = {}


class _Condition(msgspec.Struct, rename="camel"):
    type: str
    status: str
    last_transition_time: datetime.datetime


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    imc_phase: str = ""
    image_cache_id: str = ""
    imc_id: str = ""
    progress: str = ""
    message: str = ""
    observed_generation: int = 0
    start_time: datetime.datetime | None = None
    last_updated_time: datetime.datetime | None = None
    expire_date_time: datetime.datetime | None = None
    last_matched_time: datetime.datetime | None = None
    size: int = 0
    images: tuple[_Image, ...] = ()
    build: _Build = msgspec.field(default_factory=_Build)
    tags: _Tags = msgspec.field(default_factory=_Tags)
    events: tuple[_Event, ...] = ()
    conditions: tuple[_Condition, ...] = ()


def of_status(status: object, dialect: caches.Dialect) -> cache_state.State:
    """Read a status. One that cannot be read counts as empty, and everything is found out again."""
    try:
        fields = msgspec.convert(status or {}, _Status)
    except msgspec.ValidationError:
        return cache_state.State()
    tencent = dialect is caches.Dialect.TENCENT
    build = fields.build
    return cache_state.State(
        phase=_PHASES.get(fields.imc_phase if tencent else fields.phase),
        cache_id=fields.imc_id if tencent else fields.image_cache_id,
        progress=_percent(fields.progress),
        message=fields.message,
        generation=fields.observed_generation,
        started=_utc(fields.start_time),
        changed=_utc(fields.last_updated_time),
        expires=_utc(fields.expire_date_time),
        matched=_utc(fields.last_matched_time),
        verified=build.verified,
        size=fields.size,
        images=tuple(
            cache_state.BuiltImage(image=each.image, digest=each.digest, size=each.size)
            for each in fields.images
        ),
        build=cache_state.Build(
            spec=build.spec,
            platforms=build.platforms,
            time=_utc(build.time),
            failures=build.failures,
            failed=build.failed,
            retry=_utc(build.retry_time),
        ),
        tags=_tags(fields.tags),
        events=tuple(
            cache_state.Happening(
                name=str(each.metadata.get("name", "")),
                message=each.message,
                at=times.in_utc(each.last_timestamp),
                warning=each.type == "Warning",
            )
            for each in fields.events
        ),
    )


def to_status(state: cache_state.State, dialect: caches.Dialect) -> Status:
    """The whole status, its conditions apart (see conditions)."""
    phase = state.phase or cache_state.Phase.PENDING
    if dialect is caches.Dialect.TENCENT:
        own: Status = {
            "imcPhase": _TENCENT.get(phase, phase).value,
            "imcId": state.cache_id,
            "snapshotId": "",
            "progress": f"{state.progress}%",
        }
    else:
        own = {
            "phase": phase.value,
            "imageCacheId": state.cache_id,
            "progress": f"{state.progress}%",
            "events": [_event(each) for each in state.events],
        }
    build = {
        "spec": state.build.spec,
        "platforms": list(state.build.platforms),
        "time": stamp(state.build.time),
        "failures": state.build.failures,
        "failed": state.build.failed,
        "retryTime": stamp(state.build.retry),
        "verified": state.verified or None,
    }
    common = {
        "message": state.message,
        "observedGeneration": state.generation,
        "startTime": stamp(state.started),
        "lastUpdatedTime": stamp(state.changed),
        "expireDateTime": stamp(state.expires),
        "lastMatchedTime": stamp(state.matched),
        "size": state.size,
        "images": [
            {"image": each.image, "digest": each.digest, "size": each.size} for each in state.images
        ],
        "build": _present(build),
        "tags": _tags_status(state.tags),
    }
    return own | _present(common)


def _tags(fields: _Tags) -> cache_state.Tags:
    return cache_state.Tags(
        confirmed=_utc(fields.confirmed_time),
        moved=tuple(
            cache_state.MovedTag(
                image=each.image,
                cached=each.cached,
                digest=each.digest,
                noticed=times.in_utc(each.noticed_time),
                withheld=each.withheld,
            )
            for each in fields.moved
        ),
        problem=fields.problem,
    )


def _tags_status(tags: cache_state.Tags) -> Status | None:
    moved = [
        {
            "image": each.image,
            "cached": each.cached,
            "digest": each.digest,
            "noticedTime": stamp(each.noticed),
            "withheld": each.withheld,
        }
        for each in tags.moved
    ]
    fields = {
        "confirmedTime": stamp(tags.confirmed),
        "moved": moved or None,
        "problem": tags.problem or None,
    }
    return _present(fields) or None


def patch_of(
    state: cache_state.State, dialect: caches.Dialect, before: Mapping[str, Any]
) -> Status:
    """The merge patch that turns the status `before` into this state; {} where nothing differs."""
    wanted = to_status(state, dialect)
    wanted["conditions"] = conditions(state, before.get("conditions"))
    return _difference(before, wanted)


def conditions(state: cache_state.State, before: object) -> list[Status]:
    """The conditions Ready and Building; their times change with their status only."""
    at = state.changed or times.EPOCH
    known: dict[str, _Condition] = {}
    for each in before if isinstance(before, list) else ():
        try:
            condition = msgspec.convert(each, _Condition)
        except msgspec.ValidationError:
            continue
        known[condition.type] = condition
    building = state.phase in (
        cache_state.Phase.PENDING,
        cache_state.Phase.CREATING,
        cache_state.Phase.UPDATING,
    )
    result = []
    for kind, holds in (("Ready", state.serving), ("Building", building)):
        status = "True" if holds else "False"
        old = known.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else at
        result.append(
            {
                "type": kind,
                "status": status,
                "observedGeneration": state.generation,
                "lastTransitionTime": stamp(since),
                "reason": (state.phase or cache_state.Phase.PENDING).value,
                "message": state.message,
            }
        )
    return result


def stamp(moment: datetime.datetime | None) -> str | None:
    """RFC 3339 in UTC, to the second, as the API has its times."""
    if moment is None:
        return None
    return times.stamp(moment)


def _event(each: cache_state.Happening) -> Status:
    """In the form of the core API's Event, as Alibaba embeds them."""
    at = stamp(each.at)
    return {
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "involvedObject": {},
        "message": each.message,
        "metadata": {"name": each.name},
        "source": {"component": "uimgacc"},
        "type": "Warning" if each.warning else "Normal",
    }


def _present(status: Status) -> Status:
    return {key: value for key, value in status.items() if value is not None}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Status:
    """The merge patch (RFC 7386) from one to the other."""
    patch: Status = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, Mapping):
            if below := _difference(old, value):
                patch[key] = below
        # To Python, false is 0.
        elif old != value or type(old) is not type(value):
            patch[key] = value
    return patch


def _percent(text: str) -> int:
    number = text.removesuffix("%")
    return min(100, int(number)) if number.isascii() and number.isdigit() else 0


def _utc(moment: datetime.datetime | None) -> datetime.datetime | None:
    return None if moment is None else times.in_utc(moment)
