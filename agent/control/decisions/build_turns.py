"""Whose build is next, by the caches and by the builds that run; without I/O.

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

import bisect
import collections
import dataclasses
import datetime
from collections.abc import Iterable, Mapping

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


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Place:
    """What orders the caches of one tenant that wait."""

    rebuild: bool
    failures: int
    created: datetime.datetime
    key: cache_object.Key


@dataclasses.dataclass(slots=True)
class _Tenant:
    """A tenant's caches that wait, the next one first, and what counts for its turn."""

    members: int = 0
    waiting: list[_Place] = dataclasses.field(default_factory=list)
    failing: int = 0
    began: datetime.datetime = times.EPOCH

    @property
    def not_before(self) -> datetime.datetime:
        """When its next build may begin."""
        beyond = self.failing - _FAILING
        return self.began + min(_LONGEST_PAUSE, _PAUSE * beyond) if beyond > 0 else times.EPOCH


class Turns:
    """All caches, and those of them that wait for their turn.

    It is kept up to date with each cache that changes, so that neither a step nor the end of a
    build goes through all of them.
    """

    def __init__(self) -> None:
        self._known: dict[cache_object.Key, cache_object.CacheObject] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: set[cache_object.Key] = set()

    def put(self, cache: cache_object.CacheObject) -> None:
        """Take in a cache as it is now."""
        self._leave(cache.key)
        self._known[cache.key] = cache
        tenant = self._tenants.setdefault(cache.tenant, _Tenant())
        tenant.members += 1
        tenant.failing += _is_failing(cache)
        if cache.state.started is not None:
            tenant.began = max(tenant.began, cache.state.started)
        if cache.key in self._waiting:
            bisect.insort(tenant.waiting, _place(cache))

    def drop(self, key: cache_object.Key) -> bool:
        """A cache is gone; whether it waited."""
        waited = key in self._waiting
        self._leave(key)
        self._known.pop(key, None)
        self._waiting.discard(key)
        return waited

    def wait(self, key: cache_object.Key) -> None:
        """Have a cache wait for its turn."""
        cache = self._known.get(key)
        if key not in self._waiting and cache is not None:
            self._waiting.add(key)
            bisect.insort(self._tenants[cache.tenant].waiting, _place(cache))

    def give_way(self, key: cache_object.Key) -> bool:
        """Have a cache wait no longer; whether it did."""
        cache = self._known.get(key)
        if key not in self._waiting or cache is None:
            return False
        _remove(self._tenants[cache.tenant].waiting, _place(cache))
        self._waiting.discard(key)
        return True

    def turn_of(self, key: cache_object.Key, slots: Slots, *, now: datetime.datetime) -> Turn:
        """The turn of a cache that is to be built, beside those that wait."""
        cache = self._known.get(key)
        if cache is None:
            return Turn(now=False)
        own = self._tenants[cache.tenant]
        if cache.tenant != cache_object.PEOPLE and own.not_before > now:
            return Turn(now=False, not_before=own.not_before)
        if not slots.free:
            return Turn(now=False)
        waits = key in self._waiting
        self.wait(key)
        is_next = key in self.next_ones(slots, now=now)
        if not waits:
            self.give_way(key)
        return Turn(now=is_next)

    def next_ones(self, slots: Slots, *, now: datetime.datetime) -> list[cache_object.Key]:
        """The caches to build next: no more than slots are free."""
        queues = {
            name: collections.deque(each.key for each in tenant.waiting[: slots.free])
            for name, tenant in self._tenants.items()
            if tenant.waiting and (name == cache_object.PEOPLE or tenant.not_before <= now)
        }
        return _Round(self._known, self._tenants, slots).order(queues)

    def _leave(self, key: cache_object.Key) -> None:
        """Take what is known of a cache out of what its tenant has."""
        cache = self._known.get(key)
        if cache is None:
            return
        tenant = self._tenants[cache.tenant]
        tenant.members -= 1
        tenant.failing -= _is_failing(cache)
        if key in self._waiting:
            _remove(tenant.waiting, _place(cache))
        if not tenant.members:
            del self._tenants[cache.tenant]


class _Round:
    """One choice of the caches that are next."""

    def __init__(
        self,
        known: Mapping[cache_object.Key, cache_object.CacheObject],
        tenants: Mapping[str, _Tenant],
        slots: Slots,
    ) -> None:
        self._known = known
        self._tenants = tenants
        self._slots = slots
        self._counts = dict(slots.running)
        self._rebuilds = slots.rebuilds

    def order(
        self, queues: dict[str, collections.deque[cache_object.Key]]
    ) -> list[cache_object.Key]:
        """Take the first ones of the tenants' queues, in turn."""
        order: list[cache_object.Key] = []
        while len(order) < self._slots.free and (able := self._able(queues)):
            name = min(able)[-1]
            chosen = queues[name].popleft()
            order.append(chosen)
            self._counts[name] = self._counts.get(name, 0) + 1
            self._rebuilds += is_rebuild(self._known[chosen])
            if not queues[name]:
                del queues[name]
        return order

    def _able(
        self, queues: Mapping[str, collections.deque[cache_object.Key]]
    ) -> list[tuple[bool, int, datetime.datetime, str]]:
        """The tenants that may begin a build, with what decides between them."""
        able = []
        for name, queue in queues.items():
            # The first of a tenant is a rebuild only where all of them are.
            rebuild = is_rebuild(self._known[queue[0]])
            count = self._counts.get(name, 0)
            is_full = rebuild and self._rebuilds >= self._slots.most_rebuilds
            if count < self._slots.most(name) and not is_full:
                able.append((rebuild, count, self._tenants[name].began, name))
        return able


def _is_failing(cache: cache_object.CacheObject) -> bool:
    return bool(job_manifest.failures(cache)) and not cache.state.serving


def _place(cache: cache_object.CacheObject) -> _Place:
    """The place of a cache among those of its tenant that wait."""
    return _Place(is_rebuild(cache), job_manifest.failures(cache), cache.created, cache.key)


def _remove(places: list[_Place], place: _Place) -> None:
    at = bisect.bisect_left(places, place)
    if at < len(places) and places[at] == place:
        del places[at]
