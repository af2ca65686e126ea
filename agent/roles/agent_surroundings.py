"""What surrounds the agent: a cluster's API server, or a folder of manifests and a log.

The same pods, events and wishes for caches, from and to another place. This is the
only part of the agent that knows which of both it is.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from agent import settings
from agent.clients import kube, kube_access, kube_pods
from agent.matching import annotations
from agent.node import (
    autocreating,
    posting,
    premounting,
    readiness,
    reporting,
    scheduled,
    watching,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where pods come from, and where what there is to tell goes.

    `services` are to be run with the agent's own. `client` is None without a cluster.
    """

    source: watching.PodSource
    events: reporting.EventSink
    creator: premounting.CacheCreator
    services: Callable[[], Mapping[str, Coroutine[Any, Any, None]]] = dict
    client: kube.Client | None = None


@contextlib.asynccontextmanager
async def opened(
    wanted: settings.Agent, *, accelerated: Callable[[str], bool]
) -> AsyncIterator[Surroundings]:
    """The surroundings that the settings name; `accelerated` is for readiness.Starts."""
    if wanted.kubernetes:
        credentials = (
            kube_access.Kubeconfig(wanted.kubeconfig)
            if wanted.kubeconfig
            else kube_access.ServiceAccount()
        )
        async with kube.Client(
            credentials, deadline=wanted.api_seconds, user_agent="uimgacc-agent"
        ) as client:
            yield _cluster(wanted.kubernetes, client, accelerated)
    elif wanted.pods:
        yield Surroundings(
            source=watching.Folder(wanted.pods),
            events=reporting.LogSink(),
            creator=premounting.LogCreator(),
        )
    else:
        raise ValueError("neither a node of Kubernetes nor a folder of pods")


def _cluster(node: str, client: kube.Client, accelerated: Callable[[str], bool]) -> Surroundings:
    api = kube_pods.NodePods(client, node, annotations=annotations.KEYS)
    poster = posting.Poster(client, node)
    creator = autocreating.Creator(client, poster)

    def services() -> Mapping[str, Coroutine[Any, Any, None]]:
        return {
            "events": poster.run(),
            "caches asked for": creator.run(),
            "caches matched": creator.run_matched(),
        }

    return Surroundings(
        source=scheduled.Scheduled(api, readiness.Starts(accelerated)),
        events=poster,
        creator=creator,
        services=services,
        client=client,
    )
