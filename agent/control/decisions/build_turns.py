"""Whose build is next: pure functions of the caches, and of the builds that run.

Pods cause builds: also of images that do not exist, or that take hours. So builds go round by
tenant: the namespace of the pod that an automatic cache was created for. All caches that people
have created are one tenant more. A tenant with fewer builds that run is first, then the one
whose last build began longer ago. No namespace has all slots at once, and where builds of a
namespace fail one after the other, the next ones wait.

Builds that pods wait for come before all that: those of caches that serve no pod yet. A cache that
serves is built again (a refresh, a tag that has moved) where no such build waits, and such builds
never have all slots: of a hundred caches that are refreshed at night, a new one does not wait for
the end of the first.
"""

import collections
import dataclasses
import datetime
from collections.abc import Collection, Iterable, Mapping

from agent.control.caches import cache_object
from agent.control.jobs import job_manifest
from agent.model import times

_FAILING = 3
"""Caches of a namespace that fail before its next builds wait."""

_PAUSE = datetime.timedelta(seconds=10)
"""For each failing cache beyond these, between the beginnings of two builds of its namespace."""

_LONGEST_PAUSE = datetime.timedelta(minutes=5)


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """Whether a build may begin now; else the time before which it cannot, where one is known."""

    now: bool
    not_before: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many builds run, by tenant, of how many that may; `rebuilds` of them no pod waits for."""

    parallel: int
    running: Mapping[str, int]
    rebuilds: int = 0

    @property
    def free(self) -> int:
        """How many may begin."""
        return max(0, self.parallel - sum(self.running.values()))

    def most(self, tenant: str) -> int:
        """How many builds of a tenant may run at once: of a namespace not all of them."""
        if tenant == cache_object.PEOPLE:
            return self.parallel
        return self._all_but_one

    @property
    def most_rebuilds(self) -> int:
        """How many builds may run at once that no pod waits for: not all of them."""
        return self._all_but_one

    @property
    def _all_but_one(self) -> int:
        return max(1, self.parallel - 1)


def slots_of(running: Iterable[cache_object.CacheObject | None], *, parallel: int) -> Slots:
    """The slots where builds of these caches run; None for one whose object is gone."""
    tenants: collections.Counter[str] = collections.Counter()
    rebuilds = 0
    for cache in running:
        tenants[cache_object.PEOPLE if cache is None else cache.tenant] += 1
        rebuilds += cache is not None and is_rebuild(cache)
    return Slots(parallel=parallel, running=tenants, rebuilds=rebuilds)


def is_rebuild(cache: cache_object.CacheObject) -> bool:
    """Whether no pod waits for the build of a cache: what was built before serves them."""
    withheld = any(each.withheld for each in cache.state.tags.moved)
    return cache.state.serving and not withheld


@dataclasses.dataclass(slots=True)
class _Tenant:
    """A tenant's caches that wait, the next one first, and what counts for its turn."""

    waiting: list[cache_object.CacheObject] = dataclasses.field(default_factory=list)
    failing: int = 0
    began: datetime.datetime = times.EPOCH

    @property
    def not_before(self) -> datetime.datetime:
        """When its next build may begin."""
        beyond = self.failing - _FAILING
        return self.began + min(_LONGEST_PAUSE, _PAUSE * beyond) if beyond > 0 else times.EPOCH


def turn_of(
    cache: cache_object.CacheObject,
    waiting: Collection[cache_object.Key],
    known: Iterable[cache_object.CacheObject],
    slots: Slots,
    *,
    now: datetime.datetime,
) -> Turn:
    """The turn of a cache that is to be built, beside those that wait."""
    tenants = _tenants({*waiting, cache.key}, known)
    own = tenants.get(cache.tenant, _Tenant())
    if cache.tenant != cache_object.PEOPLE and own.not_before > now:
        return Turn(now=False, not_before=own.not_before)
    return Turn(now=cache.key in _next(tenants, slots, now=now)[: slots.free])


def _tenants(
    waiting: Collection[cache_object.Key], known: Iterable[cache_object.CacheObject]
) -> dict[str, _Tenant]:
    tenants: dict[str, _Tenant] = {}
    for cache in known:
        tenant = tenants.setdefault(cache.tenant, _Tenant())
        if cache.key in waiting:
            tenant.waiting.append(cache)
        if job_manifest.failures(cache) and not cache.state.serving:
            tenant.failing += 1
        if cache.state.started is not None:
            tenant.began = max(tenant.began, cache.state.started)
    for tenant in tenants.values():
        tenant.waiting.sort(key=_order)
    return tenants


def _order(
    cache: cache_object.CacheObject,
) -> tuple[bool, int, datetime.datetime, cache_object.Key]:
    """The order of the caches of one tenant."""
    return is_rebuild(cache), job_manifest.failures(cache), cache.created, cache.key


def _next(
    tenants: Mapping[str, _Tenant], slots: Slots, *, now: datetime.datetime
) -> list[cache_object.Key]:
    """The caches to build next, as long as slots would become free."""
    order: list[cache_object.Key] = []
    queues = {
        name: collections.deque(tenant.waiting)
        for name, tenant in tenants.items()
        if tenant.waiting and (name == cache_object.PEOPLE or tenant.not_before <= now)
    }
    counts = dict(slots.running)
    rebuilds = slots.rebuilds

    def may_begin(name: str) -> bool:
        if counts.get(name, 0) >= slots.most(name):
            return False
        # The first of a tenant is a rebuild only where all of them are.
        return rebuilds < slots.most_rebuilds or not is_rebuild(queues[name][0])

    while able := [name for name in queues if may_begin(name)]:
        name = min(
            able,
            key=lambda name: (
                is_rebuild(queues[name][0]),
                counts.get(name, 0),
                tenants[name].began,
                name,
            ),
        )
        chosen = queues[name].popleft()
        order.append(chosen.key)
        counts[name] = counts.get(name, 0) + 1
        rebuilds += is_rebuild(chosen)
        if not queues[name]:
            del queues[name]
    return order
