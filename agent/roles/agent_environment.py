"""What surrounds the agent: a cluster's API server, or a folder of manifests and a log.

The same pods, events and wishes for caches, from and to another place. This is the
only part of the agent that knows which of both it is.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from agent import settings
from agent.clients.kube import connection, node_pods, rest_client
from agent.matching import annotations
from agent.model import keys
from agent.node.health import capability, node_object, node_patch
from agent.node.images import retirement
from agent.node.pods import cache_requests, pod_source, prepare, scheduled, start_times
from agent.node.report import event_queue, pod_events


def _tell_nobody(_verdict: capability.Verdict) -> None:
    """Without a cluster a verdict is in the log and in /status only."""


async def _known_to_nobody() -> None:
    """Without a cluster nobody has to know of this node before it serves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where pods come from, and where what there is to tell goes.

    `judged` takes each verdict on the node. No pod may be served before `wait_known`
    returns: see announcing.Announcer. Until then `unknown` says what it waits for, else
    "". `services` are to be run with the agent's own.
    `client` is None without a cluster.
    """

    source: pod_source.PodSource
    events: pod_events.EventSink
    creator: prepare.CacheCreator
    board: retirement.Board
    judged: Callable[[capability.Verdict], None] = _tell_nobody
    wait_known: Callable[[], Awaitable[None]] = _known_to_nobody
    unknown: Callable[[], str] = str
    services: Callable[[], Mapping[str, Coroutine[Any, Any, None]]] = dict
    client: rest_client.Client | None = None


@contextlib.asynccontextmanager
async def opened(
    wanted: settings.Agent, *, accelerated: Callable[[str], bool]
) -> AsyncIterator[Surroundings]:
    """The surroundings that the settings name; `accelerated` is for readiness.Starts."""
    if wanted.kubernetes:
        credentials = (
            connection.Kubeconfig(wanted.kubeconfig)
            if wanted.kubeconfig
            else connection.ServiceAccount(wanted.service_account)
        )
        async with rest_client.Client(
            credentials, deadline=wanted.api_seconds, user_agent="uimgacc-agent"
        ) as client:
            yield _cluster(wanted, client, accelerated)
    elif wanted.pods:
        yield Surroundings(
            source=pod_source.Folder(wanted.pods),
            events=pod_events.LogSink(),
            creator=prepare.LogCreator(),
            board=retirement.NoBoard(),
        )
    else:
        raise ValueError("neither a node of Kubernetes nor a folder of pods")


def _cluster(
    wanted: settings.Agent, client: rest_client.Client, accelerated: Callable[[str], bool]
) -> Surroundings:
    node = wanted.kubernetes
    taint = node_patch.parse_taint(wanted.startup_taint) if wanted.startup_taint else None
    kept = annotations.KEYS | {keys.RUNTIME_HANDLER}
    api = node_pods.NodePods(client, node, annotations=kept)
    poster = event_queue.Poster(client, node)
    creator = cache_requests.Creator(client, poster, now=client.now)
    announcer = node_object.Announcer(client, poster, node, taint=taint, now=client.now)

    def unknown() -> str:
        return "" if announcer.is_known else announcer.problem or "it has not been read yet"

    def services() -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "node object": announcer.run(),
            "events": poster.run(),
            "caches asked for": creator.run(),
            "caches matched": creator.run_matched(),
        }

    return Surroundings(
        source=scheduled.Scheduled(api, start_times.Starts(accelerated)),
        events=poster,
        creator=creator,
        board=announcer,
        judged=announcer.judged,
        wait_known=announcer.wait_known,
        unknown=unknown,
        services=services,
        client=client,
    )
