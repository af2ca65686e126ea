"""Events of caches, in fake time."""

import asyncio
import dataclasses

import pytest

from agent import errors
from agent.clients.kube import event_writer, rest_client
from agent.control.caches import cache_object
from agent.control.decisions import outcome
from agent.control.reconcile import cache_events
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

CACHE = cache_object.parse(
    {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": "imc",
            "uid": "u-1",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"images": ["registry/app:1"]},
    }
)
FAILED = outcome.Event(reason="BuildFailed", message="no such image", warning=True)


@pytest.fixture
def api() -> fakes.Api:
    return fakes.Api()


async def written(api: fakes.Api, *events: outcome.Event) -> list[dict]:
    writer = event_writer.EventWriter(api, cache_events.LIMITS)
    emitter = cache_events.CacheEvents(writer)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.run())
        for event in events:
            emitter.emit(CACHE, event)
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        task.cancel()
    return api.all(rest_client.EVENTS)


async def test_an_event_of_a_cache_is_where_kubectl_describe_looks(api) -> None:
    (event,) = await written(api, FAILED)

    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "name": "imc",
        "uid": "u-1",
    }
    assert (event["type"], event["reason"], event["message"]) == (
        "Warning",
        "BuildFailed",
        "no such image",
    )


async def test_an_event_is_written_after_an_api_server_was_away(api) -> None:
    api.failures = [errors.TemporaryError("no answer in time")] * 3

    assert len(await written(api, FAILED)) == 1


async def test_what_happens_to_a_cache_again_is_an_event_again(api) -> None:
    assert len(await written(api, FAILED, dataclasses.replace(FAILED))) == 2
