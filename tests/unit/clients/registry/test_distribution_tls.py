"""TLS: verified against the system's authorities and a named one, or not on request only."""

import ssl

import aiohttp
import pytest
import yarl
from aiohttp import web

from agent.clients.registry import connections, credentials, distribution, failures
from agent.model import images
from lab import processes
from tests.fakes import registry as fakes


@pytest.fixture
async def host(certificate):
    async def answer(request: web.Request) -> web.Response:
        return fakes.answer(request, b"{}", "application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


async def read(host: str, **options) -> distribution.Manifest:
    chain = credentials.Chain([])
    settings = connections.Options(deadline=0.5, delays=(0.1,), **options)
    async with distribution.Client(chain, settings) as client:
        return await client.manifest(images.parse_reference(f"{host}/app:1"))


async def test_an_unknown_certificate_is_refused_with_advice(host) -> None:
    with pytest.raises(failures.RequestRefused, match="name its authority's file"):
        await read(host)


async def test_a_named_authority_is_trusted(host, certificate) -> None:
    assert (await read(host, ca_file=str(certificate / "cert.pem"))).data == b"{}"


async def test_insecure_is_for_the_named_host_only(host) -> None:
    assert (await read(host, insecure=frozenset({host}))).data == b"{}"
    with pytest.raises(failures.RequestRefused):
        await read(host, insecure=frozenset({"localhost"}))


async def test_a_file_that_is_no_authority_says_so(host) -> None:
    with pytest.raises(failures.RequestRefused, match="/nowhere"):
        await read(host, ca_file="/nowhere")


async def test_plain_http_where_tls_is_expected_says_so(certificate) -> None:
    async with fakes.FakeRegistry() as fake:
        with pytest.raises(failures.RequestRefused, match="allow plain HTTP") as caught:
            await read(fake.host)
    assert "annotation uimgacc.io/plain-http-registry" in str(caught.value)
    # It is a status and an event: the same sentence each time, no object's address.
    assert "0x" not in str(caught.value)


async def test_a_certificate_that_is_replaced_is_read_again(host, certificate, tmp_path) -> None:
    """Of a mirror's authority: the kubelet replaces what a pod has mounted."""
    folder = tmp_path / host.replace(":", "_")
    folder = folder.with_name(f"{folder.name}_")
    folder.mkdir()
    (folder / "ca.crt").write_text((certificate / "cert.pem").read_text())
    options = connections.Options(deadline=0.5, delays=(0.1,), mirrors=(tmp_path,))
    (folder / "hosts.toml").write_text(f'server = "https://{host}"\nca = "ca.crt"\n')
    image = images.parse_reference(f"{host}/app:1")

    async with distribution.Client(credentials.Chain([]), options) as client:
        assert (await client.manifest(image)).data == b"{}"
        (folder / "ca.crt").write_text("nothing\n")
        with pytest.raises(failures.RequestRefused, match=r"ca.crt is not a PEM file"):
            await client.manifest(image)
        (folder / "ca.crt").write_text((certificate / "cert.pem").read_text())
        assert (await client.manifest(image)).data == b"{}"


async def failure(host: str) -> aiohttp.ClientConnectorError:
    """What a connection by TLS fails with."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"https://{host}/")
    return caught.value


async def test_a_certificate_that_is_not_trusted_is_no_reason_to_go_without_tls(host) -> None:
    """Of a mirror that hosts.toml names with http:// and settings for TLS."""
    without_port = yarl.URL("https://mirror.test/v2/")

    async with fakes.FakeRegistry() as plain:
        assert connections.speaks_no_tls(without_port, await failure(plain.host))
    refused = await failure(f"localhost:{processes.free_port()}")
    assert connections.speaks_no_tls(without_port, refused)
    assert not connections.speaks_no_tls(yarl.URL("https://mirror.test:8443/v2/"), refused)
    assert not connections.speaks_no_tls(without_port, await failure(host))
