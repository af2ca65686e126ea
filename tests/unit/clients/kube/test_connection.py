"""How an agent in a pod reaches the API server: TLS, and a token that the kubelet replaces."""

import asyncio
import json
import socket
import ssl

import pytest
import yaml
from aiohttp import web

from agent.clients.kube import connection, http_session, refusals, rest_client
from tests.kube import faults, threads


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
        client._requests._fresh_until = 0
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first", "first", "second"]
    assert account.seconds <= 60


async def test_requests_at_the_same_time_read_the_credentials_once(account, server) -> None:
    reads = []

    class Counted:
        seconds = 60.0

        async def read(self) -> connection.Access:
            reads.append(1)
            await asyncio.sleep(0.05)
            return await account.read()

    async with rest_client.Client(Counted()) as client, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(client.get(rest_client.NODES, "n"))

    assert len(reads) == 1
    assert server.shown == ["first"] * 5


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


def kubeconfig(folder, *, cluster, user):
    """A kubeconfig in a folder of its own, which paths in it may be relative to."""
    path = folder / "config"
    content = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(content))
    return connection.Kubeconfig(path)


async def test_a_kubeconfig_names_files_beside_it_and_a_plug_in_for_the_token(
    server, tmp_path, certificate
) -> None:
    (tmp_path / "authority.crt").write_text((certificate / "cert.pem").read_text())
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "first"},
    }
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    plug_in = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [str(tmp_path / "answer.json")],
    }
    credentials = kubeconfig(
        tmp_path,
        cluster={
            "server": f"https://127.0.0.1:{server.port}/",
            "certificate-authority": "authority.crt",
        },
        user={"exec": plug_in},
    )
    async with rest_client.Client(credentials) as client:
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first"]


async def test_a_kubeconfig_names_the_server_in_the_certificate(
    server, tmp_path, certificate
) -> None:
    cluster = {
        "server": f"https://localhost:{server.port}",
        "certificate-authority": str(certificate / "cert.pem"),
    }
    async with rest_client.Client(
        kubeconfig(tmp_path, cluster=cluster, user={"token": "first"})
    ) as client:
        with pytest.raises(refusals.Unavailable, match="certificate"):
            await client.get(rest_client.NODES, "n")
    cluster["tls-server-name"] = "127.0.0.1"
    async with rest_client.Client(
        kubeconfig(tmp_path, cluster=cluster, user={"token": "first"})
    ) as client:
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first"]


async def test_a_kubeconfig_may_skip_the_check_of_the_certificate(server, tmp_path) -> None:
    cluster = {"server": f"https://localhost:{server.port}", "insecure-skip-tls-verify": True}
    async with rest_client.Client(
        kubeconfig(tmp_path, cluster=cluster, user={"token": "first"})
    ) as client:
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first"]


async def test_requests_of_a_kubeconfig_with_a_proxy_go_through_it(tmp_path) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response({"kind": "Node"})

    async with threads.listening(web.Server(answer)) as port:
        cluster = {"server": "http://api.example", "proxy-url": f"http://127.0.0.1:{port}"}
        async with rest_client.Client(kubeconfig(tmp_path, cluster=cluster, user={})) as client:
            await client.get(rest_client.NODES, "n")

    assert asked == ["http://api.example/api/v1/nodes/n"]


async def test_the_environment_names_no_proxy_and_netrc_no_password(
    account, server, tmp_path, monkeypatch
) -> None:
    """A pod's own cluster is reached directly, with its token."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login l password p\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with rest_client.Client(account) as client:
        await client.get(rest_client.NODES, "n")

    assert server.shown == ["first"]


async def test_a_redirect_is_an_error_and_the_token_does_not_follow_it(tmp_path) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/login"})

    async with threads.listening(web.Server(answer)) as port:
        cluster = {"server": f"http://127.0.0.1:{port}"}
        async with rest_client.Client(
            kubeconfig(tmp_path, cluster=cluster, user={"token": "first"})
        ) as client:
            with pytest.raises(refusals.Unavailable, match="302"):
                await client.get(rest_client.NODES, "n")

    assert asked == ["/api/v1/nodes/n"]


async def test_an_address_of_ipv6_is_written_in_brackets(tmp_path, certificate) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text((certificate / "cert.pem").read_text())
    where = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = await connection.ServiceAccount(tmp_path, environment=where).read()

    assert access.server == "https://[fd00::1]:443"


async def test_connections_notice_a_peer_that_went_away_silently() -> None:
    made = http_session._socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("", 0)))
    with made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
