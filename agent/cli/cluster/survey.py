"""What `uimgacc status` has read of a cluster: values."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from agent.cli.cluster import cache_tally, node_tally, policy_tally


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A DaemonSet or a Deployment: pods wanted, ready, of the newest version; its image."""

    wanted: int = 0
    ready: int = 0
    updated: int = 0
    image: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Pods of uimgacc that are not ready, for one reason of the kubelet's."""

    reason: str
    count: int
    example: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The controller that leads; `age` is in seconds since it last said so."""

    holder: str = ""
    age: float = float("inf")

    @property
    def leads(self) -> bool:
        """Whether it has said so lately. One controller may be taking over from another."""
        return bool(self.holder) and self.age < _FRESH_SECONDS


_FRESH_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All of it; None where it could not be read, and `unread` says why, by subject.

    `agents` without `wanted` pods are not installed. `pods` are the agents' pods on some nodes, by
    the nodes' names. `requests` is what it took to read.
    """

    namespace: str
    version: str
    now: datetime.datetime
    agents: Workload | None = None
    off: bool = False
    waiting: Sequence[Waiting] = ()
    controller: Workload | None = None
    leader: Leader | None = None
    nodes: node_tally.Nodes | None = None
    pods: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    caches: cache_tally.Caches | None = None
    policies: Sequence[policy_tally.Policy] | None = ()
    savings: node_tally.Savings | None = None
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    requests: int = 0
