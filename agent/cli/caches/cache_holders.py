"""Which pods hold the layers of a deleted cache, for a person who may read nodes and pods.

A node's annotation has tags in place of names (agent.model.reports.Held): those who can read
the pods can match them.
"""

from collections.abc import Iterable

from agent import errors
from agent.clients.kube import rest_client
from agent.control.gc import node_list, roster
from agent.model import reports


async def named(client: rest_client.Client, cache_id: str) -> list[str]:
    """`namespace/name on node` of each such pod; none where that may not be read."""
    names: list[str] = []
    try:
        async for page in client.pages(rest_client.NODES, metadata_only=True):
            for raw in page.raw:
                node = node_list.parse(raw)
                if tags := _pods_in(roster.entries_of(node), cache_id):
                    names += [f"{name} on {node.name}" for name in await _on(client, node, tags)]
    except errors.AgentError:
        return []
    return sorted(names)


def _pods_in(entries: Iterable[reports.Held], cache_id: str) -> set[str]:
    return {each.holder for each in entries if each.cache == cache_id and each.is_pod}


async def _on(client: rest_client.Client, node: roster.Node, tags: set[str]) -> list[str]:
    """The pods of a node that have one of some tags."""
    names = []
    async for page in client.pages(
        rest_client.PODS, fields=f"spec.nodeName={node.name}", metadata_only=True
    ):
        for item in page.items:
            meta = item["metadata"]
            if reports.pod_tag(meta["uid"]) in tags:
                names.append(f"{meta['namespace']}/{meta['name']}")
    return names
