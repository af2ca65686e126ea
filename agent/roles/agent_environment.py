"""The environment of the agent: where pods come from, and where events and requests go.

Here is the one without a cluster: a folder of manifests, and a log. That of a cluster is
agent.roles.agent_cluster. No other part of the agent knows which of both it is in.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from agent.node.health import capability
from agent.node.pods import manifest_folder, pod_source, prepare
from agent.node.report import pod_events, savings_note
from agent.node.starts import expected_starts


class NodeObject(Protocol):
    """What the cluster knows of this node: agent.node.health.node_object.Announcer."""

    labels: Mapping[str, str]
    """The labels of its Node object."""

    def judged(self, verdict: capability.Verdict) -> None:
        """Take a verdict on the node."""

    def annotate(self, **annotations: str | None) -> None:
        """Write annotations; never waits."""

    async def annotations_before(self) -> Mapping[str, str]:
        """The annotations that the node had before this agent."""

    async def wait_known(self) -> None:
        """Wait until the node says what it has acknowledged: no pod is served before."""

    @property
    def unwritten(self) -> str:
        """Why the node object has not been written yet; "" once it has."""


@dataclasses.dataclass(slots=True)
class Membership:
    """Which cluster this machine belongs to (agent.store.lookup.catalog.Membership)."""

    cluster: str | None


class NoNodeObject:
    """The NodeObject without a cluster: verdicts and deletions are in the log and in /status."""

    unwritten = ""
    labels: Mapping[str, str] = {}

    def judged(self, verdict: capability.Verdict) -> None:
        """Do nothing."""

    def annotate(self, **annotations: str | None) -> None:
        """Do nothing."""

    async def annotations_before(self) -> Mapping[str, str]:
        """There are none."""
        return {}

    async def wait_known(self) -> None:
        """Return at once: no collector waits for this node."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where pods come from, and where events, cache requests and the node's state go.

    `services` are to be run with the agent's own.
    """

    source: pod_source.PodSource
    events: pod_events.EventSink
    creator: prepare.CacheCreator
    node: NodeObject
    membership: Membership
    notes: savings_note.Notes = dataclasses.field(default_factory=savings_note.NoNotes)
    starts: expected_starts.Sink = dataclasses.field(default_factory=expected_starts.NoSink)
    services: Callable[[], Mapping[str, Coroutine[Any, Any, None]]] = dict


def without_cluster(folder: pathlib.Path) -> Environment:
    """The environment of a machine whose pods are the manifests in a folder."""
    return Environment(
        source=manifest_folder.Folder(folder),
        events=pod_events.LogSink(),
        creator=prepare.LogCreator(),
        node=NoNodeObject(),
        membership=Membership(""),
    )
