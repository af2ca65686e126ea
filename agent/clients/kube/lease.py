"""A Lease of Kubernetes: read, taken, renewed and released, each time only as it was read.

Stamps are by the API server's clock, and so are ages: the clocks of two machines may
differ by more than a Lease lasts.
"""

import dataclasses
import datetime
import types
from collections.abc import Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.model import times


class Raced(errors.TemporaryError):
    """Another client wrote the Lease since it was read."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the Lease {name} has changed", delay=1.0)


class Api(rest_client.Objects, Protocol):
    """The part of the API that is used: agent.clients.kube.rest_client.Client."""

    def now(self) -> datetime.datetime:
        """The time by the server's clock."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The Lease at a version. `holder` is "" after a release; it lasts `seconds` unrenewed."""

    version: str
    holder: str = ""
    seconds: float = 0.0
    renewed: datetime.datetime | None = None
    transitions: int = 0


class Leasing:
    """The Lease `namespace/name`. Raises what agent.clients.kube.rest_client raises.

    Kubernetes deletes one that was taken with an `owner` (an owner reference) once that is gone.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        labels: Mapping[str, str] = types.MappingProxyType({}),
        owner: Mapping[str, str] | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._owned = {"ownerReferences": [dict(owner)]} if owner is not None else {}
        self._labelled = {"labels": dict(labels)} if labels else {}

    async def read(self) -> Lease | None:
        """The Lease as it is now; None: there is none yet."""
        try:
            body = await self._api.get(rest_client.LEASES, self._name, namespace=self._namespace)
        except refusals.NotFound:
            return None
        return parse(body)

    async def take(self, current: Lease | None, *, holder: str, seconds: float) -> Lease:
        """Hold the Lease from now on; raise Raced if it is not `current` any more.

        The same for a renewal: a holder that stays the same is no transition.
        """
        now = times.micro_stamp(self._api.now())
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(seconds)),
            "renewTime": now,
        }
        if current is None:
            return await self._create(spec | {"acquireTime": now, "leaseTransitions": 0})
        if current.holder != holder:
            spec |= {"acquireTime": now, "leaseTransitions": current.transitions + 1}
        return await self._write(current, spec)

    async def release(self, current: Lease) -> None:
        """Leave the Lease to the next holder at once; raise Raced if it is not `current`."""
        await self._write(current, {"holderIdentity": "", "leaseDurationSeconds": 1})

    def age(self, lease: Lease) -> float:
        """The seconds since it was renewed; infinite where it has no such stamp."""
        if lease.renewed is None:
            return float("inf")
        return (self._api.now() - lease.renewed).total_seconds()

    def is_free(self, lease: Lease) -> bool:
        """Whether it was released, or not renewed for as long as it lasts.

        A stamp that is further ahead than the Lease lasts is of another clock (of a
        version of uimgacc that stamped with its own): it must not block for hours.
        """
        return not lease.holder or abs(self.age(lease)) > lease.seconds

    async def _create(self, spec: Mapping[str, Any]) -> Lease:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                **self._labelled,
                **self._owned,
            },
            "spec": spec,
        }
        try:
            made = await self._api.create(rest_client.LEASES, body, namespace=self._namespace)
        except refusals.AlreadyExists as error:
            raise Raced(self._name) from error
        return parse(made)

    async def _write(self, current: Lease, spec: Mapping[str, Any]) -> Lease:
        metadata = {"resourceVersion": current.version, **self._labelled, **self._owned}
        body = {"metadata": metadata, "spec": spec}
        try:
            written = await self._api.patch(
                rest_client.LEASES, self._name, body, namespace=self._namespace
            )
        except refusals.Conflict as error:
            raise Raced(self._name) from error
        return parse(written)


def parse(body: rest_client.Object) -> Lease:
    """The Lease of an object."""
    spec = body.get("spec") or {}
    return Lease(
        version=str(body["metadata"]["resourceVersion"]),
        holder=str(spec.get("holderIdentity") or ""),
        seconds=float(spec.get("leaseDurationSeconds") or 0),
        renewed=times.parse(spec.get("renewTime")),
        transitions=int(spec.get("leaseTransitions") or 0),
    )
