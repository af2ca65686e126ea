"""The way by which cosign reads a registry: one repository, reads only, and not without end."""

import contextlib

import aiohttp
import pytest

from agent.build.signatures import signature_proxy
from agent.clients.registry import connections, credentials, distribution
from agent.model import images
from tests.fakes import registry as fakes


@pytest.fixture
async def fake():
    async with fakes.FakeRegistry() as server:
        server.add_image([fakes.tar(a=b"1")], "1")
        yield server


@contextlib.asynccontextmanager
async def proxied(fake: fakes.FakeRegistry):
    """A client of HTTP, and the URL of the repository."""
    options = connections.Options(plain_http=frozenset({fake.host}), delays=(0.01,), deadline=0.2)
    async with distribution.Client(credentials.Chain(()), options) as client:
        reference = images.parse_reference(f"{fake.host}/team/app:1")
        async with (
            signature_proxy.serving(client, reference) as proxy,
            aiohttp.ClientSession() as session,
        ):
            host, _, name = proxy.repository.partition("/")
            yield session, f"http://{host}/v2/{name}", proxy


async def test_manifests_come_by_tag_and_by_digest(fake) -> None:
    digest = fakes.digest(fake.manifests["1"].data)

    async with proxied(fake) as (session, url, _):
        for name in ("1", digest):
            async with session.get(f"{url}/manifests/{name}") as response:
                assert response.headers["Docker-Content-Digest"] == digest
                assert await response.read() == fake.manifests["1"].data


async def test_what_is_not_there_is_an_answer(fake) -> None:
    async with proxied(fake) as (session, url, proxy):
        for path in ("manifests/sha256-00.sig", f"blobs/{fakes.digest(b'')}", "referrers/x"):
            async with session.get(f"{url}/{path}") as response:
                assert response.status == 404

    assert proxy.failure is None


@pytest.mark.parametrize(
    "text",
    [
        '{"layers": [{"urls": ["http://169.254.169.254/"]}]}',
        '{"layers": [{"\\u0055RL\\u017f": []}], "layers": []}',
        '{"manifests": [{"platform": {"urls": null}}]}',
        '{"layers": [',
        "[" * 100_000,
    ],
)
async def test_a_manifest_that_leads_elsewhere_is_not_served(fake, text: str) -> None:
    """cosign's library asks the URLs of a descriptor by itself, whatever addresses are denied."""
    fake.add_manifest(text.encode(), f"{fakes.OCI}.manifest.v1+json", "2")

    async with (
        proxied(fake) as (session, url, _),
        session.get(f"{url}/manifests/2") as response,
    ):
        assert response.status == 403


async def test_a_registry_that_does_not_answer_is_remembered(fake) -> None:
    fake.faults["1"] += [fakes.status(503)] * 100

    async with (
        proxied(fake) as (session, url, proxy),
        session.get(f"{url}/manifests/1") as response,
    ):
        assert response.status == 503

    assert "status 503" in str(proxy.failure)


async def test_no_other_repository_is_served_and_nothing_is_written(fake) -> None:
    async with proxied(fake) as (session, url, _):
        host = url.rpartition("/")[0]
        async with session.get(f"{host}/team/app/manifests/1") as response:
            assert response.status == 404
        async with session.put(f"{url}/manifests/2", data=b"{}") as response:
            assert response.status == 405


async def test_a_registry_with_signatures_without_end_is_not_read_to_its_end(
    fake, monkeypatch
) -> None:
    monkeypatch.setattr(signature_proxy, "_TOTAL", 3000)
    names = [fake.add_blob(bytes([number]) * 1000) for number in range(4)]

    async with proxied(fake) as (session, url, _):
        states = []
        for name in names:
            async with session.get(f"{url}/blobs/{name}") as response:
                states.append(response.status)

    assert states == [200, 200, 200, 403]
