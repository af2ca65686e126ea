"""What is wrong with an installation, each with the command that mends it or shows more; pure."""

import dataclasses
from collections.abc import Iterator, Sequence

from agent.cli.cluster import cache_tally, node_tally, policy_tally, remedies, survey

_EXAMPLES = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One of them. `examples` are names, `detail` is in the words of an object's status."""

    remedy: remedies.Remedy
    text: str
    command: str
    count: int = 1
    examples: Sequence[str] = ()
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether something does not work."""
        return self.remedy.level is remedies.Level.FAULT


def of_survey(read: survey.Survey) -> list[Problem]:
    """All of them: faults before notices, in the order of the table, the most frequent first."""
    if read.agents is not None and not read.agents.image:
        return [_of(read, "not-installed")]
    found = [*_installation(read), *_nodes(read), *_caches(read), *_policies(read)]
    return sorted(found, key=lambda each: not each.is_fault)


def _installation(read: survey.Survey) -> Iterator[Problem]:
    if read.off:
        yield _of(read, "switched-off")
    yield from _controllers(read)
    for each in read.waiting:
        yield _of(
            read,
            "agents-not-ready",
            count=each.count,
            detail=each.reason,
            pod=each.example,
        )
    agents, controller = read.agents, read.controller
    if agents is not None and agents.updated < agents.wanted:
        yield _of(read, "rolling-out", count=agents.wanted - agents.updated)
    images = [each.image for each in (agents, controller) if each is not None and each.image]
    if len(set(images)) > 1:
        yield _of(read, "versions-differ", detail=" and ".join(images))


def _controllers(read: survey.Survey) -> Iterator[Problem]:
    controller = read.controller
    if controller is not None and not controller.image:
        yield _of(read, "no-controller")
        return
    if controller is not None and controller.ready < controller.wanted:
        yield _of(read, "controller-not-ready", count=controller.wanted - controller.ready)
    if read.leader is not None and not read.leader.leads:
        yield _of(read, "no-leader")


def _nodes(read: survey.Survey) -> Iterator[Problem]:
    for group in read.nodes.groups if read.nodes is not None else ():
        yield _of_group(read, group)


def _of_group(read: survey.Survey, group: node_tally.Group) -> Problem:
    remedy = remedies.of_reason(group.reason)
    example = group.examples[0]
    return _of(
        read,
        remedy.key,
        count=group.count,
        examples=group.examples,
        detail=group.message,
        node=example,
        pod=read.pods.get(example, "POD"),
    )


def _caches(read: survey.Survey) -> Iterator[Problem]:
    for trouble in read.caches.troubles if read.caches is not None else ():
        yield _of_trouble(read, trouble)


def _policies(read: survey.Survey) -> Iterator[Problem]:
    by_key: dict[str, list[policy_tally.Policy]] = {}
    for each in read.policies or ():
        if each.reason:
            by_key.setdefault(remedies.of_policy(each.reason).key, []).append(each)
        elif not each.fits:
            by_key.setdefault("policy-over-budget", []).append(each)
    for key, policies in by_key.items():
        yield _of(
            read,
            key,
            count=len(policies),
            examples=[each.name for each in policies[:_EXAMPLES]],
            detail=policies[0].message,
            policy=policies[0].name,
        )


def _of_trouble(read: survey.Survey, trouble: cache_tally.Trouble) -> Problem:
    example = trouble.examples[0]
    return _of(
        read,
        trouble.remedy.key,
        count=trouble.count,
        examples=[each.key.name for each in trouble.examples],
        detail=trouble.message,
        cache=example.key.name,
        kind=f"imagecaches.{example.key.group}",
        id=example.cache_id,
    )


_SINGLE = frozenset(
    {"not-installed", "switched-off", "no-controller", "no-leader", "versions-differ"}
)
"""Of the installation as a whole: not counted."""

_COUNTED = {
    "controller-not-ready": "",
    "agents-not-ready": "",
    "rolling-out": "",
    **{each.key: "node" for each in remedies.NODES},
    **{each.key: "image cache" for each in remedies.CACHES},
    **{each.key: "policy object" for each in remedies.POLICIES},
}
"""What is counted: these things, or what the phrase itself says."""


def _of(
    read: survey.Survey,
    key: str,
    *,
    count: int = 1,
    examples: Sequence[str] = (),
    detail: str = "",
    **fields: str,
) -> Problem:
    remedy = remedies.ALL[key]
    text = remedy.what
    if key not in _SINGLE:
        things = _COUNTED[key]
        number = f"{count:,} {things}{'s' * (count != 1)}:" if things else f"{count:,}"
        text = f"{number} {text}"
    return Problem(
        remedy=remedy,
        text=text,
        command=remedy.command.format(system=read.namespace, **fields),
        count=count,
        examples=tuple(examples),
        detail=" ".join(detail.split()),
    )
