"""One operation at a time in a whole cluster: a Lease, held while one is decided and begun.

Whoever begins an operation looks at all objects first. Two who do so at once, the APIs
of two controllers or one of them and somebody's command line, would each see that
nothing is under way. Only the beginning is held: what takes longer, a build or a
deletion, is seen in the objects themselves.
"""

import asyncio
import contextlib
import datetime
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.model import keys, times

logger = logging.getLogger(__name__)


class Taken(errors.TemporaryError):
    """Another operation is being begun at this moment. `holder` is only for the log."""

    def __init__(self, holder: str) -> None:
        super().__init__("another operation is being begun", delay=1.0)
        self.holder = holder


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def get(
        self, resource: rest_client.Resource, name: str, *, namespace: str = ""
    ) -> rest_client.Object:
        """Read an object."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object, *, namespace: str = ""
    ) -> rest_client.Object:
        """Create an object."""

    async def patch(
        self, resource: rest_client.Resource, name: str, body: object, *, namespace: str = ""
    ) -> rest_client.Object:
        """Change an object by a merge patch."""


class Turns:
    """The Lease in `namespace`; `lasts` is in seconds.

    Who ends while it holds the Lease keeps others from it until it is over by their own
    clock. An operation has half of that time, so clocks may differ by the other half.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        lasts: float = 60.0,
        wall_clock: times.Clock = times.now,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._lasts = lasts
        self._wall_clock = wall_clock

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Be the only one for the time of the context; raise Taken, TemporaryError."""
        lease = await self._take()
        try:
            async with asyncio.timeout(self._lasts / 2):
                yield
        except TimeoutError as error:
            raise errors.TemporaryError("the operation takes too long to begin") from error
        finally:
            await self._give_back(lease)

    async def _take(self) -> rest_client.Object:
        spec = self._spec(holder=uuid.uuid4().hex)
        try:
            lease = await self._api.get(
                rest_client.LEASES, keys.OPERATION_LEASE, namespace=self._namespace
            )
        except refusals.NotFound:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": keys.OPERATION_LEASE, "namespace": self._namespace},
                "spec": spec,
            }
            try:
                return await self._api.create(rest_client.LEASES, body, namespace=self._namespace)
            except refusals.AlreadyExists as error:
                raise Taken("who was faster") from error
        held = lease.get("spec") or {}
        if held.get("holderIdentity") and not self._is_over(held):
            raise Taken(str(held["holderIdentity"]))
        try:
            return await self._write(lease, spec)
        except refusals.Conflict as error:
            raise Taken("who was faster") from error

    async def _give_back(self, lease: rest_client.Object) -> None:
        try:
            await self._write(lease, self._spec(holder=""))
        except errors.AgentError as error:
            logger.info("others wait until the Lease is over", extra={"reason": str(error)})

    async def _write(
        self, lease: rest_client.Object, spec: rest_client.Object
    ) -> rest_client.Object:
        meta = {"resourceVersion": lease["metadata"]["resourceVersion"]}
        body = {"metadata": meta, "spec": spec}
        return await self._api.patch(
            rest_client.LEASES, keys.OPERATION_LEASE, body, namespace=self._namespace
        )

    def _spec(self, *, holder: str) -> dict[str, Any]:
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._lasts)),
            "renewTime": times.micro_stamp(self._wall_clock()),
        }

    def _is_over(self, held: rest_client.Object) -> bool:
        since = times.parse(held.get("renewTime"))
        lasts = float(held.get("leaseDurationSeconds") or self._lasts)
        return since is None or self._wall_clock() - since > datetime.timedelta(seconds=lasts)
