"""What the controller's page shows, read from the cluster's objects."""

import dataclasses
from collections.abc import Mapping, Sequence

from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object
from agent.control.page import node_savings
from agent.control.pulls import image_costs, pull_book
from agent.model import caches, keys, reports

_NODES_SHOWN = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that has or had an agent: `reason` is the message of its condition."""

    name: str
    capable: bool
    reason: str = ""
    saved: reports.Saved | None = None


class Fleet:
    """All nodes with an agent, summed up, and the details of `most` of them."""

    def __init__(self, *, most: int = _NODES_SHOWN) -> None:
        self._most = most
        self._serving: list[Node] = []
        self._others: list[Node] = []
        self.count = 0
        self.capable = 0
        self.seconds = 0.0
        self.size = 0

    def add(self, node: Node) -> None:
        """Count a node in."""
        self.count += 1
        self.capable += node.capable
        if node.saved is not None:
            self.seconds += node.saved.seconds
            self.size += node.saved.size
        known = self._serving if node.capable else self._others
        if len(known) < self._most:
            known.append(node)

    @property
    def shown(self) -> Sequence[Node]:
        """The nodes that the page lists: those that do not serve first."""
        others, serving = (
            sorted(known, key=lambda each: each.name) for known in (self._others, self._serving)
        )
        return [*others, *serving][: self._most]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything on the page. `pulls` are what pulls of the last day cost; None: not known."""

    caches: Sequence[cache_object.CacheObject] = ()
    fleet: Fleet = dataclasses.field(default_factory=Fleet)
    store_problem: str = ""
    pulls: image_costs.Costs | None = None


async def read(client: rest_client.Client, *, namespace: str, store_problem: str) -> View:
    """Read all of it from the API server; raise AgentError. `namespace` is that of uimgacc."""
    all_caches = []
    for group in caches.GROUPS:
        resource = rest_client.Resource(group=group, plural="imagecaches")
        try:
            async for page in client.pages(resource, not_older_than="0"):
                all_caches += [cache_object.parse(body) for body in page.items]
        except refusals.NotFound:
            continue  # that dialect is not installed
    fleet = Fleet()
    leases = await node_savings.read(client, namespace=namespace)
    # Not from the server's memory: such an answer has all nodes at once, whole.
    async for page in client.pages(rest_client.NODES):
        for body in page.items:
            if (node := _node(body, leases)) is not None:
                fleet.add(node)
    return View(
        caches=sorted(all_caches, key=lambda each: each.key),
        fleet=fleet,
        store_problem=store_problem,
        pulls=await pull_book.known_costs(pull_book.BookObject(client, namespace=namespace)),
    )


def _node(body: rest_client.Object, leases: Mapping[str, reports.Saved]) -> Node | None:
    """A node that has or had an agent; None for any other."""
    meta = body.get("metadata") or {}
    conditions = (body.get("status") or {}).get("conditions") or ()
    own = [each for each in conditions if each.get("type") == keys.NODE_CONDITION]
    capable = (meta.get("labels") or {}).get(keys.CAPABLE) == "true"
    if not own and not capable:
        return None
    return Node(
        name=str(meta.get("name", "")),
        capable=capable,
        reason=str(own[0].get("message", "")) if own else "",
        saved=node_savings.of_node(meta, leases),
    )
