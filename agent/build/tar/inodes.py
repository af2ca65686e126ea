"""The files of a layer so far, in little memory: which of them hard links and whiteouts concern.

Of each entry that is no directory 16 bytes are kept, a hash of its path and one of its
attributes. An entry is named by its number among these. Which entry a hard link leads to is
found out at the end, in one look through all: the last one of that path before the link.
"""

import array
import bisect
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from agent.build.tar import headers, xattrs

_REMOVED = -1
"""Stands for the attributes of what is gone; no hash in Python is -1."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Link:
    number: int
    path: bytes
    entry: headers.Entry


class Inodes:
    """Notes entries in the order of the tar. `paths` and `attributes` have one hash for each."""

    def __init__(self) -> None:
        self.paths = array.array("q")
        self.attributes = array.array("q")
        self._xattrs: dict[int, int] = {}
        self._capable: set[int] = set()
        self._links: list[_Link] = []
        self._made: dict[bytes, tuple[int, bytes]] = {}
        self._whiteouts: list[tuple[int, bytes]] = []

    def note(self, path: bytes, entry: headers.Entry) -> None:
        """Note a file, or whatever else is neither a directory nor a hard link."""
        if entry.xattrs:
            self._xattrs[len(self.paths)] = _hash(entry.xattrs)
            if any(name == xattrs.CAPABILITY for name, _ in entry.xattrs):
                self._capable.add(len(self.paths))
        self.paths.append(hash(path))
        self.attributes.append(hash(entry.attributes))

    def note_link(self, path: bytes, entry: headers.Entry) -> None:
        """Note a hard link, which has the attributes that its file will have."""
        self._links.append(_Link(len(self.paths), path, dataclasses.replace(entry)))
        self.paths.append(hash(path))
        self.attributes.append(0)

    def note_made(self, folder: bytes) -> None:
        """Note a directory that was made for what stands in it."""
        self._made[folder] = (len(self.paths), folder)

    def note_whiteout(self, path: bytes) -> None:
        """Note that something is hidden which this layer should not have."""
        self._whiteouts.append((len(self.paths), path))

    def note_removed(self, path: bytes) -> None:
        """Note that what has a path is gone."""
        self.paths.append(hash(path))
        self.attributes.append(_REMOVED)

    def require_sound(self) -> None:
        """Raise LayerTarError for what containerd fails on, and is known by now only."""
        for folder in self.existing(self._made.values()):
            raise headers.LayerTarError(
                f"it puts something into {headers.show(folder)}, which is a file"
            )
        for path in self.existing(self._whiteouts):
            raise headers.LayerTarError(
                f"a whiteout of {headers.show(path)}, which the same layer has"
            )

    def existing(self, questions: Iterable[tuple[int, bytes]]) -> set[bytes]:
        """Of paths, each with a number: those that exist before the entry of that number."""
        pairs = list(questions)
        numbers = self._numbers({hash(path) for _, path in pairs})
        return {
            path for number, path in pairs if self._before(numbers, hash(path), number) is not None
        }

    def changed(self) -> dict[int, Sequence[headers.Entry]]:
        """The hard links that give a file other attributes than its own entry, by its number.

        containerd applies the header of a link to the file; mkfs.erofs does not.
        """
        if not self._links:
            return {}
        numbers = self._numbers({hash(link.entry.link) for link in self._links})
        leads_to: dict[int, int] = {}
        changes: dict[int, list[headers.Entry]] = {}
        for link in self._links:
            target = self._before(numbers, hash(link.entry.link), link.number)
            if target is None:
                raise headers.LayerTarError(
                    f"the hard link {headers.show(link.path)} to"
                    f" {headers.show(link.entry.link)}, which this layer does not have"
                )
            root = leads_to.get(target, target)
            leads_to[link.number] = root
            changes.setdefault(root, []).append(link.entry)
        return {root: links for root, links in changes.items() if self._differs(root, links)}

    def _differs(self, root: int, links: Sequence[headers.Entry]) -> bool:
        own = self._xattrs.get(root)
        return (
            self.attributes[root] != hash(links[-1].attributes)
            or any(link.xattrs and _hash(link.xattrs) != own for link in links)
            or (root in self._capable and not all(link.xattrs for link in links))
        )

    def _before(self, numbers: Mapping[int, list[int]], name: int, number: int) -> int | None:
        """The last entry of a path before another one, by its number; None where it is gone."""
        known = numbers.get(name, [])
        at = bisect.bisect_left(known, number) - 1
        return known[at] if at >= 0 and self.attributes[known[at]] != _REMOVED else None

    def _numbers(self, wanted: set[int]) -> Mapping[int, list[int]]:
        numbers: dict[int, list[int]] = {}
        if not wanted:
            return numbers
        for number, name in enumerate(self.paths):
            if name in wanted:
                numbers.setdefault(name, []).append(number)
        return numbers


def _hash(pairs: Sequence[tuple[bytes, bytes]]) -> int:
    return hash(tuple(sorted(pairs)))
