"""What the controller's page shows, read from the cluster's objects."""

import dataclasses
from collections.abc import Sequence

from agent.clients import kube, kube_errors
from agent.control import specs
from agent.model import caches, nodes

_NODES_SHOWN = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that has an agent, or had: `reason` is its condition's sentence."""

    name: str
    capable: bool
    reason: str = ""
    saved: nodes.Saved | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything on the page. `more_nodes` are those beyond what a page can show."""

    caches: Sequence[specs.CacheObject] = ()
    nodes: Sequence[Node] = ()
    more_nodes: int = 0
    store_problem: str = ""


async def read(client: kube.Client, *, store_problem: str) -> View:
    """Ask the API for all of it; raise AgentError."""
    found_caches = []
    for group in caches.GROUPS:
        resource = kube.Resource(group=group, plural="imagecaches")
        try:
            async for page in client.pages(resource, not_older_than="0"):
                found_caches += [specs.parse(body) for body in page.items]
        except kube_errors.NotFound:
            continue  # that dialect is not installed
    found_nodes, count = [], 0
    async for page in client.pages(kube.NODES, not_older_than="0"):
        for body in page.items:
            node = _node(body)
            if node is not None:
                count += 1
                if count <= _NODES_SHOWN:
                    found_nodes.append(node)
    return View(
        caches=sorted(found_caches, key=lambda each: each.key),
        nodes=sorted(found_nodes, key=lambda each: (each.capable, each.name)),
        more_nodes=max(0, count - _NODES_SHOWN),
        store_problem=store_problem,
    )


def _node(body: kube.Object) -> Node | None:
    """A node of ours; None for one that never had an agent."""
    meta = body.get("metadata") or {}
    conditions = (body.get("status") or {}).get("conditions") or ()
    told = [each for each in conditions if each.get("type") == nodes.CONDITION]
    capable = (meta.get("labels") or {}).get(nodes.CAPABLE) == "true"
    if not told and not capable:
        return None
    saved = (meta.get("annotations") or {}).get(nodes.SAVED)
    return Node(
        name=str(meta.get("name", "")),
        capable=capable,
        reason=str(told[0].get("message", "")) if told else "",
        saved=nodes.decode_saved(saved) if saved is not None else None,
    )
