"""The environment of the agent: a cluster's API server, or a folder of manifests and a log.

Pods come from the one or the other, and events and requests for caches go there. This is
the only part of the agent that knows which of both it is.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol

from agent import settings
from agent.clients.kube import connection, event_writer, node_pods, rest_client
from agent.matching import annotations
from agent.model import keys
from agent.node.health import capability, node_object, node_patch
from agent.node.pods import (
    cache_requests,
    manifest_folder,
    pod_source,
    prepare,
    scheduled,
    served_pods,
    start_times,
)
from agent.node.report import kube_events, pod_events


class NodeObject(Protocol):
    """What the cluster knows of this node: agent.node.health.node_object.Announcer."""

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


class NoNodeObject:
    """The NodeObject without a cluster: verdicts and deletions are in the log and in /status."""

    unwritten = ""

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
    services: Callable[[], Mapping[str, Coroutine[Any, Any, None]]] = dict


@contextlib.asynccontextmanager
async def opened(
    wanted: settings.Agent, served: served_pods.ServedPods
) -> AsyncIterator[Environment]:
    """The environment that the settings name; `served` are the pods of this node."""
    if wanted.kubernetes:
        credentials = (
            connection.Kubeconfig(wanted.kubeconfig)
            if wanted.kubeconfig
            else connection.ServiceAccount(wanted.service_account)
        )
        async with rest_client.Client(
            credentials, deadline=wanted.api_seconds, user_agent="uimgacc-agent"
        ) as client:
            yield _cluster(wanted, client, served)
    elif wanted.pods:
        yield Environment(
            source=manifest_folder.Folder(wanted.pods),
            events=pod_events.LogSink(),
            creator=prepare.LogCreator(),
            node=NoNodeObject(),
        )
    else:
        raise ValueError("neither a node of Kubernetes nor a folder of pods")


def _cluster(
    wanted: settings.Agent, client: rest_client.Client, served: served_pods.ServedPods
) -> Environment:
    node = wanted.kubernetes
    taint = node_patch.parse_taint(wanted.startup_taint) if wanted.startup_taint else None
    kept = annotations.KEYS | {keys.RUNTIME_HANDLER}
    selected = node_pods.select(client, node, annotations=kept)
    writer = event_writer.EventWriter(client)
    events = kube_events.KubeEvents(writer, node)
    creator = cache_requests.Creator(client, events, now=client.now)
    announcer = node_object.Announcer(
        client, events, node_object.Settings(name=node, taint=taint), now=client.now
    )

    def services() -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "node object": announcer.run(),
            "events": writer.run(),
            "caches asked for": creator.run(),
            "caches matched": creator.run_matched(),
        }

    return Environment(
        source=scheduled.Scheduled(selected, start_times.Starts(served)),
        events=events,
        creator=creator,
        node=announcer,
        services=services,
    )
