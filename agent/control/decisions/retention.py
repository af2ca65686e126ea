"""When caches are deleted by themselves, and when they are built again: pure functions.

The lifetimes are Alibaba's: a cache that was created for a pod is deleted seven days after its
creation if no pod has used it, else thirty days after its last use; one that could not be
built, after a day.
"""

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence

from agent.control.caches import cache_object, cache_state
from agent.control.jobs import job_manifest
from agent.kits import units
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

    auto_caches: int = -1
    """Automatic caches that may exist; beyond, `surplus` are deleted. Negative: no limit."""

    auto_namespace: int = 500
    """The same of one namespace."""

    auto_bytes: int = 0
    """Bytes that they may take in the store together, as their records say; 0: no limit."""

    auto_factor: float = 3.0
    """Times the size of its images at the registry that an automatic cache may take as well, ..."""

    auto_share: int = 1 << 40
    """... where the automatic caches of its namespace take no more than these bytes with it. Those
    beyond are deleted, but 0 deletes none."""

    serve_stale: caches.ServeStale | None = None
    """For caches that have no policy of their own; None: as users of their dialect are used to."""


def retry_after(failures: int, rules: Rules) -> float:
    """Seconds until the next build after so many failures: up to an hour."""
    return float(min(_LONGEST_RETRY, rules.retry_seconds * 3 ** min(failures - 1, 20)))


def is_failure(cache: cache_object.CacheObject) -> bool:
    """Whether a cache could not be built, and is kept for a while only to report why."""
    kept_as_failure = cache.auto or cache.dialect is caches.Dialect.ALIBABA
    return kept_as_failure and tried_in_vain(cache)


def tried_in_vain(cache: cache_object.CacheObject) -> bool:
    """Whether a cache could not be built yet, and was tried."""
    state = cache.state
    tried = state.phase is cache_state.Phase.FAILED or job_manifest.failures(cache) > 0
    return tried and not state.serving


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


@dataclasses.dataclass(frozen=True, slots=True)
class Surplus:
    """An automatic cache that is to go, and the limit that is exceeded, in words."""

    cache: cache_object.CacheObject
    limit: str


def surplus(known: Iterable[cache_object.CacheObject], rules: Rules) -> list[Surplus]:
    """The automatic caches beyond the limits, in the order in which they go.

    First each namespace keeps within what it may have, then all together: the namespace that has
    the most gives up one, so that one namespace does not push out the caches of others. Where there
    are too many, those that could not be built are first, then those that were not used for the
    longest.
    """
    by_tenant: dict[str, list[cache_object.CacheObject]] = collections.defaultdict(list)
    for cache in known:
        if cache.auto and cache.deleted is None:
            by_tenant[cache.tenant].append(cache)
    tenants = [_Tenant(name, members) for name, members in sorted(by_tenant.items())]
    going = [each for tenant in tenants for each in _beyond_its_limits(tenant, rules)]
    return [*going, *_beyond_all_limits(tenants, rules)]


class _Tenant:
    """The automatic caches of a namespace, less those that go."""

    def __init__(self, name: str, members: Iterable[cache_object.CacheObject]) -> None:
        self.name = name
        # The next one is last, so that it is taken away at once.
        self._order = sorted(members, key=_last_use, reverse=True)
        self._sized = [cache for cache in self._order if cache.state.size]
        self._gone: set[cache_object.Key] = set()
        self.count = len(self._order)
        self.size = sum(cache.state.size for cache in self._order)

    def next(self, *, sized: bool) -> cache_object.CacheObject | None:
        """The next one to go; `sized`: of those that take room."""
        members = self._sized if sized else self._order
        while members and members[-1].key in self._gone:
            members.pop()
        return members[-1] if members else None

    def take(self, cache: cache_object.CacheObject, limit: str) -> Surplus:
        """Have one go."""
        self._gone.add(cache.key)
        self.count -= 1
        self.size -= cache.state.size
        return Surplus(cache, limit)


def _last_use(
    cache: cache_object.CacheObject,
) -> tuple[bool, datetime.datetime, cache_object.Key]:
    return not is_failure(cache), cache.matched or cache.created, cache.key


def _beyond_its_limits(tenant: _Tenant, rules: Rules) -> Iterator[Surplus]:
    limit = (
        f"namespace {tenant.name} has more than {rules.auto_namespace} automatic caches"
        " (--auto-namespace-caches)"
    )
    for _ in range(tenant.count - rules.auto_namespace):
        if (cache := tenant.next(sized=False)) is not None:
            yield tenant.take(cache, limit)
    limit = (
        f"the automatic caches of namespace {tenant.name} take more than"
        f" {units.size(rules.auto_share)} in the store (--auto-share)"
    )
    while rules.auto_share and tenant.size > rules.auto_share:
        cache = tenant.next(sized=True)
        assert cache is not None, "their sizes make up the sum"
        yield tenant.take(cache, limit)


def _first_to_go(
    head: tuple[_Tenant, cache_object.CacheObject],
) -> tuple[bool, int, datetime.datetime, cache_object.Key]:
    tenant, cache = head
    is_sound, used, key = _last_use(cache)
    return is_sound, -tenant.count, used, key


def _beyond_all_limits(tenants: Sequence[_Tenant], rules: Rules) -> Iterator[Surplus]:
    excess = (
        sum(tenant.count for tenant in tenants) - rules.auto_caches if rules.auto_caches >= 0 else 0
    )
    limit = f"there are more than {rules.auto_caches} automatic caches (--auto-caches)"
    for _ in range(excess):
        heads = [(each, head) for each in tenants if (head := each.next(sized=False)) is not None]
        tenant, cache = min(heads, key=_first_to_go)
        yield tenant.take(cache, limit)
    limit = (
        f"all automatic caches take more than {units.size(rules.auto_bytes)} in the store"
        " (--auto-bytes)"
    )
    while rules.auto_bytes and sum(tenant.size for tenant in tenants) > rules.auto_bytes:
        tenant = max(tenants, key=lambda tenant: (tenant.size, tenant.name))
        largest = tenant.next(sized=True)
        assert largest is not None, "their sizes make up the sum"
        yield tenant.take(largest, limit)
