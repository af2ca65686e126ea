"""Who may notify, what is refused, and how a controller that waits hands hints to the leader."""

import asyncio
import base64
import contextlib
import io
import json
import pathlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from agent.clients.kube import refusals, rest_client
from agent.control.pushes import leader_handover, push_server, push_tokens
from agent.control.tags import tag_hints
from agent.kits.web import listener

TOKEN, OTHER = "a-token-of-16-characters", "another-token-of-more"
PUSHED = json.dumps({"repository": "team/app", "updated_tags": ["1"]}).encode()
HINT = tag_hints.Hint("team/app", "1")
GOOD = {"Authorization": f"Bearer {TOKEN}"}


class Side:
    """A controller's endpoint at an address of this machine, and the pods that it can read."""

    def __init__(self, folder: pathlib.Path, *, leads: bool, leader: str = "") -> None:
        self.tokens = folder / "tokens"
        self.leads = leads
        self.leader = leader
        self.hints = tag_hints.Hints()
        self.address = ""

    async def get(
        self, resource: rest_client.Resource, name: str, *, namespace: str = ""
    ) -> rest_client.Object:
        assert (resource, namespace) == (rest_client.PODS, "system")
        if name != "controller-1":
            raise refusals.NotFound(refusals.Refusal(request="GET", status=404, reason="", text=""))
        return {"status": {"podIP": "127.0.0.2"}}

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int = 0) -> AsyncIterator["Side"]:
        handover = leader_handover.Handover(
            self, lambda: self.leader, namespace="system", port=port, encrypted=False
        )
        endpoint = push_server.Endpoint(
            push_tokens.Tokens(self.tokens), self.hints, handover, leads=lambda: self.leads
        )
        async with listener.serving(endpoint.application(), f"{host}:{port}") as self.address:
            yield self

    async def post(
        self, body: bytes = PUSHED, headers: Mapping[str, str] = GOOD, path: str = "/push"
    ) -> int:
        url = f"http://{self.address}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=io.BytesIO(body), headers=headers) as response,
        ):
            return response.status


@pytest.fixture
async def leader(tmp_path: pathlib.Path) -> AsyncIterator[Side]:
    side = Side(tmp_path, leads=True)
    side.tokens.write_text(f"{TOKEN}\n{OTHER}\n")
    async with side.serving("127.0.0.1") as serving:
        yield serving


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "path"),
    [
        (f"Bearer {TOKEN}", "/push"),
        (f"bearer  {OTHER}", "/push"),
        (TOKEN, "/push"),
        (basic(f"anybody:{TOKEN}"), "/push"),
        ("", f"/push/{TOKEN}"),
        ("Bearer something", f"/push/{OTHER}"),
    ],
)
async def test_a_token_is_taken_in_each_place_that_registries_have(
    leader: Side, header: str, path: str
) -> None:
    assert await leader.post(headers={"Authorization": header}, path=path) == 202
    assert leader.hints.take() == {HINT}


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ("", "/push"),
        (f"Bearer {TOKEN}x", "/push"),
        (f"Digest {TOKEN}", "/push"),
        (basic(TOKEN), "/push"),
        ("Basic !", "/push"),
        ("", "/push/wrong"),
        ("", f"/push?token={TOKEN}"),
    ],
)
async def test_nothing_is_taken_without_one(leader: Side, header: str, path: str) -> None:
    assert await leader.post(headers={"Authorization": header}, path=path) == 401
    assert leader.hints.take() == frozenset()


async def test_tokens_are_replaced_without_a_restart_and_bad_ones_are_none(leader: Side) -> None:
    leader.tokens.write_text("a-new-token-of-16-characters")
    assert await leader.post() == 401

    leader.tokens.write_text("short")
    assert await leader.post(headers={"Authorization": "Bearer short"}) == 503

    leader.tokens.unlink()
    assert await leader.post() == 503


async def test_what_cannot_be_a_notification_is_refused(leader: Side) -> None:
    assert await leader.post(b"{}") == 400
    assert await leader.post(b" " * (push_server.LIMIT + 1)) == 413
    assert await leader.post(b'{"events": []}') == 200
    assert leader.hints.take() == frozenset()


async def test_pushes_of_one_tag_are_one_hint_and_their_number_is_bounded(leader: Side) -> None:
    for number in range(6):
        tags = [f"{number}-{each}" for each in range(190)]
        body = json.dumps({"repository": "team/app", "updated_tags": tags}).encode()
        assert await leader.post(body) == (202 if number < 5 else 503)
        assert await leader.post(body) == (202 if number < 5 else 503)

    assert len(leader.hints.take()) == 950


async def test_requests_at_once_are_bounded(leader: Side, monkeypatch) -> None:
    monkeypatch.setattr(push_server, "_AT_ONCE", 1)
    host, _, port = leader.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /push HTTP/1.1\r\nHost: a\r\nAuthorization: {TOKEN}\r\nContent-Length: 5\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    async with asyncio.timeout(30):
        while await leader.post() != 429:
            await asyncio.sleep(0.01)
    writer.write(b"12345")
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_who_has_no_token_takes_no_turn_of_registries(leader: Side, monkeypatch) -> None:
    monkeypatch.setattr(push_server, "_AT_ONCE", 1)
    host, _, port = leader.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {leader_handover.PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n".encode()
    )
    await writer.drain()
    async with asyncio.timeout(30):
        while await leader.post(b"[]", path=leader_handover.PATH) != 503:
            await asyncio.sleep(0.01)

    assert await leader.post() == 202

    writer.write(b"12345")
    assert b" 401 " in await reader.readline()
    writer.close()


async def test_a_controller_that_waits_hands_hints_to_the_leader(
    tmp_path: pathlib.Path,
) -> None:
    leader, waiting = Side(tmp_path, leads=True), Side(tmp_path, leads=False, leader="controller-1")
    leader.tokens.write_text(TOKEN)
    async with leader.serving("127.0.0.2"):
        port = int(leader.address.rpartition(":")[2])
        async with waiting.serving("127.0.0.1", port):
            assert await waiting.post() == 202
            assert leader.hints.take() == {HINT}
            assert waiting.hints.take() == frozenset()

            # It must not be sent in a circle while the lead changes.
            leader.leads = False
            assert await waiting.post() == 503
            waiting.leader = "controller-2"
            assert await waiting.post() == 503
            waiting.leader = ""
            assert await waiting.post() == 503
    waiting.leader = "controller-1"
    async with waiting.serving("127.0.0.1", port):
        assert await waiting.post() == 503


async def test_only_controllers_with_a_token_hand_over(leader: Side) -> None:
    body = leader_handover.encoded([HINT])

    async def sent(signature: str, body: bytes = body) -> int:
        headers = {leader_handover.SIGNATURE: signature}
        return await leader.post(body, headers, leader_handover.PATH)

    assert await sent("") == 401
    assert await sent(push_tokens.signature("a-token-that-is-unknown", body)) == 401
    assert await sent(push_tokens.signature(TOKEN, body + b" ")) == 401
    assert leader.hints.take() == frozenset()
    assert await sent(push_tokens.signature(OTHER, body)) == 202
    assert leader.hints.take() == {HINT}
    assert await sent(push_tokens.signature(TOKEN, b"{}"), b"{}") == 400
