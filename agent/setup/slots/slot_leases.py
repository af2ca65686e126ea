"""The slots in a cluster: one Lease each, written only as it was read.

A slot is free when it has no holder, however old its stamp is (agent.setup.slots.slot_rules). The
Node that holds one owns its Lease: where autoscalers remove nodes amid their set-up, Kubernetes
deletes the Lease, and the slot is free. A node that says that it does not come back gives that up:
what broke it must not go on because the node was removed for that.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from agent.clients.kube import lease, refusals, rest_client
from agent.model import keys
from agent.setup.slots import slot_rules


class Api(lease.Api, Protocol):
    """The part of the API that is used: agent.clients.kube.rest_client.Client."""

    def pages(
        self,
        resource: rest_client.Resource,
        *,
        namespace: str = "",
        fields: str = "",
        labels: str = "",
        not_older_than: str = "",
        metadata_only: bool = False,
        limit: int | None = None,
    ) -> AsyncGenerator[rest_client.Page]:
        """All objects, in parts."""


class Taken(lease.Raced):
    """Another node holds the slot."""


class SlotLeases:
    """The slots of the installation in `namespace`.

    Raises what agent.clients.kube.rest_client raises.
    """

    def __init__(self, api: Api, *, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def all(self) -> Sequence[slot_rules.Slot]:
        """Every slot that was ever taken, free ones included."""
        return [
            self._slot(body)
            async for page in self._api.pages(
                rest_client.LEASES,
                namespace=self._namespace,
                labels=f"{keys.SETUP_SLOT_LABEL}=true",
            )
            for body in page.items
            if slot_rules.is_slot(str(body["metadata"]["name"]))
        ]

    async def read(self, name: str) -> slot_rules.Slot:
        """A slot as it is now; one that there is no Lease of is free."""
        try:
            body = await self._api.get(rest_client.LEASES, name, namespace=self._namespace)
        except refusals.NotFound:
            return slot_rules.Slot(name=name)
        return self._slot(body)

    async def take(self, name: str, *, node: str, seconds: float, uid: str = "") -> None:
        """Have a node hold a slot, for so many seconds if all goes well; raise Taken, Raced.

        `uid` is that of its Node, which then owns the Lease.
        """
        owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid} if uid else None
        leasing = lease.Leasing(
            self._api,
            namespace=self._namespace,
            name=name,
            labels={keys.SETUP_SLOT_LABEL: "true"},
            owner=owner,
        )
        current = await leasing.read()
        if current is not None and current.holder not in ("", node):
            raise Taken(name)
        try:
            await leasing.take(current, holder=node, seconds=seconds)
        except refusals.Denied:
            # The admission plug-in OwnerReferencesPermissionEnforcement permits an owner only to
            # those who may delete the object, and older policies of uimgacc permit none.
            if not uid:
                raise
            await self.take(name, node=node, seconds=seconds)

    async def release(self, name: str, *, node: str) -> None:
        """Free a slot that a node holds; raise Raced. One that it does not hold is left alone."""
        await self._change(name, node, {"holderIdentity": "", "leaseDurationSeconds": 1}, None)

    async def report(self, name: str, *, node: str, problem: str) -> None:
        """Write into a slot why its node is not back, which holds it from then on; raise Raced."""
        await self._change(name, node, {}, problem)

    async def _change(
        self, name: str, node: str, spec: dict[str, object], problem: str | None
    ) -> None:
        try:
            body = await self._api.get(rest_client.LEASES, name, namespace=self._namespace)
        except refusals.NotFound:
            return
        if self._slot(body).holder != node:
            return
        metadata = {
            "resourceVersion": body["metadata"]["resourceVersion"],
            "annotations": {keys.SETUP_PROBLEM: problem},
            **({"ownerReferences": None} if body["metadata"].get("ownerReferences") else {}),
        }
        changed = {"metadata": metadata, **({"spec": spec} if spec else {})}
        try:
            await self._api.patch(rest_client.LEASES, name, changed, namespace=self._namespace)
        except refusals.Conflict as error:
            raise lease.Raced(name) from error

    def _slot(self, body: rest_client.Object) -> slot_rules.Slot:
        held = lease.parse(body)
        metadata = body["metadata"]
        age = 0.0 if held.renewed is None else (self._api.now() - held.renewed).total_seconds()
        return slot_rules.Slot(
            name=str(metadata["name"]),
            holder=held.holder,
            seconds=age,
            limit=held.seconds,
            problem=str((metadata.get("annotations") or {}).get(keys.SETUP_PROBLEM) or ""),
        )
