"""The values of a step: what is observed, what is decided, and the actions to take."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping

from agent.control.caches import cache_state
from agent.control.jobs import job_state
from agent.model import records, reports


class Verb(enum.Enum):
    """The kinds of actions; `subject` of an Action is the name of a Job where it needs one."""

    HOLD = "add the finalizer"
    START = "create the Job, its Secret and report"
    STOP = "delete the Job and wait for its pod"
    SIGN = "sign what the Job has built"
    SETTLE = "remove the Secret and the report of a finished Job"
    ADJUST = "write into the cache's record what changes without a build"
    REMOVE = "delete the cache's record in the store"
    RELEASE = "remove the finalizer"
    EXPIRE = "delete the object"


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """One thing to do; `moved` is for the record, where it is adjusted."""

    verb: Verb
    subject: str = ""
    moved: tuple[records.MovedTag, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a cache's object, as `kubectl describe` shows it."""

    reason: str
    message: str
    warning: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the store has under the cache's ID. `platforms` are known only where they were read."""

    record: records.CacheRecord
    platforms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TagAnswer:
    """What a registry said of a tag: its `digest` at that time, or why there is none."""

    at: datetime.datetime
    digest: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is observed. `problem` is why the store cannot be read; then `stored` is unknown.

    `origin` is why an automatic cache may not use its pull secrets, "" where it may, None
    where that is not checked (agent.control.caches.cache_object.CacheObject.unverified).
    `going` is whether layers of the deleted cache are still in the store, `holders`
    a sentence about their holders. `platforms` are those of the nodes. `slot` is whether this
    build may begin now, `not_before` when builds of its namespace may again, where that is
    known. `signs` is whether what is built is signed, `unsigned` whether `stored` is not, which
    nodes accept for now. What they refuse is not in `stored`. `tags` are the latest answers about
    images, by their full names; when they were confirmed is written `tags_written_every` so many
    seconds.
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
    not_before: datetime.datetime | None = None
    signs: bool = False
    unsigned: bool = False
    tags: Mapping[str, TagAnswer] = dataclasses.field(default_factory=dict, hash=False)
    tags_written_every: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Do `actions`, write `state` as the status, do `afterwards`; the next step is `again` seconds
    later.

    None for `again`: the next step is when something has changed. `waits`: it is to be built,
    when it is its turn.
    """

    state: cache_state.State
    sentence: str
    actions: tuple[Action, ...] = ()
    afterwards: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    again: float | None = None
    waits: bool = False
