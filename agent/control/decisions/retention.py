"""When caches are deleted by themselves, and when they are built again: pure functions.

The lifetimes are Alibaba's: a cache that was created for a pod is deleted seven days after its
creation if no pod has used it, else thirty days after its last use; one that could not be
built, after a day.
"""

import collections
import dataclasses
import datetime
from collections.abc import Iterable

from agent.control.caches import cache_object, cache_state
from agent.control.jobs import job_manifest
from agent.model import caches

_LONGEST_RETRY = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Times in seconds, days and hours as they are named."""

    retry_seconds: float = 10.0
    """After the first build of a cache that fails; three times as long after each other one."""

    deletion_seconds: float = 600.0
    """For how long a deleted object waits for the nodes; then it is removed all the same."""

    unused_days: float = 7.0
    """Of an automatic cache that no pod has used."""

    used_days: float = 30.0
    """Of an automatic cache after its last use."""

    failed_hours: float = 24.0
    """Of an automatic cache, or one in Alibaba's dialect, that could not be built."""

    refresh_hours: float = 0.0
    """After which every cache's images are looked up again; 0: only where its object sets it."""

    refused_minutes: float = 10.0
    """Of an automatic cache whose pod may not use its pull secrets; then pods may ask again."""

    auto_caches: int = 100
    """Automatic caches that may exist; beyond, `surplus` are deleted."""

    auto_factor: float = 3.0
    """Times the size of its images at the registry that an automatic cache may take as well, ..."""

    auto_share: int = 1 << 40
    """... where the automatic caches of its namespace take no more than these bytes with it."""

    serve_stale: caches.ServeStale | None = None
    """For caches that have no policy of their own; None: as users of their dialect are used to."""


def retry_after(failures: int, rules: Rules) -> float:
    """Seconds until the next build after so many failures: up to an hour."""
    return float(min(_LONGEST_RETRY, rules.retry_seconds * 3 ** min(failures - 1, 20)))


def is_failure(cache: cache_object.CacheObject) -> bool:
    """Whether a cache could not be built, and is kept for a while only to report why."""
    state = cache.state
    tried = state.phase is cache_state.Phase.FAILED or job_manifest.failures(cache) > 0
    kept_as_failure = cache.auto or cache.dialect is caches.Dialect.ALIBABA
    return kept_as_failure and tried and not state.serving


def expires(
    cache: cache_object.CacheObject,
    before: cache_object.CacheObject,
    rules: Rules,
    *,
    now: datetime.datetime,
) -> datetime.datetime | None:
    """When a cache is deleted by itself; `before` is its state until now. None: never."""
    if is_failure(cache):
        since = before.state.expires if is_failure(before) else None
        if cache.unverified:
            return since or now + datetime.timedelta(minutes=rules.refused_minutes)
        return since or now + datetime.timedelta(hours=rules.failed_hours)
    if cache.auto:
        if cache.matched is not None:
            return cache.matched + datetime.timedelta(days=rules.used_days)
        return cache.created + datetime.timedelta(days=rules.unused_days)
    days = cache.request.retention_days if cache.request is not None else None
    return cache.created + datetime.timedelta(days=days) if days else None


def refresh_due(cache: cache_object.CacheObject, rules: Rules) -> datetime.datetime | None:
    """When the tags of a cache are to be looked up again; None: never."""
    seconds = cache.refresh_seconds or rules.refresh_hours * 3600
    done = cache.state.build.time
    if done is None:
        return None
    due = (
        done + datetime.timedelta(seconds=seconds) if seconds else None,
        cache.schedule.after(done) if cache.schedule is not None else None,
    )
    return min((each for each in due if each is not None), default=None)


def most_of(
    cache: cache_object.CacheObject, known: Iterable[cache_object.CacheObject], rules: Rules
) -> int:
    """Bytes that an automatic cache may grow to: what its namespace's others leave of its share.

    One that is being built for the first time counts as large as it may be without growing.
    """
    taken = 0
    for other in known:
        if not other.auto or other.tenant != cache.tenant or other.key == cache.key:
            continue
        is_new = other.state.phase is cache_state.Phase.CREATING
        taken += other.request.capacity if is_new and other.request else other.state.size
    return max(0, rules.auto_share - taken)


def surplus(
    known: Iterable[cache_object.CacheObject], rules: Rules
) -> list[cache_object.CacheObject]:
    """The automatic caches beyond the limit, in the order in which they go.

    Those that could not be built are first. Then the namespace that has the most gives up the
    one unused for the longest, so that one namespace does not push out the caches of others.
    """
    automatic = [cache for cache in known if cache.auto and cache.deleted is None]
    held = collections.Counter(cache.tenant for cache in automatic)
    going: list[cache_object.CacheObject] = []
    for _ in range(len(automatic) - rules.auto_caches):
        # min and sets, not one sort: with each that goes, another namespace may have the most.
        one = min(
            automatic,
            key=lambda cache: (
                not is_failure(cache),
                -held[cache.tenant],
                cache.matched or cache.created,
                cache.key,
            ),
        )
        automatic.remove(one)
        held[one.tenant] -= 1
        going.append(one)
    return going
