import json

import aiohttp
import pytest

from agent.kits.web import listener
from agent.node.report import status_http
from tests.unit.node import statuses


@pytest.fixture
async def served():
    missing = [""]
    app = status_http.application(statuses.busy, lambda: missing[0])
    async with (
        listener.serving(app, "127.0.0.1:0") as address,
        aiohttp.ClientSession() as session,
    ):

        async def get(path: str) -> tuple[int, str, dict[str, str]]:
            async with session.get(f"http://{address}{path}") as answer:
                return answer.status, await answer.text(), dict(answer.headers)

        yield get, missing


async def test_readiness_says_what_is_missing(served) -> None:
    get, missing = served
    before = await get("/readyz")
    missing[0] = "containerd: not connected yet"

    assert before[:2] == (200, "ok\n")
    assert (await get("/readyz"))[:2] == (503, "containerd: not connected yet\n")
    assert (await get("/healthz"))[:2] == (200, "ok\n")


async def test_metrics_are_those_of_the_agent(served) -> None:
    get, _ = served
    _, text, _ = await get("/metrics")

    assert "\nuimgacc_node_capable " in text
    assert "uimgacc_snapshot_request_seconds" not in text


async def test_status_is_all_of_it_as_json(served) -> None:
    get, _ = served
    code, text, headers = await get("/status")
    content = json.loads(text)

    assert (code, headers["Cache-Control"]) == (200, "no-store")
    assert content["pods"][0]["name"] == "trainer-0"
    assert content["node"]["started"] == "2026-03-01T07:00:00Z"
    assert content["savings"]["last"][-1]["inputs"] == statuses.PULLS


async def test_the_page_lets_nothing_be_loaded_run_framed_or_kept(served) -> None:
    get, _ = served
    code, text, headers = await get("/")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))

    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert "script-src" not in policy
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "<script" not in text


async def test_an_address_for_metrics_shows_nothing_else() -> None:
    app = status_http.metrics_application()
    async with (
        listener.serving(app, "127.0.0.1:0") as address,
        aiohttp.ClientSession() as session,
    ):
        codes = {}
        for path in ("/metrics", "/", "/status"):
            async with session.get(f"http://{address}{path}") as answer:
                codes[path] = answer.status

    assert codes == {"/metrics": 200, "/": 404, "/status": 404}
