"""How an agent in a pod reaches the API server: TLS, and a token that the kubelet replaces."""

import ssl
import subprocess
import sys

import pytest
from aiohttp import web

from agent.clients.kube import connection, refusals, rest_client
from tests.kube import faults


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return faults.certificate(tmp_path_factory.mktemp("tls") / "own")


class Server:
    """Answers with a node to whoever has one of the tokens, and notes what was shown."""

    def __init__(self) -> None:
        self.tokens = {"first"}
        self.shown: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.shown.append(token)
        if token not in self.tokens:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        return web.json_response({"kind": "Node", "metadata": {"name": "n"}})


@pytest.fixture
async def server(certificate):
    made = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def account(tmp_path, certificate, server):
    """The folder of a service account, and the credentials that are read from it."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text((certificate / "cert.pem").read_text())
    where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    return connection.ServiceAccount(tmp_path, environment=where)


async def test_a_pods_service_account_is_enough(account, server) -> None:
    async with rest_client.Client(account) as client:
        found = await client.get(rest_client.NODES, "n")

    assert found["metadata"] == {"name": "n"}
    assert server.shown == ["first"]


async def test_a_token_is_read_again_as_often_as_the_kubelet_may_replace_it(
    account, server, tmp_path
) -> None:
    server.tokens = {"first", "second"}
    async with rest_client.Client(account) as client:
        await client.get(rest_client.NODES, "n")
        (tmp_path / "token").write_text("second")
        await client.get(rest_client.NODES, "n")
        client._transport._fresh_until = 0
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first", "first", "second"]
    assert account.seconds <= 60


async def test_a_token_that_is_refused_is_read_again_at_once(account, server, tmp_path) -> None:
    async with rest_client.Client(account) as client:
        await client.get(rest_client.NODES, "n")
        (tmp_path / "token").write_text("second")
        server.tokens = {"second"}
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first", "first", "second"]


async def test_a_token_that_is_refused_twice_is_told(account, server) -> None:
    server.tokens = set()
    async with rest_client.Client(account) as client:
        with pytest.raises(refusals.Denied, match="401"):
            await client.get(rest_client.NODES, "n")

    assert server.shown == ["first", "first"]


async def test_another_server_in_its_place_does_not_get_the_token(
    account, server, tmp_path
) -> None:
    other = faults.certificate(tmp_path / "other")
    authority = (tmp_path / "ca.crt").read_text()
    (tmp_path / "ca.crt").write_text((other / "cert.pem").read_text())
    async with rest_client.Client(account) as client:
        with pytest.raises(refusals.Unavailable, match="certificate verify failed"):
            await client.get(rest_client.NODES, "n")
        assert server.shown == []
        # The authority was replaced: it is read again without a new start.
        (tmp_path / "ca.crt").write_text(authority)
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first"]


@pytest.mark.parametrize("file", ["token", "ca.crt"])
async def test_files_that_are_not_there_yet_are_named(account, tmp_path, file) -> None:
    (tmp_path / file).unlink()
    async with rest_client.Client(account) as client:
        with pytest.raises(connection.NoAccess, match=file):
            await client.get(rest_client.NODES, "n")


async def test_who_is_in_no_pod_is_told_what_to_do(tmp_path) -> None:
    async with rest_client.Client(connection.ServiceAccount(tmp_path, environment={})) as client:
        with pytest.raises(connection.NoAccess, match="--kubeconfig"):
            await client.get(rest_client.NODES, "n")


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path) -> None:
    async with rest_client.Client(connection.Kubeconfig(tmp_path / "none")) as client:
        with pytest.raises(connection.NoAccess, match="none"):
            await client.get(rest_client.NODES, "n")


@pytest.mark.parametrize("text", ["{", "[]", "clusters: 1", "apiVersion: v1\nkind: Config\n"])
async def test_a_kubeconfig_that_is_none_is_told(tmp_path, text) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(connection.NoAccess, match="config"):
        await connection.Kubeconfig(file).read()


def test_a_service_account_needs_no_large_library() -> None:
    """Its import costs 39 MB on each node; only a kubeconfig needs it."""
    code = "import sys; import agent.roles.agent; sys.exit('kubernetes_asyncio' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
