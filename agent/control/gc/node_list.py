"""The nodes of the cluster, listed: their acknowledgements for the collector, their platforms."""

import msgspec

from agent.clients.kube import refusals, rest_client
from agent.control.gc import roster
from agent.control.reconcile import observed


class _Meta(msgspec.Struct):
    name: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Node(msgspec.Struct):
    metadata: _Meta


def _parse(raw: bytes) -> _Meta:
    try:
        return msgspec.json.decode(raw, type=_Node).metadata
    except msgspec.DecodeError as error:
        raise refusals.Unavailable(f"a node cannot be read: {error}") from error


def parse(raw: bytes) -> roster.Node:
    """A node from what the API server has of it; raises Unavailable."""
    meta = _parse(raw)
    return roster.node_of(meta.name, meta.annotations or {})


class Nodes:
    """Lists the nodes; the platforms that are found go into `view`."""

    def __init__(self, client: rest_client.Client, view: observed.Observed) -> None:
        self._client = client
        self._view = view

    async def list_nodes(self) -> list[roster.Node]:
        """All nodes, without their status (agent.control.gc.collector_rounds.Nodes)."""
        nodes = []
        platforms = set()
        async for page in self._client.pages(rest_client.NODES, metadata_only=True):
            for raw in page.raw:
                meta = _parse(raw)
                nodes.append(roster.node_of(meta.name, meta.annotations or {}))
                labels = meta.labels or {}
                architecture = labels.get("kubernetes.io/arch", "")
                if architecture and labels.get("kubernetes.io/os", "linux") == "linux":
                    platforms.add(f"linux/{architecture}")
        self._view.put_platforms(tuple(sorted(platforms)))
        return nodes
