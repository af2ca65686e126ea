"""The images that UCloud's API has accelerated, and their status in its words; pure."""

import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Sequence

from agent.control.caches import cache_state
from agent.model import images
from agent.ucloud import protocol

_PATIENCE = datetime.timedelta(seconds=60)
"""How long a deletion waits for nodes before the API reports, as an error, which nodes hold it."""


class Stage(enum.Enum):
    """The state of the other name of an image."""

    NONE = ""
    PUSHED = "Pushed"
    FAILED = "Failed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accelerated:
    """An ImageCache object of the API, with the name and the other name of its image.

    `built` and `failed` are about its present spec: both are False before the first build has
    ended. `problem` is why the other name could not be pushed. `deleted` is when its deletion
    began, `reported` whether a later operation was begun after that had become an error.
    `plain_http` and `insecure` are the registries without TLS, or without verified TLS.
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
    reported: bool = False


def name_of(original: images.Reference) -> str:
    """The name of the object for an image; it does not depend on the other name."""
    return f"ucloud-{hashlib.sha256(str(original).encode()).hexdigest()[:16]}"


def pushable(each: Accelerated) -> bool:
    """Whether it is time to push the other name."""
    return each.built and each.deleted is None and each.stage is Stage.NONE


def digest_of(each: Accelerated) -> str:
    """The digest of the original when it was built; "" where it is not known."""
    built = [image.digest for image in each.state.images if image.image == each.original]
    return built[0] if built else ""


def has_failed(each: Accelerated) -> bool:
    """Whether it could not be built, or not pushed."""
    return status_of(each) is protocol.Status.CREATE_ERROR


def status_of(each: Accelerated) -> protocol.Status:
    """The status of one image."""
    if each.deleted is not None:
        return protocol.Status.DELETING
    # A failed build is retried, but the caller who waits for it gets the error.
    if each.failed or each.stage is Stage.FAILED:
        return protocol.Status.CREATE_ERROR
    if each.built and each.stage is Stage.PUSHED:
        return protocol.Status.READY
    return protocol.Status.CREATING


def is_held(each: Accelerated, now: datetime.datetime) -> bool:
    """Whether its deletion has waited for nodes for so long that callers no longer wait for it."""
    return each.deleted is not None and (
        each.reported or (now - each.deleted > _PATIENCE and bool(each.state.message))
    )


def is_busy(each: Accelerated, now: datetime.datetime) -> bool:
    """Whether the next operation has to wait for it."""
    return status_of(each) in protocol.BUSY and not is_held(each, now)


def overall(images: Sequence[Accelerated], now: datetime.datetime) -> tuple[protocol.Status, str]:
    """The status of the cluster as a whole, and its error."""
    for each in images:
        if is_busy(each, now):
            return status_of(each), ""
    for each in images:
        if is_held(each, now) and not each.reported:
            return protocol.Status.DELETE_ERROR, f"{each.original}: {each.state.message}"
    for each in images:
        if has_failed(each):
            reason = each.problem or each.state.message
            return protocol.Status.CREATE_ERROR, f"{each.original}: {reason}"
    return protocol.Status.READY, ""


def shown(each: Accelerated) -> protocol.Accelerated:
    """A Ready image, in UCloud's words."""
    sizes = [image.size for image in each.state.images if image.image == each.original]
    return protocol.Accelerated(
        original=each.original,
        target=each.target,
        size=sizes[0] if sizes else 0,
        layers=each.layers,
    )
