"""Attacks on the credentials with which a tag is pushed, by the registry that it is pushed to.

What honest registries do is in tests/build/test_aliases.py.
"""

import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from agent.clients.registry import connections, credentials, failures, tag_push
from agent.model import images
from tests.fakes import registry as fakes


class Alice:
    """A provider that gives Alice's password for every image."""

    async def credentials(self, reference: images.Reference):
        return [credentials.Credential("a file", "alice", "secret")]


@contextlib.asynccontextmanager
async def target(location: str) -> AsyncIterator[str]:
    """A registry that wants a password, and has blobs put to `location`."""

    async def uploads(request: web.Request) -> web.Response:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="target"'})
        return web.Response(status=202, headers={"Location": location})

    async with fakes.serving({"/v2/app/blobs/uploads/": uploads}) as host:
        yield host


async def push(host: str) -> None:
    """Push an image of a registry on loopback to `app` at a host."""
    async with fakes.FakeRegistry() as source:
        source.add_image([fakes.tar(a=b"1")], "1")
        options = connections.Options(
            plain_http=frozenset({source.host, host}), delays=(0.01,), deadline=1.0
        )
        async with tag_push.Client(Alice(), options) as client:
            await client.alias(
                images.parse_reference(f"{source.host}/app:1"),
                images.parse_reference(f"{host}/app:2"),
            )


async def test_an_upload_that_is_placed_at_another_origin_goes_there_without_password() -> None:
    sent: list[str] = []

    async def upload(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Authorization", ""))
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="target"'})

    async with (
        fakes.serving({"/upload": upload}) as elsewhere,
        target(f"http://{elsewhere}/upload") as host,
    ):
        with pytest.raises(failures.RequestRefused, match="not sent to another host"):
            await push(host)

    assert sent == [""]


@pytest.mark.parametrize("location", ["http://[", "ftp://example.com/", "http://a:b@127.0.0.1/"])
async def test_an_upload_that_is_placed_nowhere_is_refused(location: str) -> None:
    async with target(location) as host:
        with pytest.raises(failures.RequestRefused, match="cannot be asked"):
            await push(host)
