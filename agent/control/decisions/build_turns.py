"""Whose build is next: pure functions of the caches, and of the builds that run.

Pods cause builds: also of images that do not exist, or that take hours. So builds go round by
tenant: the namespace of the pod that an automatic cache was created for. All caches that people
have created are one tenant more. A tenant with fewer builds that run is first, then the one
whose last build began longer ago. No namespace has all slots at once, and where builds of a
namespace fail one after the other, the next ones wait.
"""

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
    """How many builds run, by tenant, of how many that may."""

    parallel: int
    running: Mapping[str, int]

    @property
    def free(self) -> int:
        """How many may begin."""
        return max(0, self.parallel - sum(self.running.values()))

    def most(self, tenant: str) -> int:
        """How many builds of a tenant may run at once: of a namespace not all of them."""
        if tenant == cache_object.PEOPLE:
            return self.parallel
        return max(1, self.parallel - 1)


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
        tenant.waiting.sort(key=lambda each: (job_manifest.failures(each), each.created, each.key))
    return tenants


def _next(
    tenants: Mapping[str, _Tenant], slots: Slots, *, now: datetime.datetime
) -> list[cache_object.Key]:
    """The caches to build next, as long as slots would become free."""
    order: list[cache_object.Key] = []
    queues = {
        name: [each.key for each in tenant.waiting]
        for name, tenant in tenants.items()
        if tenant.waiting and (name == cache_object.PEOPLE or tenant.not_before <= now)
    }
    counts = dict(slots.running)
    while able := [name for name in queues if counts.get(name, 0) < slots.most(name)]:
        name = min(able, key=lambda name: (counts.get(name, 0), tenants[name].began, name))
        order.append(queues[name].pop(0))
        counts[name] = counts.get(name, 0) + 1
        if not queues[name]:
            del queues[name]
    return order
