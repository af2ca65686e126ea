"""Pods as values, from all that an API server or a proxy before it may send."""

import json

import pytest
from aiohttp import web

from agent.clients.kube import connection, node_pods, refusals, rest_client, selection
from agent.model import pods

GOOD = {
    "metadata": {"name": "p", "namespace": "d", "resourceVersion": "7", "annotations": {"x": "y"}},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


@pytest.fixture
async def told():
    """Has an API server say this; the pods of a node as our client understands it."""
    bodies: list[bytes] = []

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=bodies[-1], content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    class There:
        seconds = 60.0

        async def read(self) -> connection.Access:
            server = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return connection.Access(server=server, authorization="", tls=None)

    async with rest_client.Client(There()) as client:

        def say(body: object) -> selection.Selection[pods.Pod]:
            bodies.append(body if isinstance(body, bytes) else json.dumps(body).encode())
            return node_pods.select(client, "n", annotations={"kept"})

        yield say
    await runner.cleanup()


async def items(selected) -> dict[str, pods.Pod | None]:
    """The whole list."""
    parts = [part async for part in selected.list(not_older_than="0")]
    assert {part.version for part in parts} == {"9"}
    return {key: entry.item for part in parts for key, entry in part.entries.items()}


def listed(*items: object) -> dict[str, object]:
    return {"metadata": {"resourceVersion": "9"}, "items": list(items)}


async def test_a_pod_that_is_strange_and_what_is_no_pod_do_not_hide_the_others(told) -> None:
    strange = {"metadata": {"name": "s", "namespace": "d"}, "spec": {"containers": "none"}}
    found = await items(told(listed({}, strange, {"metadata": 1}, GOOD)))

    assert set(found) == {"d/s", "d/p"}
    assert found["d/s"] is None
    assert found["d/p"].annotations == {}


async def test_a_list_that_was_never_filled_is_empty(told) -> None:
    """Go writes null for it."""
    assert await items(told({"metadata": {"resourceVersion": "9"}, "items": None})) == {}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"metadata": {}}', listed(1), listed("pod")]
)
async def test_what_is_no_list_is_an_error_that_passes(told, body) -> None:
    with pytest.raises(refusals.Unavailable, match="cannot be read"):
        await items(told(body))


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\n",
        b"[]\n",
        b'{"type": "ADDED", "object": 1}\n',
        b'{"type": "ADDED", "object": {"metadata": {}}}\n',
        b'{"type": "WHAT", "object": {"metadata": {"resourceVersion": "1"}}}\n',
        b'{"type": "ERROR", "object": 1}\n',
        json.dumps({"type": "ADDED", "object": GOOD}).encode(),  # without the line's end
    ],
)
async def test_what_is_no_event_is_an_error_that_passes(told, line) -> None:
    changes = told(line).watch("1")

    # The server has begun, and sends nothing else.
    assert await anext(changes) == selection.Change(version="1")
    with pytest.raises(refusals.Unavailable):
        await anext(changes)


async def test_an_error_in_a_watch_is_told_by_its_code(told) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
    with pytest.raises(refusals.Gone, match="too old"):
        async for _ in told(line).watch("1"):
            pass


async def test_an_event_about_nothing_moves_the_version_only(told) -> None:
    event = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}}
    lines = b"".join(
        json.dumps(each).encode() + b"\n" for each in (event, {"type": "ADDED", "object": GOOD})
    )
    changes = [(each.version, each.key) async for each in told(lines).watch("1")]

    assert changes == [
        ("1", ""),
        ("8", ""),
        ("7", "d/p"),
    ]
