"""What is asked of registries about the tags of caches: pure functions.

A tag is asked for once for all caches that name it and may use the same credentials.
"""

import dataclasses
import datetime
from collections.abc import Collection, Mapping

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import outcome
from agent.model import caches, images


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a question is asked with: as the build of the cache asks.

    `plain_http` and `insecure` have the registry of the image, where it is spoken to like that.
    """

    secrets: tuple[caches.SecretName, ...] = ()
    acr_instances: tuple[str, ...] = ()
    plain_http: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What does a tag stand for?"""

    reference: images.Reference
    access: Access


def questions_of(
    cache: cache_object.CacheObject, plain_http: Collection[str] = ()
) -> tuple[Question, ...]:
    """The questions about a cache that serves: none about digests, which stand for themselves.

    `plain_http` are the registries that all builds reach without TLS.
    """
    request = cache.request
    if request is None or cache.deleted is not None or cache.unverified or not cache.state.serving:
        return ()
    plain = {*request.plain_http_registries, *plain_http}
    return tuple(
        Question(
            reference,
            Access(
                secrets=request.pull_secrets,
                acr_instances=request.acr_instances,
                plain_http=tuple({reference.registry} & plain),
                insecure=tuple({reference.registry} & set(request.insecure_registries)),
            ),
        )
        for reference in request.images
        if not reference.digest
    )


def confirmed_of(
    cache: cache_object.CacheObject, answers: Mapping[str, outcome.TagAnswer]
) -> datetime.datetime | None:
    """When all tags of a cache were last found to be as cached; None: they never were."""
    moments = [
        _confirmed(cache, image, answers.get(image.image))
        for image in cache.state.images
        if "@" not in image.image
    ]
    known = [each for each in moments if each is not None]
    return min(known, default=None) if len(known) == len(moments) else None


def _confirmed(
    cache: cache_object.CacheObject,
    image: cache_state.BuiltImage,
    answer: outcome.TagAnswer | None,
) -> datetime.datetime | None:
    if answer is not None and answer.digest == image.digest:
        return answer.at
    return cache.state.tags.confirmed


def differs(
    cache: cache_object.CacheObject,
    answers: Mapping[str, outcome.TagAnswer],
    *,
    written_every: float,
) -> bool:
    """Whether answers change what the status of a cache is to say."""
    tags = cache.state.tags
    moved = {each.image: each.digest for each in tags.moved}
    for image in cache.state.images:
        answer = answers.get(image.image)
        if answer is None:
            continue
        if answer.problem:
            if answer.problem not in tags.problem:
                return True
        elif answer.digest != image.digest:
            if moved.get(image.image) != answer.digest:
                return True
        elif image.image in moved or tags.problem:
            return True
    confirmed = confirmed_of(cache, answers)
    if confirmed is None or tags.confirmed is None:
        return confirmed is not tags.confirmed
    return (confirmed - tags.confirmed).total_seconds() >= written_every
