"""What is known of the images that UCloud's API has accelerated, and what that amounts to; pure."""

import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Sequence

from agent.control.caches import cache_state
from agent.model import images
from agent.ucloud import protocol

_PATIENCE = datetime.timedelta(seconds=60)
"""How long a deletion may wait for nodes until whoever waits for it is told by whom it is held."""


class Stage(enum.Enum):
    """How far the second name of an image is."""

    NONE = ""
    PUSHED = "Pushed"
    FAILED = "Failed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accelerated:
    """An ImageCache object of ours.

    `built` and `failed` say what became of its present spec: both are False while
    nobody has tried. `problem` says why the other name could not be pushed,
    `deleted` is since when it is being deleted, `told` whether somebody went on after
    that had become an error. `plain_http` and `insecure` are registries that are spoken
    to in that way.
    """

    name: str
    uid: str
    original: str
    target: str
    stage: Stage = Stage.NONE
    problem: str = ""
    layers: int = 0
    state: cache_state.State = dataclasses.field(default_factory=cache_state.State)
    built: bool = False
    failed: bool = False
    plain_http: frozenset[str] = frozenset()
    insecure: frozenset[str] = frozenset()
    deleted: datetime.datetime | None = None
    told: bool = False


def name_of(original: images.Reference) -> str:
    """The name of the object for an image: one each, whatever its other name."""
    return f"ucloud-{hashlib.sha256(str(original).encode()).hexdigest()[:16]}"


def pushable(each: Accelerated) -> bool:
    """Whether it is time to push the other name."""
    return each.built and each.deleted is None and each.stage is Stage.NONE


def digest_of(each: Accelerated) -> str:
    """What the original stood for when it was built; "" where that is not known."""
    built = [image.digest for image in each.state.images if image.image == each.original]
    return built[0] if built else ""


def has_failed(each: Accelerated) -> bool:
    """Whether it could not be built, or not pushed."""
    return status_of(each) is protocol.Status.CREATE_ERROR


def status_of(each: Accelerated) -> protocol.Status:
    """How one image is."""
    if each.deleted is not None:
        return protocol.Status.DELETING
    # A build that failed is tried again; whoever waits for it is told nevertheless.
    if each.failed or each.stage is Stage.FAILED:
        return protocol.Status.CREATE_ERROR
    if each.built and each.stage is Stage.PUSHED:
        return protocol.Status.READY
    return protocol.Status.CREATING


def is_held(each: Accelerated, now: datetime.datetime) -> bool:
    """Whether nodes hold up its deletion for so long that nobody waits for it any more."""
    return each.deleted is not None and (
        each.told or (now - each.deleted > _PATIENCE and bool(each.state.message))
    )


def is_busy(each: Accelerated, now: datetime.datetime) -> bool:
    """Whether the next operation has to wait for it."""
    return status_of(each) in protocol.BUSY and not is_held(each, now)


def overall(found: Sequence[Accelerated], now: datetime.datetime) -> tuple[protocol.Status, str]:
    """The one status of a cluster, and its error."""
    for each in found:
        if is_busy(each, now):
            return status_of(each), ""
    for each in found:
        if is_held(each, now) and not each.told:
            return protocol.Status.DELETE_ERROR, f"{each.original}: {each.state.message}"
    for each in found:
        if has_failed(each):
            reason = each.problem or each.state.message
            return protocol.Status.CREATE_ERROR, f"{each.original}: {reason}"
    return protocol.Status.READY, ""


def shown(each: Accelerated) -> protocol.Accelerated:
    """An image that is there, in UCloud's words."""
    sizes = [image.size for image in each.state.images if image.image == each.original]
    return protocol.Accelerated(
        original=each.original,
        target=each.target,
        size=sizes[0] if sizes else 0,
        layers=each.layers,
    )
