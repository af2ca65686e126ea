"""The Lease of this node: what its agent writes for few readers, and at intervals.

Not on the Node object: kubelets, schedulers and controllers watch nodes, and the API server sends
each of them the whole node after each change. Leases in the namespace of uimgacc have no such
readers, and one is a thirtieth as long. It belongs to its node, and goes with it.
"""

import datetime
from typing import Protocol

from agent.clients.kube import rest_client
from agent.model import keys, times


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    def now(self) -> datetime.datetime:
        """The time by the server's clock."""

    async def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body: object,
        *,
        namespace: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
        manager: str = rest_client.FIELD_MANAGER,
        force: bool = False,
    ) -> rest_client.Object:
        """Change parts of an object, or create it (APPLY)."""


class Node(Protocol):
    """The Node object: agent.node.health.node_object.Announcer."""

    uid: str
    """Its UID; "" before it was read."""


class NodeLease:
    """The Lease of the node `name` in the namespace of uimgacc."""

    def __init__(self, api: Api, node: Node, *, name: str, namespace: str) -> None:
        self._api = api
        self._node = node
        self._name = name
        self._namespace = namespace

    async def note(self, **annotations: str) -> None:
        """Have these annotations on it, and no other of the agent's; raise AgentError.

        One request, whether it is there or not. Nothing is written before the node is known.
        """
        if not self._node.uid:
            return
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": self._node.uid}
        name = f"{keys.NODE_LEASE}{self._name}"
        metadata = {
            "name": name,
            "namespace": self._namespace,
            "labels": keys.NODE_LEASE_LABELS,
            "annotations": annotations,
            "ownerReferences": [owner],
        }
        spec = {
            "holderIdentity": self._name,
            "renewTime": times.micro_stamp(self._api.now()),
        }
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        await self._api.patch(
            rest_client.LEASES,
            name,
            {**kind, "metadata": metadata, "spec": spec},
            namespace=self._namespace,
            how=rest_client.Patch.APPLY,
            force=True,
        )
