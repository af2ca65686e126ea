"""The environment of the agent in a cluster: the API server.

A module of its own because an agent without a cluster does not import it: kubernetes_asyncio and
what it imports take memory on each machine.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from agent import errors
from agent.clients.kube import connection, event_writer, node_pods, rest_client
from agent.kits.aio import backoff
from agent.matching import annotations
from agent.model import keys
from agent.node.health import node_object, node_patch
from agent.node.pods import (
    cache_requests,
    namespace_labels,
    scheduled,
    served_pods,
    start_times,
)
from agent.node.report import kube_events, node_lease
from agent.node.starts import profile_sender
from agent.roles import agent_environment, cluster_identity
from agent.settings import agent_settings

logger = logging.getLogger(__name__)

_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)


@contextlib.asynccontextmanager
async def opened(
    wanted: agent_settings.Agent, served: served_pods.ServedPods
) -> AsyncIterator[agent_environment.Environment]:
    """The environment of the node `wanted.kubernetes`; `served` are the pods of this node."""
    credentials = (
        connection.Kubeconfig(wanted.kubeconfig)
        if wanted.kubeconfig
        else connection.ServiceAccount(wanted.service_account)
    )
    async with rest_client.Client(
        credentials, deadline=wanted.api_seconds, user_agent="uimgacc-agent"
    ) as client:
        yield _environment(wanted, client, served)


def _environment(
    wanted: agent_settings.Agent, client: rest_client.Client, served: served_pods.ServedPods
) -> agent_environment.Environment:
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
    # An agent of an earlier version has left it there.
    announcer.annotate(**{keys.SAVED: None})
    labels = namespace_labels.NamespaceLabels(client)
    sender = profile_sender.Sender(client, node)
    membership = agent_environment.Membership(None)

    def services() -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "cluster": _identify(client, membership),
            "node object": announcer.run(),
            "events": writer.run(),
            "caches asked for": creator.run(),
            "caches matched": creator.run_matched(),
            "start profiles": sender.run(),
            "namespaces": labels.run(),
        }

    return agent_environment.Environment(
        source=scheduled.Scheduled(selected, start_times.Starts(served), labels=labels),
        events=events,
        creator=creator,
        node=announcer,
        membership=membership,
        notes=node_lease.NodeLease(client, announcer, name=node, namespace=wanted.namespace),
        starts=sender,
        services=services,
    )


async def _identify(client: rest_client.Client, membership: agent_environment.Membership) -> None:
    """Ask which cluster this is until the API server says so; that never changes."""
    pauses = backoff.Backoff(_PAUSES)
    while membership.cluster is None:
        try:
            membership.cluster = await cluster_identity.read(client)
        except errors.AgentError as error:
            logger.warning("it is not known which cluster this is", extra={"reason": str(error)})
            await pauses.wait()
    await asyncio.Event().wait()
