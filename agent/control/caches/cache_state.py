"""What the controller remembers of an ImageCache between two steps: its status, as values.

All of it is in the object's status, in the words of its dialect
(agent.control.caches.status_format), so a restarted controller continues from there.
"""

import dataclasses
import datetime
import enum


class Phase(enum.Enum):
    """The phase of a cache, in Alibaba's words."""

    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    UPDATING = "Updating"
    FAILED = "Failed"
    UPDATE_FAILED = "UpdateFailed"


SERVING = frozenset({Phase.READY, Phase.UPDATING, Phase.UPDATE_FAILED})
"""The phases in which pods are served: what was Ready goes on serving while it is built again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image of a Ready cache: its full name, what that stood for, bytes at the registry."""

    image: str
    digest: str
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One of Alibaba's events of a status."""

    name: str
    message: str
    at: datetime.datetime
    warning: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What the Ready cache was built from, and the failed builds since.

    `spec` is the hash of the spec (agent.control.caches.cache_object), `platforms` what was asked
    for, `time` when it was done; "", () and None before the first. `failures` are the
    builds of the spec `failed` that failed since, the next is tried at `retry`.
    """

    spec: str = ""
    platforms: tuple[str, ...] = ()
    time: datetime.datetime | None = None
    failures: int = 0
    failed: str = ""
    retry: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MovedTag:
    """An image of a Ready cache whose tag stands for another one at the registry.

    `image` is its full name, `cached` what the cache has, `digest` what the registry had when that
    was `noticed`. It is `withheld` where pods are left to the ordinary pull meanwhile.
    """

    image: str
    cached: str
    digest: str
    noticed: datetime.datetime
    withheld: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What the registries say of the tags of a Ready cache.

    All of them were `confirmed` to be as they are cached at that time at the latest; None: not
    since it was built. `problem` is why that cannot be found out now.
    """

    confirmed: datetime.datetime | None = None
    moved: tuple[MovedTag, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The status of a cache; before its first step it has no phase.

    `progress` is in percent, `changed` the last change of the phase. `verified` is
    whether the pod of an automatic cache was found to use its pull secrets
    (agent.control.caches.pull_permission): it may be gone when they are needed again.
    """

    phase: Phase | None = None
    cache_id: str = ""
    progress: int = 0
    message: str = ""
    generation: int = 0
    started: datetime.datetime | None = None
    changed: datetime.datetime | None = None
    expires: datetime.datetime | None = None
    matched: datetime.datetime | None = None
    verified: bool = False
    size: int = 0
    images: tuple[BuiltImage, ...] = ()
    build: Build = dataclasses.field(default_factory=Build)
    tags: Tags = dataclasses.field(default_factory=Tags)
    events: tuple[Happening, ...] = ()

    @property
    def serving(self) -> bool:
        """Whether pods are served from it."""
        return self.phase in SERVING


MAX_EVENTS = 50


def happened(state: State, happening: Happening) -> State:
    """The state with one more event; the oldest ones are dropped."""
    return dataclasses.replace(state, events=(*state.events, happening)[-MAX_EVENTS:])
