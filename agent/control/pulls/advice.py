"""Which images to cache next, and what that would spare; pure.

The estimate: had the image been in the store, each download would have taken READY seconds in place
of the median of its downloads, and its bytes would not have been asked of the registry. It
says what was lost in the past: a fleet that has all its nodes now pulls less tomorrow. Downloads
only count, not pulls that found the image, and doubt makes the figure smaller.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from agent.control.caches import cache_object, cache_state
from agent.control.pulls import image_costs
from agent.matching import pod_moves
from agent.model import cache_manifest, caches

READY = 1.0
"""Seconds until an image of the store is there; measured are 0.1 to 0.5."""
PAYS = 3.0
"""Seconds of a download below which an image stays out of the advice."""
_TWICE = 2
# A layer file of the store takes more than the compressed blob (lz4 in place of gzip).
_GROWTH = 3
_NAME_LENGTH = 40

Secrets = frozenset[str]
"""Names of the pull secrets of pods of one namespace."""

Users = Mapping[str, Mapping[str, Secrets | None]]
"""For each image its pods' pull secrets, by namespace; None where no pod was there to be asked."""


class Verdict(enum.Enum):
    """What is said of an image; the value is what people read."""

    CACHED = "yes"
    BUILDING = "being built"
    FAILED = "no: its cache could not be built"
    WORTH = "no"
    QUICK = "no: pulled in less than 3 s"
    ONCE = "no: downloaded once"
    SYSTEM = "no: pods of system namespaces are left alone"


_BEST = (Verdict.CACHED, Verdict.BUILDING, Verdict.FAILED)
"""Of an image that several caches have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assessed:
    """An image with what is said of it; `seconds` and `size` are what a cache would spare."""

    cost: image_costs.ImageCost
    verdict: Verdict
    seconds: float = 0.0
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """All images, the most expensive first, and those that are worth a cache, the best first."""

    images: tuple[Assessed, ...]
    next: tuple[Assessed, ...]


class Cached:
    """Which images caches have, or are to have: by name, and by what the name stood for."""

    def __init__(self, objects: Iterable[cache_object.CacheObject]) -> None:
        self._verdicts: dict[str, Verdict] = {}
        for each in objects:
            if each.deleted is not None or each.request is None:
                continue
            verdict = _of_cache(each)
            for reference in each.request.images:
                self._put(str(reference), verdict)
            for image in each.state.images if each.state.serving else ():
                self._put(f"{_without_version(image.image)}@{image.digest}", verdict)

    def _put(self, image: str, verdict: Verdict) -> None:
        known = self._verdicts.get(image)
        if known is None or _BEST.index(verdict) < _BEST.index(known):
            self._verdicts[image] = verdict

    def verdict(self, image: str) -> Verdict | None:
        """The state of an image, a normalised reference; None where no cache has it."""
        name, at, digest = image.partition("@")
        pinned = f"{_without_version(name)}{at}{digest}" if at else image
        return self._verdicts.get(image) or self._verdicts.get(pinned)


def advise(costs: image_costs.Costs, cached: Cached, *, most: int) -> Advice:
    """Say of each image whether it is worth a cache, and name the best `most` of them."""
    assessed = tuple(_assess(cost, cached) for cost in costs.images)
    worth = [each for each in assessed if each.verdict is Verdict.WORTH]
    worth.sort(key=lambda each: (-each.seconds, each.cost.image))
    return Advice(images=assessed, next=tuple(worth[:most]))


def drafts(chosen: Sequence[Assessed], users: Users) -> list[cache_manifest.Draft]:
    """The ImageCaches for images, by namespace, those that need pull secrets apart from others.

    What a pod has pulled without a secret needs none: such a cache serves all namespaces. One with
    secrets serves the namespace of these. An object is named after what is in it, so the
    advice of another day makes further objects, and changes none.
    """
    members: dict[tuple[str, bool], list[Assessed]] = {}
    secrets: dict[str, set[str]] = {}
    for each in chosen:
        for namespace, needed in _places(users.get(each.cost.image, {})):
            members.setdefault((namespace, bool(needed)), []).append(each)
            secrets.setdefault(namespace, set()).update(needed)
    return [
        _draft(namespace, secrets[namespace] if private else (), group[at : at + caches.MAX_IMAGES])
        for (namespace, private), group in sorted(members.items(), key=lambda item: item[0])
        for at in range(0, len(group), caches.MAX_IMAGES)
    ]


def _assess(cost: image_costs.ImageCost, cached: Cached) -> Assessed:
    verdict = cached.verdict(cost.image) or _worth(cost)
    if verdict is not Verdict.WORTH:
        return Assessed(cost=cost, verdict=verdict)
    spared = cost.downloads * max(0.0, cost.typical - READY)
    return Assessed(
        cost=cost, verdict=verdict, seconds=min(spared, cost.seconds), size=cost.downloaded
    )


def _worth(cost: image_costs.ImageCost) -> Verdict:
    if cost.pods and all(namespace in pod_moves.LEFT_OUT for namespace in cost.pods):
        return Verdict.SYSTEM
    if cost.typical < PAYS:
        return Verdict.QUICK
    return Verdict.WORTH if cost.downloads >= _TWICE else Verdict.ONCE


def _places(users: Mapping[str, Secrets | None]) -> list[tuple[str, Secrets]]:
    """In which namespaces' caches an image goes, and with which secrets; "": one for several."""
    served = {name: each for name, each in users.items() if name not in pod_moves.LEFT_OUT}
    private = [(name, each) for name, each in sorted(served.items()) if each]
    if private and all(each or each is None for each in served.values()):
        return private
    return [(next(iter(served)) if len(served) == 1 else "", frozenset())]


def _draft(
    namespace: str, secrets: Iterable[str], members: Sequence[Assessed]
) -> cache_manifest.Draft:
    names = sorted(each.cost.image for each in members)
    named = sorted(f"{namespace}/{name}" for name in secrets)[: caches.MAX_SECRETS]
    digest = hashlib.sha256("\n".join([*names, "", *named]).encode()).hexdigest()[:10]
    needed = _GROWTH * sum(each.cost.size for each in members)
    return cache_manifest.Draft(
        name=f"advised-{namespace[:_NAME_LENGTH].strip('-') or 'shared'}-{digest}",
        images=names,
        pull_secrets=named,
        size_gib=min(max(caches.SIZE_DEFAULT, -(-needed >> 30)), caches.SIZE_MAX),
    )


def _of_cache(cache: cache_object.CacheObject) -> Verdict:
    if cache.state.serving:
        return Verdict.CACHED
    failed = cache.state.phase is cache_state.Phase.FAILED
    return Verdict.FAILED if failed else Verdict.BUILDING


def _without_version(image: str) -> str:
    """Registry and repository of a normalised reference."""
    name = image.partition("@")[0]
    before, _, tag = name.rpartition(":")
    return before if before and "/" not in tag else name
