"""Which caches may serve a pod, best first, and in words why not the others.

Each cloud has an order of its own. A match is compared criterion by criterion; the one
that decided between two is said in words, so that people see why a cache lost. The ID is
the last criterion: the order never depends on that of the input.

- Alibaba: degree of match, then closest size, then newest.
- Tencent: the same image name, then smaller, then newer. Its two documents
  disagree on whether another tag counts; here it does, after the same tag.
- Native and UCloud: most bytes covered, then as Alibaba.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence

from agent.matching import annotations, decisions, subjects
from agent.model import caches, keys, pods

# It names no namespace: events are read by people who need not know of the others.
_FOREIGN = "it serves other namespaces only"


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
    held: subjects.Coverage
    distance: int

    @property
    def helps(self) -> bool:
        """Whether it has anything for the pod."""
        return bool(self.full or self.near or self.held.held_layers)


@dataclasses.dataclass(frozen=True, slots=True)
class _Criterion:
    """The better match has the smaller key; `loss` says so of the worse one."""

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


def rank_matches(matches: Iterable[Match], dialect: caches.Dialect) -> list[Match]:
    """The matches, best first."""
    criteria = _CRITERIA[dialect]
    return sorted(matches, key=lambda match: [criterion.key(match) for criterion in criteria])


def why_worse(match: Match, better: Match, dialect: caches.Dialect) -> str:
    """Which criterion a match lost by, as the end of a sentence about its cache."""
    for criterion in _CRITERIA[dialect]:
        if criterion.key(match) != criterion.key(better):
            return criterion.loss
    return "is the same"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What may serve the pod: `pool`, best first.

    `foreign` are caches that have something for the pod but do not serve its
    namespace. `barred` is the outcome for all images where the pod names a cache
    that cannot be used, `why` a sentence about an empty pool.
    """

    pool: tuple[caches.Cache, ...] = ()
    foreign: tuple[caches.Cache, ...] = ()
    candidates: tuple[decisions.Candidate, ...] = ()
    barred: decisions.Outcome | None = None
    why: str = ""


def select(
    pod: pods.Pod,
    request: annotations.Request,
    cache_views: Iterable[caches.Cache],
    wanted: Sequence[subjects.Subject],
    *,
    unfinished: Collection[str],
) -> Selection:
    """Select for a request that asks. A cache with nothing for the pod is left out."""
    if request.mode is annotations.Mode.EXPLICIT:
        return _pinned(pod, request, cache_views, wanted, unfinished)
    return _matching(pod, request, cache_views, wanted)


def _meets(cache: caches.Cache, wanted: Sequence[subjects.Subject]) -> bool:
    """Whether a cache can have anything for the pod: a quick test that most caches fail."""
    return any(
        (subject.wanted is not None and subject.wanted.name in cache.by_name)
        or any(layer.diff_id in cache.layers for layer in (subject.layers or ())[:1])
        for subject in wanted
    )


def _match(cache: caches.Cache, wanted: Sequence[subjects.Subject]) -> Match:
    exact = full = near = 0
    for subject in wanted:
        if subject.wanted is None:
            continue
        if cache.image(subject.wanted) is not None:
            exact += 1
        elif subject.within(cache):
            full += 1
        elif cache.of_repository(subject.wanted):
            near += 1
    known = [subject.layers for subject in wanted if subject.layers is not None]
    held = subjects.cover(known, cache.layers)
    return Match(
        cache=cache,
        exact=exact,
        full=exact + full,
        near=near,
        held=held,
        distance=abs(cache.image_bytes - held.size),
    )


def _pinned(
    pod: pods.Pod,
    request: annotations.Request,
    cache_views: Iterable[caches.Cache],
    wanted: Sequence[subjects.Subject],
    unfinished: Collection[str],
) -> Selection:
    pin = _find(request, cache_views)
    if pin is None:
        building = request.cache in unfinished
        state = "is still being built" if building else "does not exist or is not Ready"
        return Selection(
            barred=decisions.Outcome.NOT_READY,
            why=f"Image cache {request.cache} {state}.",
            candidates=(
                decisions.Candidate(
                    cache_id=request.cache, reasons=(f"{request.key} names it", state)
                ),
            ),
        )
    match = _match(pin, wanted)
    if not pin.serves(pod.namespace):
        return Selection(
            foreign=(pin,),
            barred=decisions.Outcome.FORBIDDEN,
            why=f"Image cache {pin.id} does not serve namespace {pod.namespace}.",
            candidates=(_candidate(match, reasons=(f"{request.key} names it", _FOREIGN)),),
        )
    reasons = (f"{request.key} names it", *_counts(match, wanted))
    return Selection(pool=(pin,), candidates=(_candidate(match, rank=1, reasons=reasons),))


