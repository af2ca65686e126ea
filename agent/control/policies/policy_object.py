"""An ImageCachePolicy object as the controller reads it.

It is cluster-scoped, as ImageCaches are: these can have no owner that is in a namespace, and what a
policy spends is the store of all.
"""

import dataclasses
import datetime
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent.control.caches import schedules
from agent.kits import units
from agent.model import caches, images, keys, manifests, times

MOST = 1000
"""Caches that a policy may have."""
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What the caches of a policy have in common; `size_gib` None: by the image's size."""

    pull_secrets: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    size_gib: int | None = None
    keep_warm: bool = False
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a policy says.

    `namespaces` and `selector` are those whose pods' pulls count: by name (empty: of all), or by a
    label selector as the API takes it. `share` is the part of the pull time of the whole cluster
    that an image must take, 0 to 1. `budget` are bytes of the store. `keep`: caches stay when the
    policy is deleted.
    """

    images: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    namespaces: frozenset[str] = frozenset()
    selector: str = ""
    share: float = 0.0
    window: datetime.timedelta = datetime.timedelta(days=7)
    budget: int = 0
    most: int = 100
    unused: datetime.timedelta = datetime.timedelta(days=7)
    keep: bool = False
    suspended: bool = False
    schedule: schedules.Schedule | None = None
    template: Template = dataclasses.field(default_factory=Template)

    def selects(self, image: str) -> bool:
        """Whether the name of an image, in full and normalised, is meant."""
        return _matches(image, self.images) and not _matches(image, self.excluded)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The object. `spec` is None where it is invalid; `problem` then says how."""

    name: str
    uid: str
    generation: int
    deleted: bool = False
    spec: Spec | None = None
    problem: str = ""
    status: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


def parse(body: Mapping[str, Any]) -> Policy:
    """Read an object as the API server has it."""
    meta = body["metadata"]
    spec, problem = None, ""
    try:
        spec = _spec(manifests.document(body).get("spec"))
    except manifests.ManifestError as error:
        problem = str(error)
    return Policy(
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        deleted=times.parse(meta.get("deletionTimestamp")) is not None,
        spec=spec,
        problem=problem,
        status=body.get("status") or {},
    )


def _matches(image: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(image, pattern) for pattern in patterns)


def _spec(field: manifests.Field) -> Spec:
    patterns = field.get("images")
    if not patterns.texts():
        raise patterns.error("expected at least one pattern")
    return Spec(
        images=tuple(map(_normalised, patterns.texts())),
        excluded=tuple(map(_normalised, field.get("excludedImages").texts())),
        namespaces=frozenset(field.get("namespaces").texts()),
        selector=field.get("namespaceSelector").label_selector(),
        share=_share(field.get("minPullShare")),
        window=datetime.timedelta(days=_whole(field.get("windowDays"), 7, at_most=7)),
        budget=_budget(field.get("budget")),
        most=_whole(field.get("maxCaches"), 100, at_most=MOST),
        unused=datetime.timedelta(days=_whole(field.get("unusedDays"), 7, at_most=365)),
        keep=field.get("deletionPolicy").text("Delete") == "Keep",
        suspended=field.get("suspend").boolean(),
        schedule=_schedule(field.get("refresh")),
        template=_template(field.get("template"), field.get("refresh")),
    )


def _normalised(pattern: str) -> str:
    """A pattern that is the name of an image, in full; any other one as it is."""
    if set("*?") & set(pattern):
        return pattern
    try:
        return str(images.parse_reference(pattern))
    except images.ImageReferenceError:
        return pattern


def _share(field: manifests.Field) -> float:
    match = _SHARE.fullmatch(field.text("0%"))
    if match is None or float(match[1]) > 100:
        raise field.error("expected a percentage such as 0.5%")
    return float(match[1]) / 100


def _budget(field: manifests.Field) -> int:
    try:
        return units.quantity(field.text())
    except ValueError as error:
        raise field.error(str(error)) from error


def _whole(field: manifests.Field, default: int, *, at_most: int) -> int:
    return default if field.absent else field.integer(at_least=1, at_most=at_most)


def _schedule(refresh: manifests.Field) -> schedules.Schedule | None:
    cron = refresh.get("schedule")
    if cron.absent:
        return None
    try:
        return schedules.schedule(cron.text(), refresh.get("timeZone").text(""))
    except schedules.ScheduleInvalid as error:
        raise cron.error(str(error)) from error


def _template(field: manifests.Field, refresh: manifests.Field) -> Template:
    annotations = field.get("annotations").labels()
    said = {
        keys.REFRESH_SCHEDULE: refresh.get("schedule").text(""),
        keys.REFRESH_ZONE: refresh.get("timeZone").text(""),
        keys.SERVE_STALE: refresh.get("serveStale").text(""),
    }
    size = field.get("imageCacheSize")
    return Template(
        pull_secrets=field.get("imagePullSecrets").texts(),
        serves=field.get("namespaces").texts(),
        size_gib=None
        if size.absent
        else size.integer(at_least=caches.SIZE_MIN, at_most=caches.SIZE_MAX),
        keep_warm=field.get("keepWarm").boolean(),
        node_selector=field.get("nodeSelector").labels(),
        annotations={**annotations, **{key: text for key, text in said.items() if text}},
    )
