"""What follows from what registries say of a cache's tags: pure functions.

A tag that stands for another image than the one in the cache has the cache built again, and pods
get the cached image or are left to the ordinary pull meanwhile, by the cache's policy
(agent.model.caches.ServeStale). A registry that does not answer changes nothing.
"""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Iterator

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import outcome, retention
from agent.model import caches, images, records, times

_UNTIL_REBUILT = caches.ServeStale()
_ALWAYS = caches.ServeStale(rebuilt=False)


def policy_of(cache: cache_object.CacheObject, rules: retention.Rules) -> caches.ServeStale:
    """The policy of a cache: its own, the cluster's, or what users of its dialect are used to.

    The clouds' caches are snapshots: they hold what they were built from until they are updated.
    """
    own = cache.request.stale if cache.request is not None else None
    return own or rules.serve_stale or (_ALWAYS if cache.of_cloud else _UNTIL_REBUILT)


def looked_up(
    cache: cache_object.CacheObject,
    record: records.CacheRecord,
    seen: outcome.Seen,
    policy: caches.ServeStale,
) -> cache_state.Tags:
    """What is known of the tags of a cache that is built as `record`."""
    before = cache.state.tags
    built = _resolved(record)
    known = {(each.image, each.cached): each for each in before.moved}
    moved: list[cache_state.MovedTag] = []
    confirmed: list[datetime.datetime] = []
    problems: list[str] = []
    latest = _latest(before.confirmed, built)
    for image in _tagged(record):
        answer, old = seen.tags.get(image.ref), known.get((image.ref, image.target))
        if answer is not None and answer.problem:
            problems.append(f"{image.ref}: {answer.problem}")
        if answer is None or answer.problem:
            moved += [old] if old is not None else []
            confirmed += [latest] if latest is not None else []
        elif answer.digest == image.target:
            confirmed.append(_latest(answer.at, built) or answer.at)
        elif built is None or answer.at >= built:
            moved.append(_moved(image, answer, old))
            confirmed += [latest] if latest is not None else []
        else:
            confirmed.append(built)
    tags = cache_state.Tags(
        confirmed=min(confirmed, default=None),
        moved=tuple(_withheld(each, policy, seen.now) for each in moved),
        problem=" ".join(problems)[:1000],
    )
    return _without_noise(tags, before, seen.tags_written_every)


def _resolved(record: records.CacheRecord) -> datetime.datetime | None:
    """A whole second before which the build had not asked what its tags stand for.

    Answers have whole seconds, too. One of this second or later may be of after the build, and in
    doubt a tag has moved: a build for nothing does less harm than a push that is not noticed,
    where the tag is not looked up a second time.
    """
    done = times.parse(record.created)
    if done is None:
        return None
    return done - datetime.timedelta(seconds=math.ceil(record.build_seconds))


def _moved(
    image: records.CachedImage, answer: outcome.TagAnswer, old: cache_state.MovedTag | None
) -> cache_state.MovedTag:
    """The tag as moved; it was noticed when it first was another than the cached one."""
    return cache_state.MovedTag(
        image=image.ref,
        cached=image.target,
        digest=answer.digest,
        noticed=old.noticed if old is not None else answer.at,
    )


def _withheld(
    moved: cache_state.MovedTag, policy: caches.ServeStale, now: datetime.datetime
) -> cache_state.MovedTag:
    until = _served_until(moved, policy)
    return dataclasses.replace(moved, withheld=until is not None and until <= now)


def _served_until(
    moved: cache_state.MovedTag, policy: caches.ServeStale
) -> datetime.datetime | None:
    """Until when pods get what is cached; None: until it is built again."""
    if policy.seconds is None:
        return None
    return moved.noticed + datetime.timedelta(seconds=policy.seconds)


def _without_noise(
    tags: cache_state.Tags, before: cache_state.Tags, every: float
) -> cache_state.Tags:
    """The same with the time of before, where it is all that differs, and not by much.

    So the statuses of many caches are not written each time when their tags are looked up.
    """
    if tags.confirmed is None or before.confirmed is None:
        return tags
    if (tags.moved, tags.problem) != (before.moved, before.problem):
        return tags
    if 0 <= (tags.confirmed - before.confirmed).total_seconds() < every:
        return dataclasses.replace(tags, confirmed=before.confirmed)
    return tags


def left(tags: cache_state.Tags, policy: caches.ServeStale, now: datetime.datetime) -> float | None:
    """Seconds until a tag that has moved is withheld; None where none will be."""
    times_left = [
        (until - now).total_seconds()
        for each in tags.moved
        if not each.withheld and (until := _served_until(each, policy)) is not None
    ]
    return min(times_left, default=None)


def for_nodes(tags: cache_state.Tags, policy: caches.ServeStale) -> tuple[records.MovedTag, ...]:
    """What the cache's record says of its tags."""
    confirmed = times.stamp(tags.confirmed) if tags.confirmed is not None else ""
    return tuple(
        records.MovedTag(
            ref=each.image,
            target=each.digest,
            noticed=times.stamp(each.noticed),
            confirmed=confirmed,
            policy=str(policy),
            withheld=each.withheld,
        )
        for each in tags.moved
    )


def events(
    tags: cache_state.Tags, before: cache_state.Tags, policy: caches.ServeStale
) -> Iterator[outcome.Event]:
    """The events of what is new."""
    known = {(each.image, each.digest, each.withheld) for each in before.moved}
    for each in tags.moved:
        if (each.image, each.digest, each.withheld) not in known:
            yield outcome.Event(reason="TagMoved", message=_sentence(each, tags, policy))
    if tags.problem and tags.problem != before.problem:
        message = f"It cannot be found out whether tags have moved. {tags.problem}"
        yield outcome.Event(reason="TagsNotConfirmed", message=message[:1000], warning=True)


def _sentence(
    moved: cache_state.MovedTag, tags: cache_state.Tags, policy: caches.ServeStale
) -> str:
    confirmed = f", last confirmed at {tags.confirmed:%H:%M:%S} UTC" if tags.confirmed else ""
    if not policy.rebuilt:
        then = "The cache stays as it is (serve-stale: always)."
    elif moved.withheld:
        then = f"It is built again; until then pods pull the image (serve-stale: {policy})."
    else:
        then = f"It is built again; until then pods get the cached one (serve-stale: {policy})."
    return (
        f"{moved.image} is {moved.digest} at the registry now; the cache has {moved.cached}"
        f"{confirmed}. {then}"
    )


def _tagged(record: records.CacheRecord) -> Iterable[records.CachedImage]:
    """The images of a cache that are named by a tag alone."""
    for image in record.images:
        try:
            reference = images.parse_reference(image.ref)
        except images.ImageReferenceError:
            continue
        if not reference.digest:
            yield image


def _latest(*moments: datetime.datetime | None) -> datetime.datetime | None:
    return max((each for each in moments if each is not None), default=None)
