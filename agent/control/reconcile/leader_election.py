"""One leader among the controllers: a Lease, written only as it was read.

Who leads renews it every few seconds; who does not get that done in time stops before
another one may begin. Clocks are not compared: a Lease is over when it was seen
unchanged for its duration. What two leaders would do in a moment of overlap they do
under the same names, and once.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.model import times

logger = logging.getLogger(__name__)


class LeadershipLost(errors.TemporaryError):
    """Another controller leads, or may by now: this one ends."""


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """In seconds; `lasts` is how long a Lease lasts that nobody renews."""

    lasts: float = 15.0

    @property
    def deadline(self) -> float:
        """Until when it must be renewed."""
        return self.lasts * 2 / 3

    @property
    def every(self) -> float:
        """Between two renewals, and two looks of one who waits."""
        return self.lasts / 5


class Election:
    """The Lease `namespace/name`; `identity` is this controller's, and its next container's."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: Times | None = None,
        wall_clock: times.Clock = times.now,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or Times()
        self._wall_clock = wall_clock
        self._seen: tuple[str, float] = ("", 0.0)
        self.leading = False
        self.leader = ""
        self.problem = ""
        """Why one that waits could not take over: it cannot even ask who leads."""

    async def win(self) -> None:
        """Return when this controller leads."""
        while True:
            try:
                self.leading = await self._try()
                self.problem = ""
                if self.leading:
                    logger.info("leading", extra={"identity": self._identity})
                    return
            except errors.TemporaryError as error:
                self.problem = f"nobody can be asked who leads: {error}"
                logger.warning("no election yet", extra={"reason": str(error)})
            await asyncio.sleep(self._times.every)

    async def keep(self) -> None:
        """Renew for ever; raise LeadershipLost."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(self._times.every)
            left = renewed + self._times.deadline - loop.time()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    held = await self._try()
            except TimeoutError as error:
                self.leading = False
                raise LeadershipLost("the Lease could not be renewed in time") from error
            except errors.AgentError as error:
                logger.warning("the Lease is not renewed", extra={"reason": str(error)})
                held = True
                if loop.time() - renewed > self._times.deadline:
                    self.leading = False
                    raise LeadershipLost(f"the Lease is not renewed: {error}") from error
            else:
                renewed = loop.time()
            if not held:
                self.leading = False
                raise LeadershipLost(f"{self.leader} leads now")

    async def resign(self) -> None:
        """Leave the Lease to the next, at once."""
        if not self.leading:
            return
        self.leading = False
        try:
            lease = await self._api.get(rest_client.LEASES, self._name, namespace=self._namespace)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                await self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except errors.AgentError as error:
            logger.info("the Lease stays until it is over", extra={"reason": str(error)})

    async def _try(self) -> bool:
        """Take or renew the Lease; whether it is ours now."""
        now = times.micro_stamp(self._wall_clock())
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._times.lasts)),
            "renewTime": now,
        }
        try:
            lease = await self._api.get(rest_client.LEASES, self._name, namespace=self._namespace)
        except refusals.NotFound:
            spec |= {"acquireTime": now, "leaseTransitions": 0}
            return await self._create(spec)
        held = lease.get("spec") or {}
        self.leader = str(held.get("holderIdentity") or "")
        if self.leader != self._identity:
            if self.leader and not self._is_over(lease):
                return False
            transitions = int(held.get("leaseTransitions") or 0) + 1
            spec |= {"acquireTime": now, "leaseTransitions": transitions}
        try:
            await self._write(lease, spec)
        except refusals.Conflict:
            return False if not self.leading else await self._try()
        self.leader = self._identity
        return True

    async def _create(self, spec: Mapping[str, Any]) -> bool:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": spec,
        }
        try:
            await self._api.create(rest_client.LEASES, body, namespace=self._namespace)
        except refusals.AlreadyExists:
            return False
        self.leader = self._identity
        return True

    async def _write(self, lease: rest_client.Object, spec: Mapping[str, Any]) -> None:
        meta = {"resourceVersion": lease["metadata"]["resourceVersion"]}
        body = {"metadata": meta, "spec": spec}
        await self._api.patch(rest_client.LEASES, self._name, body, namespace=self._namespace)

    def _is_over(self, lease: rest_client.Object) -> bool:
        """Whether the Lease was seen unchanged for as long as it lasts."""
        version = str(lease["metadata"]["resourceVersion"])
        now = asyncio.get_running_loop().time()
        if self._seen[0] != version:
            self._seen = (version, now)
        lasts = float((lease.get("spec") or {}).get("leaseDurationSeconds") or self._times.lasts)
        return now - self._seen[1] >= lasts
