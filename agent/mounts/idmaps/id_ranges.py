"""Which ids of a container are which of the node: read from labels, inverted, combined; pure.

The text of a map is that of containerd's labels containerd.io/snapshot/uidmapping and
gidmapping, `container:host:length`, several with commas between (internal/userns/idmap.go).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent import errors
from agent.model import keys

_RANGE = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)
_IDS = 2**32 - 1
"""4294967295 is no id: it stands for none."""

_MOST = 340
"""What the kernel takes for one map: user_namespaces(7)."""


class IdMapError(errors.PermanentError):
    """A map of ids that no user namespace can have; the message says why."""


class Range(NamedTuple):
    """`length` ids from `inside` on are those from `outside` on."""

    inside: int
    outside: int
    length: int


Ranges = tuple[Range, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class IdMaps:
    """The map of user ids and that of group ids."""

    uids: Ranges
    gids: Ranges

    @property
    def root(self) -> tuple[int, int]:
        """Who root of the container is on the node: a user id and a group id."""
        return _outside(self.uids, 0), _outside(self.gids, 0)

    @property
    def inverse(self) -> "IdMaps":
        """What undoes these."""
        return IdMaps(_inverse(self.uids), _inverse(self.gids))

    @property
    def text(self) -> str:
        """For `parse`: the two maps, a space between."""
        return " ".join(
            ",".join(":".join(map(str, each)) for each in ranges)
            for ranges in (self.uids, self.gids)
        )


def parse(text: str) -> IdMaps:
    """Read `IdMaps.text`; raises IdMapError."""
    uids, _, gids = text.partition(" ")
    return IdMaps(_ranges(uids), _ranges(gids))


def of_labels(labels: Mapping[str, str]) -> IdMaps | None:
    """The maps that the labels of a snapshot ask for; None where they ask for none.

    Raises IdMapError also where they have no user for the container's root.
    """
    texts = [labels.get(keys.UID_MAPPING), labels.get(keys.GID_MAPPING)]
    if texts == [None, None]:
        return None
    if None in texts:
        raise IdMapError(f"of {keys.UID_MAPPING} and {keys.GID_MAPPING} there is only one")
    maps = parse(" ".join(text or "" for text in texts))
    assert maps.root
    return maps


def between(stored: IdMaps | None, wanted: IdMaps | None) -> IdMaps | None:
    """How a folder is mapped whose files are owned as `stored` says, to appear as `wanted`.

    None for not at all; as an argument it stands for files that are owned as in the image.
    """
    if stored == wanted:
        return None
    if stored is None or wanted is None:
        return wanted or (stored and stored.inverse)
    return IdMaps(_through(stored.uids, wanted.uids), _through(stored.gids, wanted.gids))


def kernel_text(ranges: Iterable[Range]) -> str:
    """The map in the form of /proc/PID/uid_map."""
    return "".join(f"{each.inside} {each.outside} {each.length}\n" for each in ranges)


def _ranges(text: str) -> Ranges:
    ranges = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise IdMapError(f"{part!r} is not container:host:length")
        each = Range(*map(int, match.groups()))
        if not each.length or max(each.inside, each.outside) + each.length > _IDS:
            raise IdMapError(f"{part!r} has no ids, or ids beyond {_IDS - 1}")
        ranges.append(each)
    if len(ranges) > _MOST:
        raise IdMapError(f"{len(ranges)} ranges of ids are more than the kernel's {_MOST}")
    _check_apart((each.inside, each.length) for each in ranges)
    _check_apart((each.outside, each.length) for each in ranges)
    return tuple(ranges)


def _check_apart(starts: Iterable[tuple[int, int]]) -> None:
    end = 0
    for start, length in sorted(starts):
        if start < end:
            raise IdMapError(f"the id {start} is in two ranges")
        end = start + length


def _outside(ranges: Ranges, id_: int) -> int:
    for each in ranges:
        if each.inside <= id_ < each.inside + each.length:
            return each.outside + id_ - each.inside
    raise IdMapError(f"the id {id_} of the container is in no range")


def _inverse(ranges: Ranges) -> Ranges:
    return tuple(Range(each.outside, each.inside, each.length) for each in ranges)


def _through(stored: Ranges, wanted: Ranges) -> Ranges:
    """From the node's ids of one map to those of another, for the container's ids of both."""
    made = []
    for one in stored:
        for two in wanted:
            low = max(one.inside, two.inside)
            high = min(one.inside + one.length, two.inside + two.length)
            if low < high:
                own, other = one.outside + low - one.inside, two.outside + low - two.inside
                made.append(Range(own, other, high - low))
    return tuple(made)
