"""Commands in containers, as the API server passes their output on."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from agent.clients.kube import connection, refusals, rest_client
from agent.clients.kube.streams import pod_streams

AGENT = pod_streams.Container(namespace="ns", pod="p", name="agent")


class Server:
    """Answers each command with the messages that a test wants."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.refusal = 0
        self.asked: list[tuple[str, list[str]]] = []
        self.hangs = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, request.query.getall("command")))
        if self.refusal:
            return web.json_response({"kind": "Status"}, status=self.refusal)
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for message in self.messages:
            await socket.send_bytes(message)
        if self.hangs:
            await socket.receive()
        await socket.close()
        return socket


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]  # type: ignore[attr-defined]
    yield made
    await runner.cleanup()


class Known:
    seconds = 600.0

    def __init__(self, port: int) -> None:
        self.port = port

    async def read(self) -> connection.Access:
        server = f"http://127.0.0.1:{self.port}"
        return connection.Access(server=server, authorization="Bearer t", tls=None)


@pytest.fixture
async def client(server) -> AsyncIterator[rest_client.Client]:
    async with rest_client.Client(Known(server.port), deadline=10) as made:
        yield made


def end(**status: str) -> bytes:
    return b"\x03" + json.dumps(status).encode()


async def test_what_a_command_prints_is_put_together(client, server) -> None:
    server.messages = [b"\x01one ", b"\x02a warning", b"\x01", b"\x01two", end(status="Success")]

    printed = await pod_streams.output_of(client, AGENT, ["cat", "a b"], limit=100)

    assert printed == b"one two"
    assert server.asked == [("/api/v1/namespaces/ns/pods/p/exec", ["cat", "a b"])]


async def test_a_failure_has_what_was_complained_of(client, server) -> None:
    server.messages = [b"\x02no such file", end(status="Failure", message="exit code 1")]

    with pytest.raises(pod_streams.CommandFailed, match="exit code 1: no such file"):
        await pod_streams.output_of(client, AGENT, ["cat"], limit=100)


async def test_a_command_that_prints_too_much_is_left(client, server) -> None:
    server.messages = [b"\x01" + b"x" * 101]
    server.hangs = True

    with pytest.raises(pod_streams.CommandFailed, match="more than 100 bytes"):
        await pod_streams.output_of(client, AGENT, ["yes"], limit=100)


async def test_a_connection_that_ends_early_is_no_result(client, server) -> None:
    server.messages = [b"\x01half"]

    with pytest.raises(refusals.Unavailable, match="ended before it did"):
        await pod_streams.output_of(client, AGENT, ["cat"], limit=100)


async def test_a_refusal_has_its_type(client, server) -> None:
    server.refusal = 403

    with pytest.raises(refusals.Denied):
        await pod_streams.output_of(client, AGENT, ["cat"], limit=100)
