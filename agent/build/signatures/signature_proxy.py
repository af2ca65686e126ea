"""A registry on loopback, through which cosign reads one repository by the builder's own client.

So a signature is fetched as an image is: with its credentials, which cosign never has, by the same
rules for redirects and addresses, with the same retries. It serves nothing but reads of one
repository, under a name that cannot be guessed, for as long as one verification takes.

Invariant: nothing that is served sends cosign elsewhere. A descriptor can name URLs, which
cosign's library asks by itself where a blob is not in the registry; no signature needs any.
"""

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from aiohttp import web

from agent import errors
from agent.kits.web import listener
from agent.model import images

_TOTAL = 32 << 20
"""Bytes that one verification may read: signatures and bundles have some kilobytes each."""

_AT_ONCE = 2
"""Reads at a time: each may have a blob of agent.clients.registry.distribution.CONFIG_LIMIT."""


class Manifest(Protocol):
    """A manifest as a registry served it, verified."""

    @property
    def digest(self) -> str:
        """Its digest."""

    @property
    def media_type(self) -> str:
        """What the registry called it."""

    @property
    def data(self) -> bytes:
        """Its bytes."""


class Registry(Protocol):
    """Where signatures come from (agent.clients.registry.distribution.Client)."""

    async def manifest(self, reference: images.Reference, digest: str = "") -> Manifest:
        """The manifest of a reference, or of a digest in its repository."""

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory, verified."""

    async def referrers(self, reference: images.Reference, digest: str) -> Manifest:
        """The index of what refers to a digest in the repository of an image."""


@dataclasses.dataclass(slots=True)
class Proxy:
    """Where cosign finds the repository, and what kept it from reading it, if anything did."""

    repository: str
    failure: errors.AgentError | None = None


@contextlib.asynccontextmanager
async def serving(registry: Registry, reference: images.Reference) -> AsyncIterator[Proxy]:
    """Serve the repository of an image; yields where."""
    name = secrets.token_hex(16)
    proxy = Proxy("")
    handlers = _Handlers(registry, reference, proxy)
    app = web.Application()
    app.router.add_get("/v2/", handlers.ping)
    app.router.add_get(f"/v2/{name}/manifests/{{what}}", handlers.manifest)
    app.router.add_get(f"/v2/{name}/blobs/{{what}}", handlers.blob)
    app.router.add_get(f"/v2/{name}/referrers/{{what}}", handlers.referrers)
    async with listener.serving(app, "127.0.0.1:0") as address:
        proxy.repository = f"{address}/{name}"
        yield proxy


class _Handlers:
    def __init__(self, registry: Registry, reference: images.Reference, proxy: Proxy) -> None:
        self._registry = registry
        self._reference = reference
        self._proxy = proxy
        self._left = _TOTAL
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def ping(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def manifest(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        is_digest = ":" in what
        wanted = dataclasses.replace(
            self._reference, tag="" if is_digest else what, digest=what if is_digest else ""
        )
        return await self._answered(lambda: self._registry.manifest(wanted))

    async def referrers(self, request: web.Request) -> web.Response:
        digest = request.match_info["what"]
        return await self._answered(lambda: self._registry.referrers(self._reference, digest))

    async def blob(self, request: web.Request) -> web.Response:
        digest = request.match_info["what"]
        try:
            async with self._turns:
                data = await self._registry.small_blob(self._reference, digest)
        except errors.AgentError as error:
            return self._failed(error)
        return self._served(data, {"Content-Type": "application/octet-stream"})

    async def _answered(self, read: Callable[[], Awaitable[Manifest]]) -> web.Response:
        try:
            async with self._turns:
                manifest = await read()
        except errors.AgentError as error:
            return self._failed(error)
        if not _is_self_contained(manifest.data):
            return web.json_response({"errors": [{"code": "DENIED"}]}, status=403)
        headers = {"Docker-Content-Digest": manifest.digest, "Content-Type": manifest.media_type}
        return self._served(manifest.data, headers)

    def _served(self, data: bytes, headers: Mapping[str, str]) -> web.Response:
        self._left -= len(data)
        if self._left < 0:
            return web.json_response({"errors": [{"code": "DENIED"}]}, status=403)
        return web.Response(body=data, headers=headers)

    def _failed(self, error: errors.AgentError) -> web.Response:
        """That something is not there is an answer; a registry that gives none is remembered."""
        if isinstance(error, errors.PermanentError):
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        self._proxy.failure = error
        return web.json_response({"errors": [{"code": "UNAVAILABLE"}]}, status=503)


class _NamesUrlsError(Exception):
    """A descriptor has URLs."""


def _is_self_contained(data: bytes) -> bool:
    """Whether a manifest names no URLs, nowhere, in no spelling that Go takes for the name.

    Each member is looked at: of two with one name, Go can keep something of the first.
    """
    try:
        json.loads(data.decode(), object_pairs_hook=_require_no_urls)
    except (_NamesUrlsError, ValueError, RecursionError):
        return False
    return True


def _require_no_urls(members: list[tuple[str, object]]) -> None:
    if any(name.casefold() == "urls" for name, _ in members):
        raise _NamesUrlsError
