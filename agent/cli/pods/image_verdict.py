"""Why an image is cached, or is not: the caches and policies that name it, and what pulls cost."""

import dataclasses
import enum
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TypeVar

from agent import errors
from agent.cli import output
from agent.cli.caches import cluster_objects
from agent.cli.cluster import remedies
from agent.cli.pods import pod_verdict, why_subject
from agent.clients.kube import rest_client
from agent.control.caches import cache_object, cache_state
from agent.control.policies import policy_object
from agent.control.pulls import image_costs, pull_book
from agent.kits import units
from agent.model import images, times

Value = TypeVar("Value")

_SHOWN = 5


class Kind(enum.Enum):
    """Whether an image is in the store, by the caches that name it."""

    CACHED = "cached"
    BUILDING = "not cached yet"
    FAILED = "not cached"
    NOT_CACHED = "not in any cache"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """About an image in its full name, or about the image cache `cache`.

    `caches` are those that name the image, `others` those that have other versions of it. `cost` is
    what its pulls of the last day took; None where it is not known that there were any. `system` is
    the namespace of uimgacc.
    """

    system: str
    image: str = ""
    cache: str = ""
    caches: Sequence[cache_object.CacheObject] = ()
    others: Sequence[cache_object.CacheObject] = ()
    count: int = 0
    policies: Sequence[policy_object.Policy] = ()
    cost: image_costs.ImageCost | None = None
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence is `because`, after the name and the kind."""

    kind: Kind
    because: str
    links: Sequence[pod_verdict.Link]


async def read(
    client: rest_client.Client, subject: why_subject.Subject, *, system: str
) -> Evidence:
    """All evidence; raise NotFound, UsageError, or what keeps the caches from being read."""
    if subject.kind is why_subject.Kind.CACHE:
        found = await cluster_objects.find(client, subject.name)
        return Evidence(system=system, cache=found.key.name, caches=[found], count=1)
    try:
        image = images.parse_reference(subject.name)
    except images.ImageReferenceError as error:
        raise output.UsageError(str(error)) from error
    every = await cluster_objects.read_all(client)
    named = [each for each in every if image in _images(each)]
    others = [
        each
        for each in every
        if each not in named and image.name in {other.name for other in _images(each)}
    ]
    unread: dict[str, str] = {}

    async def tried(what: str, work: Awaitable[Value]) -> Value | None:
        try:
            return await work
        except errors.AgentError as error:
            unread[what] = f"not read: {error}"
            return None

    policies = await tried("policies", _policies(client))
    costs = await pull_book.known_costs(pull_book.BookObject(client, namespace=system))
    if costs is None:
        unread["pulls"] = "what pulls cost is not known: the controller has written nothing yet"
    pulled = costs.images if costs is not None else ()
    return Evidence(
        system=system,
        image=str(image),
        caches=named,
        others=others,
        count=len(every),
        policies=policies or (),
        cost=next((each for each in pulled if each.image == str(image)), None),
        unread=unread,
    )


async def _policies(client: rest_client.Client) -> list[policy_object.Policy]:
    return [
        policy_object.parse(body)
        async for page in client.pages(rest_client.IMAGE_CACHE_POLICIES)
        for body in page.items
    ]


def _images(cache: cache_object.CacheObject) -> Sequence[images.Reference]:
    return cache.request.images if cache.request is not None else ()


def judge(evidence: Evidence) -> Verdict:
    """The verdict. Never raises."""
    kind, because = _sentence(evidence)
    return Verdict(kind=kind, because=because, links=list(_links(evidence)))


def _sentence(evidence: Evidence) -> tuple[Kind, str]:
    serving = [each for each in evidence.caches if each.state.serving]
    if serving:
        moved = any(each.state.tags.moved for each in serving)
        more = ", but the registry has moved a tag since" if moved else ""
        return Kind.CACHED, f"image cache {serving[0].key.name} serves it{more}"
    for cache in evidence.caches:
        if cache.state.phase is not cache_state.Phase.FAILED:
            phase = cache.state.phase.value if cache.state.phase else "not looked at yet"
            return Kind.BUILDING, f"image cache {cache.key.name} is {phase}"
    if evidence.caches:
        cache = evidence.caches[0]
        return Kind.FAILED, f"image cache {cache.key.name} could not be built"
    return Kind.NOT_CACHED, f"none of {evidence.count} image caches names it"


def _links(evidence: Evidence) -> Iterator[pod_verdict.Link]:
    for cache in evidence.caches[:_SHOWN]:
        yield _state(cache, evidence.system)
        yield from _of_cache(cache)
    if evidence.cache:
        return
    if not evidence.caches:
        yield from _of_others(evidence)
    for policy in evidence.policies:
        yield from _of_policy(policy, evidence)
    if evidence.cost is not None:
        cost = evidence.cost
        text = (
            f"{cost.pulls:,} in the last day took {units.duration(cost.seconds)},"
            f" {units.size(cost.downloaded)} downloaded"
        )
        yield pod_verdict.Link(name="pulls", mark=pod_verdict.Mark.NOTED, text=text)
    elif "pulls" not in evidence.unread:
        yield pod_verdict.Link(
            name="pulls", mark=pod_verdict.Mark.NOTED, text="none is known of the last day"
        )
    for name, why in evidence.unread.items():
        yield pod_verdict.Link(name=name, mark=pod_verdict.Mark.UNKNOWN, text=why)


def _state(cache: cache_object.CacheObject, system: str) -> pod_verdict.Link:
    """What status says, with the command that mends it where that is known."""
    link = pod_verdict.state_of(cache)
    if cache.state.phase is not cache_state.Phase.FAILED:
        return link
    kind = f"imagecaches.{cache.key.group}"
    remedy = remedies.of_message(cache.state.message).command.format(
        system=system, cache=cache.key.name, kind=kind, id=cache.cache_id
    )
    return dataclasses.replace(link, remedy=remedy)


def _of_cache(cache: cache_object.CacheObject) -> Iterator[pod_verdict.Link]:
    if cache.problem:
        yield pod_verdict.Link(name="manifest", mark=pod_verdict.Mark.BROKEN, text=cache.problem)
    serves = cache.request.serves if cache.request is not None else ()
    if serves:
        text = f"pods of {', '.join(serves)} only"
        yield pod_verdict.Link(name="serves", mark=pod_verdict.Mark.NOTED, text=text)
    if cache.state.tags.problem:
        yield pod_verdict.Link(
            name="tags", mark=pod_verdict.Mark.UNKNOWN, text=cache.state.tags.problem
        )
    used = f"at {times.stamp(cache.matched)}" if cache.matched else "never, as far as nodes say"
    yield pod_verdict.Link(name="last used", mark=pod_verdict.Mark.NOTED, text=used)
    if cache.policy:
        yield pod_verdict.Link(
            name="policy", mark=pod_verdict.Mark.NOTED, text=f"made by {cache.policy}"
        )


def _of_others(evidence: Evidence) -> Iterator[pod_verdict.Link]:
    remedy = f"uimgacc create NAME --image {evidence.image}"
    if not evidence.others:
        text = "none has its repository"
        yield pod_verdict.Link(name="cache", mark=pod_verdict.Mark.BROKEN, text=text, remedy=remedy)
    for cache in evidence.others[:_SHOWN]:
        text = (
            f"{cache.key.name} has {', '.join(map(str, _images(cache)))[:200]}: layers of it help"
        )
        yield pod_verdict.Link(name="cache", mark=pod_verdict.Mark.BROKEN, text=text, remedy=remedy)


def _of_policy(policy: policy_object.Policy, evidence: Evidence) -> Iterator[pod_verdict.Link]:
    if policy.spec is None or not policy.spec.selects(evidence.image):
        return
    for each in policy.status.get("leftOut") or ():
        if each.get("image") == evidence.image:
            reason = str(each.get("reason") or "")
            text = f"{policy.name} leaves it out: {reason}"
            remedy = f"kubectl describe imcp {policy.name}" if reason != "CachedAlready" else ""
            mark = pod_verdict.Mark.NOTED if evidence.caches else pod_verdict.Mark.BROKEN
            yield pod_verdict.Link(name="policy", mark=mark, text=text, remedy=remedy)
            return
    if not evidence.caches:
        text = (
            f"{policy.name} selects its name, but it was not pulled within a day by pods"
            " that count, or its pulls take too little time"
        )
        yield pod_verdict.Link(name="policy", mark=pod_verdict.Mark.NOTED, text=text)
