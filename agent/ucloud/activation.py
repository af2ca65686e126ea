"""Whether acceleration is switched on in a cluster, and by whose login: objects in its API server.

The switch itself is a ConfigMap, the login for UHub a Secret, both in the controller's namespace.
The parts of the installation that follow are `agent.clients.kube.acceleration_switch`'s.
"""

import base64
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clients.kube import acceleration_switch, lease, refusals, rest_client
from agent.clients.registry import credentials
from agent.model import keys
from agent.ucloud import protocol

UHUB = "uimgacc-uhub"
"""The Secret with the login for UHub."""

HOSTS = ("uhub.service.ucloud.cn",)
"""The registries that this login is for, unless a setting names others."""

_CONFIG_MAPS = rest_client.Resource(plural="configmaps")
_NAME = "uimgacc-ucloud"
_SECRET_KEY = ".dockerconfigjson"  # noqa: S105 - the name of a field

# Far longer than a Lease lasts: one controller may be taking over from another.
_FRESH_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of the switch, with what was given when it was switched on; nothing is secret."""

    enabled: bool = False
    nfs: str = ""
    subnet: str = ""
    has_login: bool = False


class Activation:
    """Switches acceleration on and off; each method may raise AgentError, and may be repeated."""

    def __init__(
        self, api: rest_client.Client, *, namespace: str, hosts: Sequence[str] = HOSTS
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._hosts = hosts
        self._switch = acceleration_switch.Switch(api, namespace=namespace)
        self._leader = lease.Leasing(api, namespace=namespace, name=keys.CONTROLLER_LEASE)

    async def has_leader(self) -> bool:
        """Whether a controller leads, or led until a moment ago: else nothing is ever built."""
        current = await self._leader.read()
        return current is not None and self._leader.age(current) < _FRESH_SECONDS

    async def read(self) -> State:
        """The state of the switch."""
        try:
            body = await self._api.get(_CONFIG_MAPS, _NAME, namespace=self._namespace)
        except refusals.NotFound:
            return State()
        data: Mapping[str, str] = body.get("data") or {}
        return State(
            enabled=data.get("enabled") == "true",
            nfs=data.get("nfsAddr", ""),
            subnet=data.get("subnetId", ""),
            has_login=data.get("hasLogin") == "true",
        )

    async def turn_on(self, wanted: protocol.Enable, *, keep: bool = False) -> None:
        """Switch it on. The switch itself is written last, when all else is done.

        With `keep`, a login and a subnet that are not given stay as they are.
        """
        before = await self.read() if keep else State()
        has_login = before.has_login or bool(wanted.username)
        if wanted.username:
            content = credentials.docker_config(
                self._hosts, username=wanted.username, password=wanted.password
            )
            login = {_SECRET_KEY: base64.b64encode(content).decode()}
            body = {"type": "kubernetes.io/dockerconfigjson", "data": login}
            await self._put(rest_client.SECRETS, UHUB, body)
        elif not has_login:
            await self._delete_login()
        await self._switch.on()
        data = {
            "enabled": "true",
            "nfsAddr": wanted.nfs,
            "subnetId": wanted.subnet or before.subnet,
            "hasLogin": "true" if has_login else "false",
        }
        await self._put(_CONFIG_MAPS, _NAME, {"data": data})

    async def turn_off(self) -> None:
        """Switch it off, and delete the login."""
        await self._switch.off()
        await self._put(_CONFIG_MAPS, _NAME, {"data": {"enabled": "false"}})
        await self._delete_login()

    async def login(self) -> bytes | None:
        """The docker config JSON with the login for UHub; None where none was given."""
        if not (await self.read()).has_login:
            return None
        secret = await self._api.get(rest_client.SECRETS, UHUB, namespace=self._namespace)
        return base64.b64decode(secret["data"][_SECRET_KEY])

    async def _delete_login(self) -> None:
        with contextlib.suppress(refusals.NotFound):
            await self._api.delete(rest_client.SECRETS, UHUB, namespace=self._namespace)

    async def _put(
        self, resource: rest_client.Resource, name: str, body: Mapping[str, Any]
    ) -> None:
        try:
            await self._api.patch(resource, name, body, namespace=self._namespace)
        except refusals.NotFound:
            created = {**body, "metadata": {"name": name}}
            await self._api.create(resource, created, namespace=self._namespace)
