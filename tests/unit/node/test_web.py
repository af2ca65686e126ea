import aiohttp
import pytest

from agent.node import web


@pytest.fixture
async def served():
    missing = [""]
    app = web.application(lambda: {"pods": [{"name": "a"}]}, lambda: missing[0])
    async with web.listening(app, "127.0.0.1:0") as address, aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(f"http://{address}{path}") as answer:
                return answer.status, await answer.text()

        yield get, missing


async def test_readiness_says_what_is_missing(served) -> None:
    get, missing = served
    before = await get("/readyz")
    missing[0] = "containerd: not connected yet"

    assert before == (200, "ok\n")
    assert await get("/readyz") == (503, "containerd: not connected yet\n")
    assert await get("/healthz") == (200, "ok\n")


async def test_metrics_and_status(served) -> None:
    get, _ = served
    _, metrics = await get("/metrics")
    status, text = await get("/status")

    assert "uimgacc_node_capable" in metrics
    assert (status, '"name": "a"' in text) == (200, True)
