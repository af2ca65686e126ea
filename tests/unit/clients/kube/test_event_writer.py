"""Events reach the API in the end, or are dropped and counted; no caller waits. In fake time."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.clients.kube import event_writer, refusals, rest_client
from agent.metrics import registries
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
POD = event_writer.Involved(api_version="v1", kind="Pod", namespace="team", name="pod", uid="u-1")
HIT = event_writer.Record(
    involved=POD,
    reason="SuccessfulHitImageCache",
    message="Successfully hit image cache imc.",
    once=True,
)


def dropped(reason: str) -> float:
    value = registries.AGENT.get_sample_value("uimgacc_events_dropped_total", {"reason": reason})
    assert value is not None
    return value


@pytest.fixture
def api() -> fakes.Api:
    return fakes.Api()


@contextlib.asynccontextmanager
async def running(writer: event_writer.EventWriter) -> AsyncIterator[None]:
    task = asyncio.create_task(writer.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_pods_event_is_where_kubectl_describe_looks(api) -> None:
    writer = event_writer.EventWriter(api)
    async with running(writer):
        writer.emit(HIT)
        await asyncio.sleep(1)

    ((_, namespace, _),) = api.objects
    (event,) = api.all(rest_client.EVENTS)
    assert namespace == event["metadata"]["namespace"] == "team"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "team",
        "name": "pod",
        "uid": "u-1",
    }
    assert (event["reason"], event["type"], event["count"]) == (HIT.reason, "Normal", 1)


def test_names_stay_within_what_the_api_takes() -> None:
    pod = dataclasses.replace(POD, name="a" * 199 + "." + "b" * 50)
    record = dataclasses.replace(HIT, involved=pod, message="ü" * 2000)
    event = event_writer.manifest(record, NOW)

    assert len(event["metadata"]["name"]) <= 253
    assert ".." not in event["metadata"]["name"]
    assert len(event["message"].encode()) <= 1024


async def test_the_same_event_of_the_next_process_is_one(api) -> None:
    for _ in range(2):
        writer = event_writer.EventWriter(api)
        async with running(writer):
            writer.emit(HIT)
            await asyncio.sleep(1)

    assert len(api.all(rest_client.EVENTS)) == 1
    assert len(api.log) == 2


async def test_events_wait_for_the_api(api) -> None:
    writer = event_writer.EventWriter(api)
    api.down = True
    async with running(writer):
        writer.emit(HIT)
        await asyncio.sleep(300)
        api.down = False
        await asyncio.sleep(60)

    assert len(api.all(rest_client.EVENTS)) == 1


async def test_an_event_that_is_too_old_is_dropped_and_the_next_goes_out(api) -> None:
    before = dropped("api_unavailable")
    writer = event_writer.EventWriter(api)
    api.down = True
    async with running(writer):
        writer.emit(HIT)
        await asyncio.sleep(700)
        api.down = False
        writer.emit(dataclasses.replace(HIT, message="later"))
        await asyncio.sleep(60)

    assert dropped("api_unavailable") - before == 1
    assert [event["message"] for event in api.all(rest_client.EVENTS)] == ["later"]


@pytest.mark.parametrize(
    "refused",
    [
        refusals.Denied(fakes.refusal(403, "Forbidden")),
        refusals.NotFound(fakes.refusal(404, "NotFound")),
        refusals.Invalid(fakes.refusal(422, "Invalid")),
    ],
)
async def test_an_event_of_a_namespace_that_is_going_holds_up_no_other(api, refused) -> None:
    before = dropped("refused")
    api.failures = [refused]
    writer = event_writer.EventWriter(api)
    async with running(writer):
        writer.emit(HIT)
        writer.emit(dataclasses.replace(HIT, message="next"))
        await asyncio.sleep(0.1)

    assert dropped("refused") - before == 1
    assert [event["message"] for event in api.all(rest_client.EVENTS)] == ["next"]


async def test_a_token_that_has_expired_is_waited_for(api) -> None:
    api.failures = [refusals.Denied(fakes.refusal(401, "Unauthorized"))]
    writer = event_writer.EventWriter(api)
    async with running(writer):
        writer.emit(HIT)
        await asyncio.sleep(5)

    assert len(api.all(rest_client.EVENTS)) == 1


async def test_what_is_asked_for_by_retry_after_is_waited(api) -> None:
    api.failures = [errors.TemporaryError("busy", delay=30.0)]
    writer = event_writer.EventWriter(api)
    async with running(writer):
        writer.emit(HIT)
        await asyncio.sleep(29)
        early = len(api.all(rest_client.EVENTS))
        await asyncio.sleep(2)

    assert (early, len(api.all(rest_client.EVENTS))) == (0, 1)


async def test_a_storm_is_cut_to_burst_and_rate(api) -> None:
    before = dropped("too_many")
    writer = event_writer.EventWriter(api, event_writer.Limits(rate=1, burst=10))
    async with running(writer):
        for number in range(100):
            writer.emit(dataclasses.replace(HIT, message=str(number)))
        await asyncio.sleep(5)
        for number in range(100, 200):
            writer.emit(dataclasses.replace(HIT, message=str(number)))
        await asyncio.sleep(1)

    assert len(api.all(rest_client.EVENTS)) == 15
    assert dropped("too_many") - before == 185


async def test_the_queue_is_bounded_while_the_api_is_away(api) -> None:
    before = dropped("queue_full")
    api.down = True
    writer = event_writer.EventWriter(api, event_writer.Limits(burst=1000, queue=20))
    async with running(writer):
        await asyncio.sleep(0.1)
        for number in range(50):
            writer.emit(dataclasses.replace(HIT, message=str(number)))

    assert dropped("queue_full") - before == 30
