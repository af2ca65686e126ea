"""Hints, handed by a controller that waits to the one that leads, which looks tags up.

A Service reaches every controller. The address of the leader is that of the pod which its Lease
names. What is sent is no secret, and signed with the token that both have, so nothing depends on
the leader's certificate, whose names are those that registries use.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import aiohttp
import msgspec

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.pushes import push_tokens
from agent.control.tags import tag_hints
from agent.kits import addresses

PATH = "/handed-over"
SIGNATURE = "X-Uimgacc-Signature"

_SECONDS = 3.0


class NoLeader(errors.TemporaryError):
    """No controller takes the hints now."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no controller takes it now: {reason}", delay=5.0)


class Api(Protocol):
    """Where the leader's pod is read: agent.clients.kube.rest_client.Client."""

    async def get(
        self, resource: rest_client.Resource, name: str, *, namespace: str = ""
    ) -> rest_client.Object:
        """Read an object."""


class Handover:
    """Sends hints to the controller whose pod `leader` names; it listens on the same `port`."""

    def __init__(
        self, api: Api, leader: Callable[[], str], *, namespace: str, port: int, encrypted: bool
    ) -> None:
        self._api = api
        self._leader = leader
        self._namespace = namespace
        self._port = port
        self._scheme = "https" if encrypted else "http"

    async def send(self, hints: Sequence[tag_hints.Hint], token: str) -> None:
        """Have the leader take them; raise NoLeader."""
        body = encoded(hints)
        try:
            async with asyncio.timeout(_SECONDS):
                url = f"{self._scheme}://{await self._address()}{PATH}"
                headers = {SIGNATURE: push_tokens.signature(token, body)}
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(url, data=body, headers=headers, ssl=False) as response,
                ):
                    if response.status >= 300:
                        raise NoLeader(f"the leader answers {response.status}")
        except TimeoutError as error:
            raise NoLeader("the leader does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoLeader(f"the leader is not reached: {error}") from error

    async def _address(self) -> str:
        name = self._leader()
        if not name:
            raise NoLeader("none leads")
        try:
            pod = await self._api.get(rest_client.PODS, name, namespace=self._namespace)
        except (refusals.NotFound, refusals.Denied, errors.TemporaryError) as error:
            raise NoLeader(f"the leader's pod {name} cannot be read: {error}") from error
        address = str((pod.get("status") or {}).get("podIP") or "")
        if not address:
            raise NoLeader(f"the leader's pod {name} has no address")
        return addresses.join(address, self._port)


def encoded(hints: Sequence[tag_hints.Hint]) -> bytes:
    """Hints as they are sent."""
    return msgspec.json.encode([[each.repository, each.tag] for each in hints])


def decoded(body: bytes) -> Sequence[tag_hints.Hint]:
    """Hints as they were sent; raise msgspec.DecodeError."""
    return [tag_hints.Hint(*each) for each in msgspec.json.decode(body, type=list[tuple[str, str]])]
