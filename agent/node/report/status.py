"""The state of the agent, as /status and the page for people show it.

One value for both, so that both show the same. docs/reference/status.md
describes the JSON; a field that is added here is added there and to
agent.node.report.status_page.
"""

import dataclasses
import datetime
import importlib.metadata
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from agent.matching import decisions
from agent.matching import estimates as arithmetic
from agent.mounts import mountinfo
from agent.node.health import capability, probe
from agent.node.images import containerd_watch, retirement
from agent.node.near import copies, warm_images
from agent.node.pods import served_pods
from agent.node.report import savings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold; `problem` and `advice` are "" where it does."""

    name: str
    problem: str
    advice: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Whether this node can serve, and why not. `reason` is one sentence for people."""

    name: str
    version: str
    started: datetime.datetime
    capable: bool
    reason: str
    problems: Mapping[str, str]
    checks: Sequence[Check]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The store as this node sees it. `source` and `kind` are those of the mount with `path`.

    `probe_seconds` is how long the last probe took, None before the first.
    """

    path: str
    source: str
    kind: str
    probe_seconds: float | None
    problem: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """The layers that the snapshotter has mounted: `layers` has the layer file of each folder."""

    folder: str
    layers: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the store does for one image of a pod, and why."""

    image: str
    outcome: str
    reason: str
    cache: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of this node. `outcome` is None until it has been decided.

    `sentence` is for people; `seconds` is how long it took until its images were ready. `ended` is
    when the agent noticed that the pod had ended, None before that.
    """

    namespace: str
    name: str
    since: datetime.datetime
    ended: datetime.datetime | None
    served: bool
    sentence: str
    outcome: str | None
    cache: str | None
    images: Sequence[Image]
    registered: Sequence[str]
    laid_out: Sequence[str]
    seconds: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What an image saved against an ordinary pull; `method` and `inputs` say how that is known."""

    image: str
    when: datetime.datetime
    seconds: float
    bytes: int
    actual_seconds: float
    expected_seconds: float | None
    method: str
    inputs: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What was saved since the agent started, the pull speed that it rests on, the last entries."""

    seconds: float
    bytes: int
    images: Mapping[str, int]
    bytes_per_second: float | None
    samples: Sequence[arithmetic.Sample]
    last: Sequence[Saving]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole state. `pods` exist now; `ended_pods` are the last ones that were deleted."""

    node: Node
    containerd: containerd_watch.State
    store: Store
    mounts: Mounts
    pods: Sequence[Pod]
    ended_pods: Sequence[Pod]
    manifest_problems: Mapping[str, str]
    savings: Savings
    deletions: retirement.State
    warm: warm_images.State
    local: copies.State


def node_of(verdict: capability.Verdict, *, name: str, started: datetime.datetime) -> Node:
    """The node's state from the verdict, with advice for each problem."""
    return Node(
        name=name,
        version=importlib.metadata.version("uimgacc"),
        started=started,
        capable=verdict.capable,
        reason=verdict.sentence,
        problems={check.value: problem for check, problem in verdict.problems.items()},
        checks=[
            Check(
                name=check.value,
                problem=verdict.problems.get(check, ""),
                advice=capability.ADVICE[check] if check in verdict.problems else "",
            )
            for check in capability.Check
        ],
    )


def store_of(
    path: pathlib.Path,
    prober: probe.Prober,
    table: Sequence[mountinfo.Entry],
    *,
    source: str = "",
) -> Store:
    """The store, and the mount that its folder is on. Does no I/O on either, as that may hang.

    `source` is set where the agent mounts the store itself: the folder is then a link to that
    mount, and following it would send a request to the server.
    """
    mount = mountinfo.beneath(path, table, source)
    return Store(
        path=str(path),
        source=mount.source if mount else "",
        kind=mount.kind if mount else "",
        probe_seconds=prober.store_seconds,
        problem=prober.verdict.problems.get(capability.Check.STORE, ""),
    )


def mounts_of(root: str, table: Sequence[mountinfo.Entry]) -> Mounts:
    """The layers mounted below the snapshotter's root; `root` is "" while it is not known."""
    folder = f"{root}/layers" if root else ""
    layers = {
        pathlib.PurePath(entry.target).name: mountinfo.backing_file(entry.source)
        for entry in table
        if folder and entry.kind == "erofs" and entry.target.startswith(f"{folder}/")
    }
    return Mounts(folder=folder, layers=layers)


def pods_of(served: Mapping[str, served_pods.Served]) -> list[Pod]:
    """The pods that exist, the newest first."""
    return [_pod(each) for each in reversed(list(served.values()))]


def ended_of(served: Iterable[served_pods.Served]) -> list[Pod]:
    """Pods that were deleted, in the order given."""
    return [_pod(each) for each in served]


def _pod(served: served_pods.Served) -> Pod:
    result = served.result
    decision = result.decision if result else None
    return Pod(
        namespace=served.pod.namespace,
        name=served.pod.name,
        since=served.since,
        ended=served.ended,
        served=served.done == served.version,
        sentence=served.sentence,
        outcome=decision.outcome.value if decision else None,
        cache=(decision.reported or None) if decision else None,
        images=[_image(each) for each in decision.images] if decision else [],
        registered=result.registered if result else (),
        laid_out=result.laid_out if result else (),
        seconds=result.seconds if result else None,
    )


def _image(decision: decisions.ImageDecision) -> Image:
    return Image(
        image=decision.image,
        outcome=decision.outcome.value,
        reason=decision.reason,
        cache=decision.cache_id or None,
    )


def savings_of(ledger: savings.Ledger) -> Savings:
    """What was saved, the newest entry last."""
    return Savings(
        seconds=ledger.totals.seconds,
        bytes=ledger.totals.size,
        images=dict(ledger.totals.images),
        bytes_per_second=ledger.throughput.rate,
        samples=ledger.throughput.samples,
        last=[
            Saving(
                image=entry.image,
                when=entry.when,
                seconds=entry.saving.seconds,
                bytes=entry.saving.size,
                actual_seconds=entry.saving.actual,
                expected_seconds=entry.saving.expectation.seconds,
                method=entry.saving.expectation.method.value,
                inputs=entry.saving.expectation.inputs,
            )
            for entry in ledger.entries
        ],
    )
