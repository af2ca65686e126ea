"""What a step is made of: what is seen, what is done, what is said."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping

from agent.control.caches import cache_state
from agent.control.jobs import job_state
from agent.model import records, reports


class Verb(enum.Enum):
    """What can be done; `subject` of an Action is the name of a Job where it needs one."""

    HOLD = "add the finalizer"
    START = "make the Job, its Secret and report"
    STOP = "delete the Job and wait for its pod"
    SETTLE = "remove what a finished Job needs no more"
    REMOVE = "delete the cache's record in the store"
    RELEASE = "remove the finalizer"
    EXPIRE = "delete the object"


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """One thing to do."""

    verb: Verb
    subject: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """News of a cache, for those who watch its object."""

    reason: str
    message: str
    warning: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the store has under the cache's ID. `platforms` are known only where asked for."""

    record: records.CacheRecord
    platforms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is. `problem` says why the store cannot be read; then `stored` says nothing.

    `origin` is why an automatic cache may not use its pull secrets, "" that it may,
    None that nobody has asked (agent.control.caches.cache_object.CacheObject.unverified).
    `going` is whether layers of the deleted cache are still in the store, `holders`
    a sentence about who holds them. `platforms` are those of the nodes. `slot` is
    whether one more build may run.
    """

    now: datetime.datetime
    stored: Stored | None = None
    problem: str = ""
    origin: str | None = None
    going: bool = False
    holders: str = ""
    jobs: Mapping[str, job_state.Job] = dataclasses.field(default_factory=dict, hash=False)
    report: reports.Report | None = None
    platforms: tuple[str, ...] = ()
    slot: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`actions`, then the status becomes `state`, then `afterwards`; look `again` after seconds.

    None for `again` is when something has changed.
    """

    state: cache_state.State
    sentence: str
    actions: tuple[Action, ...] = ()
    afterwards: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    again: float | None = None