def _find(request: annotations.Request, cache_views: Iterable[caches.Cache]) -> caches.Cache | None:
    """The named cache; natively by the name of the ImageCache or by its ID."""
    named: list[caches.Cache] = []
    for cache in cache_views:
        if cache.id == request.cache:
            return cache
        if request.dialect is caches.Dialect.NATIVE and cache.name == request.cache:
            named.append(cache)
    return min(named, key=lambda cache: cache.id, default=None)


def _matching(
    pod: pods.Pod,
    request: annotations.Request,
    cache_views: Iterable[caches.Cache],
    wanted: Sequence[subjects.Subject],
) -> Selection:
    eligible: list[Match] = []
    foreign: list[caches.Cache] = []
    rejected: list[decisions.Candidate] = []
    for cache in cache_views:
        if not _meets(cache, wanted):
            continue
        match = _match(cache, wanted)
        if not match.helps:
            continue
        obstacle = _obstacle(match, request, len(wanted))
        if not cache.serves(pod.namespace):
            foreign.append(cache)
            obstacle = _FOREIGN
        if obstacle:
            rejected.append(_candidate(match, reasons=(obstacle, *_counts(match, wanted))))
        else:
            eligible.append(match)
    ranked = rank_matches(eligible, request.dialect)
    rejected.sort(key=lambda candidate: candidate.cache_id)
    return Selection(
        pool=tuple(match.cache for match in ranked),
        foreign=tuple(sorted(foreign, key=lambda cache: cache.id)),
        candidates=(*_accepted(ranked, request, wanted), *rejected),
        why="" if ranked else _why_none(rejected),
    )


def _accepted(
    ranked: Sequence[Match],
    request: annotations.Request,
    wanted: Sequence[subjects.Subject],
) -> Iterable[decisions.Candidate]:
    for rank, match in enumerate(ranked, 1):
        verdict = "the best match"
        if rank > 1:
            better = ranked[rank - 2]
            loss = why_worse(match, better, request.dialect)
            verdict = f"behind {better.cache.id}: {loss}"
        yield _candidate(match, rank=rank, reasons=(verdict, *_counts(match, wanted)))


def _obstacle(match: Match, request: annotations.Request, count: int) -> str:
    """Why a cache is not matched automatically; "" where it may be."""
    if request.perfect and match.full < count:
        return f"{keys.ALIBABA_PERFECT} wants all {count} images in one cache"
    if match.full < request.at_least:
        return f"{keys.ALIBABA_COUNT} wants {request.at_least} images in one cache"
    if request.dialect is caches.Dialect.TENCENT and not match.exact + match.near:
        return "no image of the same name"
    if request.dialect is caches.Dialect.ALIBABA and not match.full + match.near:
        return "no image of the same name, only some of the layers"
    return ""


def _counts(match: Match, wanted: Sequence[subjects.Subject]) -> tuple[str, ...]:
    others = (f"{match.near} in another version",) if match.near else ()
    return (f"has {match.full} of {len(wanted)} images", *others)


def _candidate(
    match: Match, *, reasons: tuple[str, ...], rank: int | None = None
) -> decisions.Candidate:
    return decisions.Candidate(
        cache_id=match.cache.id,
        name=match.cache.name,
        rank=rank,
        chosen=rank == 1,
        reasons=reasons,
        full=match.full,
        near=match.near,
        covered=match.held.held_size,
    )


def _why_none(rejected: Sequence[decisions.Candidate]) -> str:
    if not rejected:
        return ""
    first = rejected[0]
    more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
    return f"{first.cache_id} is out of the question: {first.reasons[0]}{more}."
