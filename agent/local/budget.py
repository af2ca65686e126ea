"""Which layer to copy next, and which copies to remove: pure.

Copies have two bounds: what they may take together, and what has to stay free on their disk for
others. The second is what the kubelet looks at, so it is kept at any price but a container's.

A layer is copied only if it fits, also by removing copies that nothing uses and that were last
used long ago. What is in use, or was a moment ago, is never removed for another layer: two images
that take turns in a budget for one would else be copied again at each turn.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from agent.kits import units
from agent.metrics import copy_metrics

_KEPT_SECONDS = 1800.0
"""For which a copy is kept after its last use, unless the disk is nearly full."""
_SLACK = 0.01
"""Part of the disk that has to be free beyond the bound before more is copied."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy on the disk: bytes, and its last use in seconds since 1970.

    `in_use`: something is mounted from it.
    """

    name: str
    size: int
    used_at: float
    in_use: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A layer without a copy that is to have one; `users` is how many containers stand on it.

    `begun` are the bytes that its draft has on the disk already.
    """

    name: str
    size: int
    users: int = 0
    begun: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes: what copies may take, what stays free, and what the disk has, free and all."""

    budget: int
    floor: int
    free: int
    whole: int

    @property
    def is_short(self) -> bool:
        """Whether less is free than has to be."""
        return self.free < self.floor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now: copies to remove, in order, and then the layer to copy, if any."""

    evict: tuple[tuple[str, copy_metrics.Eviction], ...] = ()
    copy: str | None = None
    sentence: str = ""


def plan(
    wanted: Sequence[Wanted],
    copies: Sequence[Copy],
    room: Room,
    *,
    now: float,
    deleted: Collection[str] = (),
) -> Plan:
    """Decide. `deleted` are the layers that the store has deleted, or may delete at any moment.

    A copy of such a layer goes when nothing uses it. Until then it is all that its containers have.
    """
    going = [each for each in copies if each.name in deleted and not each.in_use]
    evict: list[tuple[str, copy_metrics.Eviction]] = [(each.name, "deleted") for each in going]
    left = [each for each in copies if each not in going]
    movable = [each for each in left if each.name not in deleted]
    freed = _total(going)
    if room.is_short:
        lack = room.floor + int(room.whole * _SLACK) - room.free - freed
        evict += [(each.name, "pressure") for each in _until(lack, _oldest_first(movable))]
        return Plan(evict=tuple(evict), sentence=_short_of_disk(room))
    over = _until(_total(left) - room.budget, _oldest_first(movable))
    evict += [(each.name, "budget") for each in over]
    left = [each for each in left if each not in over]
    freed += _total(over)
    for each in sorted(wanted, key=_turn):
        others = _make_room(each, left, room, freed=freed, now=now)
        if others is not None:
            evict += [(other.name, "budget") for other in others]
            return Plan(evict=tuple(evict), copy=each.name)
    return Plan(evict=tuple(evict), sentence=_nothing_fits(wanted, room))


def _turn(layer: Wanted) -> tuple[bool, int, int, str]:
    """What is begun is finished; then what most containers stand on, then what is small."""
    return not layer.begun, -layer.users, layer.size, layer.name


def _make_room(
    layer: Wanted, copies: Sequence[Copy], room: Room, *, freed: int, now: float
) -> list[Copy] | None:
    """The copies to remove for a layer; None where it does not fit all the same.

    Nothing goes for a layer that no container stands on: warm images of more bytes than the budget
    would else push each other out, and be read from the store again and again.
    """
    beyond_budget = _total(copies) + layer.size - room.budget
    needed = room.floor + int(room.whole * _SLACK) + layer.size - layer.begun
    beyond_disk = needed - room.free - freed
    idle = [
        each
        for each in _oldest_first(copies)
        if layer.users and not each.in_use and each.used_at < now - _KEPT_SECONDS
    ]
    lack = max(beyond_budget, beyond_disk)
    return _until(lack, idle) if lack <= _total(idle) else None


def _oldest_first(copies: Iterable[Copy]) -> list[Copy]:
    """In the order in which they go: what is in use last of all."""
    return sorted(copies, key=lambda each: (each.in_use, each.used_at, each.name))


def _until(lack: int, copies: Iterable[Copy]) -> list[Copy]:
    """So many of the first copies as take `lack` bytes."""
    chosen = []
    for each in copies:
        if lack <= 0:
            break
        chosen.append(each)
        lack -= each.size
    return chosen


def _total(copies: Iterable[Copy]) -> int:
    return sum(each.size for each in copies)


def _short_of_disk(room: Room) -> str:
    return (
        f"The disk has {units.size(room.free)} free, and {units.size(room.floor)} are to stay"
        " free: nothing is copied, copies are removed."
    )


def _nothing_fits(wanted: Sequence[Wanted], room: Room) -> str:
    if not wanted:
        return ""
    layers = "1 layer has" if len(wanted) == 1 else f"{len(wanted)} layers have"
    return (
        f"{layers} no room: local copies may take {units.size(room.budget)} and leave"
        f" {units.size(room.floor)} free, of which {units.size(room.free)} are."
    )
