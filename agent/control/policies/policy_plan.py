"""What a policy does next: a pure function of its spec, of what pulls cost, and of its caches.

Images come from what nodes have pulled. Once an image is cached, it is pulled no more: so a cache
stays for as long as pods are matched with it, and only an image that was pulled within the last
day can take the place of one that no pod was matched with for a day. So two images do not push
each other out in turn.

The bytes of a cache are those of all its layer files, also where another cache has them, too: the
sum is what the caches take at most.
"""

import dataclasses
import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

from agent.control.caches import cache_object
from agent.control.decisions import retention
from agent.control.policies import policy_cache, policy_object
from agent.control.pulls import image_costs
from agent.matching import pod_moves

_IDLE = datetime.timedelta(days=1)
RECENT = _IDLE
"""An image that was pulled within this time can become a cache."""
_AT_ONCE = 5
"""Caches that are created, and objects that are changed, in one round of a policy."""
_BUILDING = 10
"""Caches of a policy that are built or wait for it; further ones are created later."""
_UNKNOWN = 1 << 30
"""Bytes that an image is believed to take of which no kubelet has said the size."""

Reason = Literal["OverBudget", "TooManyCaches", "CachedAlready", "Refused", "Waiting"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A cache of the policy: its image, the bytes that count, and when it was last of use."""

    cache: cache_object.CacheObject
    image: str
    size: int
    used: datetime.datetime
    failing: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A cache that is deleted, and why, in a sentence."""

    held: Held
    why: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An image that is selected, and has no cache of the policy; `seconds` its pulls took."""

    image: str
    reason: Reason
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and what the status says. `size` are the bytes of `held` and of `created`.

    `changed` are caches that were made by another version of the policy. `unimportant` is how many
    images take less than the share that the policy names.
    """

    held: tuple[Held, ...] = ()
    created: tuple[image_costs.ImageCost, ...] = ()
    changed: tuple[Held, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    size: int = 0
    unimportant: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a plan is made from.

    `namespaces` are those that are selected, None: all. `recent` are the images that were pulled
    lately. `own` are the policy's caches, `elsewhere` the images that other caches have, `refused`
    those of which the API server has taken no cache lately.
    """

    now: datetime.datetime
    costs: image_costs.Costs
    recent: Collection[str]
    namespaces: Collection[str] | None
    own: Sequence[cache_object.CacheObject]
    elsewhere: Collection[str]
    refused: Collection[str] = ()


def plan(policy: policy_object.Policy, spec: policy_object.Spec, seen: Seen) -> Plan:
    """The next steps; at most a few objects at a time."""
    sizes = {cost.image: cost.size for cost in seen.costs.images}
    every = [_held(cache, sizes) for cache in seen.own if cache.deleted is None]
    room = _Room(spec, seen.now)
    for held in every:
        room.take_in(held)
    room.keep_within()
    terminating = {policy_cache.image_of(each) for each in seen.own if each.deleted is not None}
    unimportant, wanted = _candidates(spec, seen, {each.image for each in every})
    created: list[image_costs.ImageCost] = []
    left_out: list[LeftOut] = []
    # What is to go first goes first: so the budget is never planned for twice.
    waits = len(room.dropped) > _AT_ONCE
    building = sum(not each.failing and not each.cache.state.serving for each in room.kept)
    for cost in wanted:
        if cost.image in seen.elsewhere:
            reason: Reason | None = "CachedAlready"
        elif cost.image in seen.refused:
            reason = "Refused"
        elif (
            waits or cost.image in terminating or building >= _BUILDING or len(created) >= _AT_ONCE
        ):
            reason = "Waiting"
        else:
            reason = room.make(size_of(cost.size))
        if reason is None:
            created.append(cost)
            building += 1
        else:
            left_out.append(LeftOut(image=cost.image, reason=reason, seconds=cost.seconds))
    hash_now = policy_cache.spec_hash(policy, spec)
    changed = [each for each in room.kept if each.cache.policy_spec != hash_now]
    return Plan(
        held=tuple(room.kept),
        created=tuple(created),
        changed=tuple(changed[:_AT_ONCE]),
        dropped=tuple(room.dropped[:_AT_ONCE]),
        left_out=tuple(left_out),
        size=room.size,
        unimportant=unimportant,
    )


def without(made: Plan, created: Sequence[image_costs.ImageCost]) -> Plan:
    """A plan of which only these were created: the others are left out."""
    missing = [each for each in made.created if each not in created]
    refused = [
        LeftOut(image=each.image, reason="Refused", seconds=each.seconds) for each in missing
    ]
    return dataclasses.replace(
        made,
        created=tuple(created),
        left_out=(*refused, *made.left_out),
        size=made.size - sum(size_of(each.size) for each in missing),
    )


def size_of(compressed: int) -> int:
    """The bytes of the store that an image counts as before it is built."""
    return policy_cache.GROWTH * compressed or _UNKNOWN


def _held(cache: cache_object.CacheObject, sizes: Mapping[str, int]) -> Held:
    image = policy_cache.image_of(cache)
    return Held(
        cache=cache,
        image=image,
        size=cache.state.size or size_of(sizes.get(image, 0)),
        used=max(cache.created, cache.matched or cache.created),
        failing=retention.tried_in_vain(cache),
    )


def _candidates(
    spec: policy_object.Spec, seen: Seen, cached: Collection[str]
) -> tuple[int, list[image_costs.ImageCost]]:
    """How many images take too little time, and the others, the most expensive first."""
    unimportant, found = 0, []
    for cost in seen.costs.images:
        if cost.image in cached or not spec.selects(cost.image) or not cost.downloads:
            continue
        if not _is_pulled_in(cost, seen.namespaces) or cost.image not in seen.recent:
            continue
        if seen.costs.share(cost) < spec.share:
            unimportant += 1
        else:
            found.append(cost)
    return unimportant, sorted(found, key=lambda each: (-each.seconds, each.image))


def _is_pulled_in(cost: image_costs.ImageCost, namespaces: Collection[str] | None) -> bool:
    if namespaces is None:
        return any(each not in pod_moves.LEFT_OUT for each in cost.pods)
    return any(each in namespaces for each in cost.pods)


class _Room:
    """What a policy keeps within its budget, and what goes for it."""

    def __init__(self, spec: policy_object.Spec, now: datetime.datetime) -> None:
        self._spec = spec
        self._now = now
        self._made = 0
        self.kept: list[Held] = []
        self.dropped: list[Dropped] = []
        self.size = 0

    def take_in(self, held: Held) -> None:
        """Keep a cache, unless it is not selected or not used any more."""
        if not self._spec.selects(held.image):
            self.dropped.append(Dropped(held=held, why="the policy does not select it any more"))
        elif held.used + self._spec.unused <= self._now:
            days = self._spec.unused.days
            why = f"no pod was matched with it for {days} day{'s' * (days != 1)}"
            self.dropped.append(Dropped(held=held, why=why))
        else:
            self.kept.append(held)
            self.size += held.size

    def keep_within(self) -> None:
        """Drop those that were not used for the longest, until the others are within the limits."""
        for held in list(self._by_use()):
            if not self._exceeds(0):
                return
            self._drop(held, "the policy's caches are beyond its limits")

    def make(self, size: int) -> Reason | None:
        """Take in so many bytes more; else say why not."""
        too_large: Reason = (
            "OverBudget" if self.size + size > self._spec.budget else "TooManyCaches"
        )
        going: list[Held] = []
        for held in self._by_use():
            if not self._exceeds(size, without=going):
                break
            if held.used + _IDLE <= self._now:
                going.append(held)
        if self._exceeds(size, without=going):
            return too_large
        for held in going:
            self._drop(held, "an image that is pulled takes its place in the budget")
        self._made += 1
        self.size += size
        return None

    def _exceeds(self, size: int, *, without: Sequence[Held] = ()) -> bool:
        left = self.size + size - sum(each.size for each in without)
        count = len(self.kept) + self._made + (size > 0) - len(without)
        return left > self._spec.budget or count > self._spec.most

    def _by_use(self) -> Iterator[Held]:
        """Those that go first: that cannot be built, then in the order of their last use."""
        return iter(sorted(self.kept, key=lambda each: (not each.failing, each.used, each.image)))

    def _drop(self, held: Held, why: str) -> None:
        self.kept.remove(held)
        self.size -= held.size
        self.dropped.append(Dropped(held=held, why=why))
