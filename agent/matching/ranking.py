"""Which of several caches is the best match: each cloud has an order of its own.

A match is compared criterion by criterion; what decided between two is said in
words, so that a person sees why the other cache lost. The ID is the last
criterion: the order never depends on that of the input.

- Alibaba: degree of match, then closest size, then newest.
- Tencent: the same image name, then smaller, then newer. Its two documents
  disagree on whether another tag counts; here it does, after the same tag.
- Native and UCloud: most bytes covered, then as Alibaba.
"""

import dataclasses
from collections.abc import Callable, Iterable

from agent.matching import coverage
from agent.model import caches


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How a cache fits a pod.

    `exact` of the pod's images it has by name and version, `full` of them with all
    their layers (the exact ones, and others by content), `near` of the others in
    another version. `held` is what it has of the layers that are known, and
    `distance` how many bytes its images are larger or smaller than the pod's.
    """

    cache: caches.Cache
    exact: int
    full: int
    near: int
    held: coverage.Coverage
    distance: int

    @property
    def helps(self) -> bool:
        """Whether it has anything for the pod."""
        return bool(self.full or self.near or self.held.held_layers)


@dataclasses.dataclass(frozen=True, slots=True)
class _Criterion:
    """The better match has the smaller key; `loss` is said of the worse."""

    key: Callable[[Match], float | str]
    loss: str


_FULL = _Criterion(lambda match: -match.full, "fewer of the pod's images match fully")
_EXACT = _Criterion(lambda match: -match.exact, "fewer of the pod's images are there by their tag")
_NEAR = _Criterion(lambda match: -match.near, "fewer of the pod's images are there in another tag")
_NAMED = _Criterion(
    lambda match: -(match.exact + match.near), "fewer of the pod's images are there by name"
)
_BYTES = _Criterion(lambda match: -match.held.held_size, "covers fewer bytes")
_CLOSEST = _Criterion(lambda match: match.distance, "its size is farther from the pod's images")
_CAPACITY = _Criterion(lambda match: match.cache.record.capacity, "is larger")
_SMALLER = _Criterion(lambda match: match.cache.record.size, "holds more bytes")
_NEWEST = _Criterion(lambda match: -match.cache.created.timestamp(), "is older")
_ID = _Criterion(lambda match: match.cache.id, "is as good; the first ID in order is taken")

_ALIBABA = (_FULL, _EXACT, _NEAR, _CLOSEST, _NEWEST, _ID)
_TENCENT = (_NAMED, _EXACT, _CAPACITY, _SMALLER, _NEWEST, _ID)
_NATIVE = (_BYTES, *_ALIBABA)

_CRITERIA = {
    caches.Dialect.NATIVE: _NATIVE,
    caches.Dialect.UCLOUD: _NATIVE,
    caches.Dialect.ALIBABA: _ALIBABA,
    caches.Dialect.TENCENT: _TENCENT,
}


def rank(matches: Iterable[Match], dialect: caches.Dialect) -> list[Match]:
    """The matches, best first."""
    criteria = _CRITERIA[dialect]
    return sorted(matches, key=lambda match: [criterion.key(match) for criterion in criteria])


def why_worse(match: Match, better: Match, dialect: caches.Dialect) -> str:
    """What decided against a match, as the end of a sentence about its cache."""
    for criterion in _CRITERIA[dialect]:
        if criterion.key(match) != criterion.key(better):
            return criterion.loss
    return "is the same"
