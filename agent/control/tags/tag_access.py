"""Clients of registries, by the credentials that caches name; few are open at a time."""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Self

from agent.clients.registry import acr, connections, credentials, distribution
from agent.control.tags import tag_questions
from agent.model import caches, images

_MOST = 32
"""Clients that are open at a time, while none of them is in use."""
_REMEMBERED = 1024
_CLIENT_SECONDS = 3600.0
"""After which another client takes the place of one: it remembers something of each tag."""


class Secrets(Protocol):
    """Where Secrets are read: agent.control.reconcile.cluster.Cluster."""

    async def pull_secrets(self, names: Sequence[caches.SecretName]) -> list[str]:
        """The docker configs of Secrets, in base64; raises AgentError."""


class Registry(Protocol):
    """What is asked: agent.clients.registry.distribution.Client. All raise AgentError."""

    async def digest(self, reference: images.Reference) -> str:
        """What a tag stands for, as the registry says: one HEAD."""

    async def manifest(
        self, reference: images.Reference, digest: str = ""
    ) -> distribution.Manifest:
        """The manifest or index that a tag stands for, verified."""


@dataclasses.dataclass(slots=True)
class _Known:
    """The Secrets that an access names, as they were read. `until` is of the loop's clock."""

    until: float
    secrets: list[str]


@dataclasses.dataclass(slots=True)
class _Open:
    """A client, until when it is used, by the loop's clock, and how many use it now."""

    client: distribution.Client
    stack: contextlib.AsyncExitStack
    until: float
    users: int = 0


class Accesses:
    """Opens clients. Use as an async context.

    Secrets are read again after so many `seconds`: they are rotated.
    """

    def __init__(self, secrets: Secrets, options: connections.Options, *, seconds: float) -> None:
        self._secrets = secrets
        self._options = options
        self._seconds = seconds
        self._known: collections.OrderedDict[tuple[caches.SecretName, ...], _Known]
        self._known = collections.OrderedDict()
        self._open: collections.OrderedDict[str, _Open] = collections.OrderedDict()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for each in self._open.values():
            await each.stack.aclose()
        self._open.clear()

    @contextlib.asynccontextmanager
    async def client(self, access: tag_questions.Access) -> AsyncIterator[tuple[Registry, str]]:
        """A client, and the name of what it may use: the same for the same credentials.

        Raises AgentError where a Secret cannot be read.
        """
        async with self._opening:
            secrets = await self._read(access.secrets)
            name = _name(access, secrets)
            one = self._open.get(name)
            if one is None or one.until <= asyncio.get_running_loop().time():
                if one is not None and not one.users:
                    await one.stack.aclose()
                one = await self._enter(name, access, secrets)
            self._open.move_to_end(name)
            one.users += 1
        try:
            yield one.client, name
        finally:
            one.users -= 1
            if not one.users and self._open.get(name) is not one:
                await one.stack.aclose()
            await self._close_some()

    async def _read(self, names: tuple[caches.SecretName, ...]) -> list[str]:
        if not names:
            return []
        now = asyncio.get_running_loop().time()
        known = self._known.get(names)
        if known is None or known.until <= now:
            known = _Known(now + self._seconds, await self._secrets.pull_secrets(names))
            self._known[names] = known
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known.secrets

    async def _enter(
        self, name: str, access: tag_questions.Access, secrets: Sequence[str]
    ) -> _Open:
        providers: list[credentials.CredentialProvider] = [
            credentials.DockerConfig(base64.b64decode(data), source=str(secret))
            for secret, data in zip(access.secrets, secrets, strict=True)
        ]
        if access.acr_instances:
            providers.append(acr.Acr(access.acr_instances, acr.options_of(os.environ)))
        options = dataclasses.replace(
            self._options,
            plain_http=frozenset(access.plain_http),
            insecure=frozenset(access.insecure),
        )
        stack = contextlib.AsyncExitStack()
        client = distribution.Client(credentials.Chain(providers), options)
        until = asyncio.get_running_loop().time() + _CLIENT_SECONDS
        one = _Open(await stack.enter_async_context(client), stack, until)
        self._open[name] = one
        return one

    async def _close_some(self) -> None:
        """Close the clients that were not used for the longest, beyond their number."""
        idle = [name for name, one in self._open.items() if not one.users]
        for name in idle[: max(0, len(self._open) - _MOST)]:
            await self._open.pop(name).stack.aclose()


def _name(access: tag_questions.Access, secrets: Sequence[str]) -> str:
    parts = [sorted(secrets), access.acr_instances, access.plain_http, access.insecure]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
