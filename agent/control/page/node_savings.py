"""Reads what the nodes have saved, as their agents have written it.

The one place that knows where that is: the controller's page and `uimgacc status` read it here.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from agent.clients.kube import rest_client
from agent.model import keys, reports

_SELECTED = ",".join(f"{key}={value}" for key, value in keys.NODE_LEASE_LABELS.items())


class Client(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    def pages(
        self, resource: rest_client.Resource, *, namespace: str = "", labels: str = ""
    ) -> AsyncIterator[rest_client.Page]:
        """All objects, in parts."""


async def read(client: Client, *, namespace: str) -> dict[str, reports.Saved]:
    """What nodes have saved, by their names; raise AgentError."""
    found = {}
    async for page in client.pages(rest_client.LEASES, namespace=namespace, labels=_SELECTED):
        for body in page.items:
            metadata = body.get("metadata") or {}
            node = str(metadata.get("name", "")).removeprefix(keys.NODE_LEASE)
            if saved := _saved(metadata):
                found[node] = saved
    return found


def of_node(
    metadata: Mapping[str, object], leases: Mapping[str, reports.Saved]
) -> reports.Saved | None:
    """What the node with this metadata has saved; None where it does not say.

    An agent of an earlier version has written it on the Node object.
    """
    return leases.get(str(metadata.get("name", ""))) or _saved(metadata)


def _saved(metadata: Mapping[str, object]) -> reports.Saved | None:
    annotations = metadata.get("annotations")
    text = annotations.get(keys.SAVED) if isinstance(annotations, dict) else None
    return reports.decode_saved(text) if isinstance(text, str) else None
