"""Which caches may serve a pod, best first, and in words why not the others."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from agent.matching import annotations, coverage, decisions, ranking, subjects
from agent.model import caches, keys, pods

# It names no namespace: events are read by people who need not know of the others.
_FOREIGN = "it serves other namespaces only"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What may serve the pod: `pool`, best first.

    `foreign` are caches that have something for the pod but do not serve its
    namespace. `barred` is the outcome for all images where the pod pins a cache
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
    """Select for a request that asks. A cache with nothing for the pod leaves no trace."""
    if request.mode is annotations.Mode.EXPLICIT:
        return _pinned(pod, request, cache_views, wanted, unfinished)
    return _matching(pod, request, cache_views, wanted)


def _meets(cache: caches.Cache, wanted: Sequence[subjects.Subject]) -> bool:
    """Whether a cache can have anything for the pod: the quick answer for most of a store."""
    return any(
        (subject.wanted is not None and subject.wanted.name in cache.by_name)
        or any(layer.diff_id in cache.layers for layer in (subject.layers or ())[:1])
        for subject in wanted
    )


def _match(cache: caches.Cache, wanted: Sequence[subjects.Subject]) -> ranking.Match:
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
    held = coverage.cover(known, cache.layers)
    return ranking.Match(
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
    """The pinned cache; natively the name of the ImageCache does as well as the ID."""
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
    eligible: list[ranking.Match] = []
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
    ranked = ranking.rank(eligible, request.dialect)
    rejected.sort(key=lambda candidate: candidate.cache_id)
    return Selection(
        pool=tuple(match.cache for match in ranked),
        foreign=tuple(sorted(foreign, key=lambda cache: cache.id)),
        candidates=(*_accepted(ranked, request, wanted), *rejected),
        why="" if ranked else _why_none(rejected),
    )


def _accepted(
    ranked: Sequence[ranking.Match],
    request: annotations.Request,
    wanted: Sequence[subjects.Subject],
) -> Iterable[decisions.Candidate]:
    for rank, match in enumerate(ranked, 1):
        verdict = "the best match"
        if rank > 1:
            better = ranked[rank - 2]
            loss = ranking.why_worse(match, better, request.dialect)
            verdict = f"behind {better.cache.id}: {loss}"
        yield _candidate(match, rank=rank, reasons=(verdict, *_counts(match, wanted)))


def _obstacle(match: ranking.Match, request: annotations.Request, count: int) -> str:
    """What keeps a cache out of automatic matching, "" where nothing does."""
    if request.perfect and match.full < count:
        return f"{keys.ALIBABA_PERFECT} wants all {count} images in one cache"
    if match.full < request.at_least:
        return f"{keys.ALIBABA_COUNT} wants {request.at_least} images in one cache"
    if request.dialect is caches.Dialect.TENCENT and not match.exact + match.near:
        return "no image of the same name"
    if request.dialect is caches.Dialect.ALIBABA and not match.full + match.near:
        return "no image of the same name, only some of the layers"
    return ""


def _counts(match: ranking.Match, wanted: Sequence[subjects.Subject]) -> tuple[str, ...]:
    others = (f"{match.near} in another version",) if match.near else ()
    return (f"has {match.full} of {len(wanted)} images", *others)


def _candidate(
    match: ranking.Match, *, reasons: tuple[str, ...], rank: int | None = None
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
