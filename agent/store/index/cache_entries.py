"""The entries by which caches are found, and which of them a look-up follows; pure.

An entry is an empty file. Its folder stands for what is looked for: a repository, the bottom layer
of an image, a cache's name, or all caches that nodes keep warm. Its name has a version (tag or
digest), a scope (which namespaces the cache serves), and the ID of the cache. Folders are named by
a hash, so whatever a repository is called, its folder has a name of one length in one place.

An entry is a hint. What it leads to is the record of a cache, which says itself what the cache has
and whom it serves; an entry that leads nowhere costs a read.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from agent.model import images, records

WARM = "warm"
"""Where all caches are that nodes keep warm."""

MOST_NAMES = 16384
"""Entries of one folder that are looked at."""

_SEPARATOR = "~"
_ANY = "-"
"""In place of a version, in folders that do not stand for a repository."""
_ALL, _SOME = "all", "some"
_SCOPE_RANKS = {_ALL: 0, _SOME: 2}
_MOST_SCOPES = 16
"""Namespaces of a cache that have entries of their own; one that serves more has one entry."""

_EXACT, _NEAR, _FOREIGN = 16, 8, 4
"""How many caches of one repository are read at most: of this very version, of other versions, and
that serve other namespaces only. Of a bottom layer as many as of other versions."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What caches are looked for by; each part adds some.

    `references` are images, `layers` the diff IDs of bottom layers, `named` the ID or the name of a
    cache. `namespace` is that of a pod; None: all count alike.
    """

    references: tuple[images.Reference, ...] = ()
    layers: tuple[str, ...] = ()
    named: str = ""
    namespace: str | None = None

    @property
    def folders(self) -> dict[str, frozenset[str]]:
        """The folders to list, and the versions that are looked for in each; none: any."""
        versions: dict[str, set[str]] = {}
        for each in self.references:
            versions.setdefault(repository(each), set()).add(each.version)
        found = {subject: frozenset(each) for subject, each in versions.items()}
        found |= {layer(diff_id): frozenset() for diff_id in self.layers}
        if self.named:
            found[name(self.named)] = frozenset()
        return found


def repository(reference: images.Reference) -> str:
    """What stands for the repository of an image."""
    return f"repository {reference.name}"


def layer(diff_id: str) -> str:
    """What stands for a bottom layer."""
    return f"layer {diff_id}"


def name(cache_name: str) -> str:
    """What stands for the name of a cache's object."""
    return f"name {cache_name}"


def entries_of(record: records.CacheRecord) -> dict[str, set[str]]:
    """All entries of a cache: the names of the files, by what their folders stand for."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    scopes = list(_scopes(record.namespaces))
    for subject, version in _subjects(record):
        found[subject].update(_SEPARATOR.join((version, scope, record.id)) for scope in scopes)
    return dict(found)


def _subjects(record: records.CacheRecord) -> Iterator[tuple[str, str]]:
    yield name(record.name), _ANY
    if record.keep_warm:
        yield WARM, _ANY
    for image in record.images:
        for bottom in image.bottoms or image.layers[:1]:
            yield layer(bottom), _ANY
        try:
            reference = images.parse_reference(image.ref)
        except images.ImageReferenceError:
            continue
        yield repository(reference), reference.version
        yield repository(reference), image.target


def _scopes(namespaces: Sequence[str] | None) -> Iterable[str]:
    if namespaces is None:
        return (_ALL,)
    few = len(namespaces) <= _MOST_SCOPES
    return sorted(map(_scope, set(namespaces))) if namespaces and few else (_SOME,)


def _scope(namespace: str) -> str:
    return hashlib.sha256(namespace.encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    version: str
    scope: str
    cache_id: str


def _entry(text: str) -> _Entry | None:
    """What the name of a file says; None for one that is no entry."""
    parts = text.split(_SEPARATOR)
    if len(parts) != 3 or not records.is_cache_id(parts[2]):
        return None
    return _Entry(*parts)


def ids(listed: Iterable[str]) -> list[str]:
    """The caches that the entries of a folder name."""
    entries = (_entry(text) for text in listed)
    return sorted({entry.cache_id for entry in entries if entry is not None})


def choose(
    wanted: Wanted, listings: Mapping[str, Collection[str]], *, absent: Collection[str] = ()
) -> list[str]:
    """The IDs of the caches to read, by the names in the folders that `wanted` asks for.

    How many these are depends on `wanted`, not on how many caches there are. Of too many, those
    are preferred that serve the namespace, then those that other folders have as well. `absent`
    have no record: their entries lead nowhere.
    """
    entries = {
        subject: [
            entry
            for text in names
            if (entry := _entry(text)) is not None and entry.cache_id not in absent
        ]
        for subject, names in listings.items()
    }
    counts = collections.Counter(
        cache_id for each in entries.values() for cache_id in {entry.cache_id for entry in each}
    )
    direct = [wanted.named] if records.is_cache_id(wanted.named) else []
    chosen = dict.fromkeys(each for each in direct if each not in absent)
    for subject, versions in wanted.folders.items():
        chosen |= dict.fromkeys(
            _of_folder(entries.get(subject, ()), versions, wanted.namespace, counts)
        )
    return list(chosen)


def _of_folder(
    entries: Iterable[_Entry],
    versions: Collection[str],
    namespace: str | None,
    counts: Mapping[str, int],
) -> list[str]:
    own = None if namespace is None else _scope(namespace)
    exact: list[_Entry] = []
    near: list[_Entry] = []
    foreign: list[_Entry] = []
    for entry in entries:
        if own is not None and entry.scope not in (_ALL, _SOME, own):
            foreign.append(entry)
        elif entry.version in versions:
            exact.append(entry)
        else:
            near.append(entry)
    groups = (exact, _EXACT * len(versions)), (near, _NEAR), (foreign, _FOREIGN)
    found: list[str] = []
    seen: set[str] = set()
    for members, limit in groups:
        members.sort(key=functools.partial(_rank, versions=versions, counts=counts))
        unique = dict.fromkeys(entry.cache_id for entry in members)
        found += [cache_id for cache_id in unique if cache_id not in seen][:limit]
        seen.update(unique)
    return found


def _rank(
    entry: _Entry, *, versions: Collection[str], counts: Mapping[str, int]
) -> tuple[int, int, int, str, str]:
    """What is read first has the smaller one."""
    # The layers of a version with a similar name are more likely those that are wanted.
    similar = max((_common(entry.version, each) for each in versions), default=0)
    return (
        _SCOPE_RANKS.get(entry.scope, 1),
        -counts[entry.cache_id],
        -similar,
        entry.version,
        entry.cache_id,
    )


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in pairs)
