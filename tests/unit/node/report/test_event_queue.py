"""Events reach the API in the end, or are dropped and counted; nobody waits. In fake time."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator

import pytest

from agent import errors, metrics
from agent.clients.kube import refusals, rest_client
from agent.matching import decisions
from agent.model import pods
from agent.node.report import event_queue
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
HIT = decisions.Event(reason="SuccessfulHitImageCache", message="Successfully hit image cache imc.")
POD = pods.Pod(namespace="team", name="pod", uid="u-1")


def pod_of(annotation: str, **changes) -> pods.Pod:
    return dataclasses.replace(POD, annotations={annotation: "true"}, **changes)


def dropped(reason: str) -> float:
    value = metrics.AGENT.get_sample_value("uimgacc_events_dropped_total", {"reason": reason})
    assert value is not None
    return value


@pytest.fixture
def api() -> fakes.Api:
    return fakes.Api()


@contextlib.asynccontextmanager
async def running(poster: event_queue.Poster) -> AsyncIterator[None]:
    task = asyncio.create_task(poster.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_pods_event_is_where_kubectl_describe_looks(api) -> None:
    poster = event_queue.Poster(api, "node-1")
    async with running(poster):
        poster.emit(POD, HIT)
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


@pytest.mark.parametrize(
    ("annotation", "component", "message"),
    [
        ("uimgacc.io/image-cache", "uimgacc", "Successfully hit image cache imc."),
        (
            "k8s.aliyun.com/eci-image-cache",
            "EciService",
            "[eci.imagecache]Successfully hit image cache imc.",
        ),
        (
            "eks.tke.cloud.tencent.com/use-image-cache",
            "eklet",
            "Successfully hit image cache imc.",
        ),
    ],
)
def test_the_source_is_the_one_that_users_of_the_cloud_know(annotation, component, message) -> None:
    event = event_queue.pod_event(pod_of(annotation), HIT, "node-1", NOW)

    assert event["source"] == {"component": component, "host": "node-1"}
    assert event["reportingComponent"] == "uimgacc"
    assert event["message"] == message


def test_an_event_of_the_node_is_where_kubectl_describe_looks() -> None:
    lost = decisions.Event(reason="ImageAccelerationLost", message="m", warning=True)
    event = event_queue.node_event("node-1", "u-9", lost, NOW)

    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-1",
        "uid": "u-9",
    }
    assert (event["type"], event["firstTimestamp"]) == ("Warning", "2026-01-02T03:04:05Z")


def test_names_stay_within_what_the_api_takes() -> None:
    pod = dataclasses.replace(POD, name="a" * 199 + "." + "b" * 50)
    event = event_queue.pod_event(pod, dataclasses.replace(HIT, message="ü" * 2000), "n", NOW)

    assert len(event["metadata"]["name"]) <= 253
    assert ".." not in event["metadata"]["name"]
    assert len(event["message"].encode()) <= 1024


async def test_the_same_event_told_again_by_a_new_agent_is_one(api) -> None:
    for _ in range(2):
        poster = event_queue.Poster(api, "node-1")
        async with running(poster):
            poster.emit(POD, HIT)
            await asyncio.sleep(1)

    assert len(api.all(rest_client.EVENTS)) == 1
    assert len(api.log) == 2


async def test_events_wait_for_the_api(api) -> None:
    poster = event_queue.Poster(api, "n")
    api.down = True
    async with running(poster):
        poster.emit(POD, HIT)
        await asyncio.sleep(300)
        api.down = False
        await asyncio.sleep(60)

    assert len(api.all(rest_client.EVENTS)) == 1


async def test_an_event_that_is_too_old_is_dropped_and_the_next_goes_out(api) -> None:
    before = dropped("api_unavailable")
    poster = event_queue.Poster(api, "n")
    api.down = True
    async with running(poster):
        poster.emit(POD, HIT)
        await asyncio.sleep(700)
        api.down = False
        poster.emit(POD, dataclasses.replace(HIT, message="later"))
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
    poster = event_queue.Poster(api, "n")
    async with running(poster):
        poster.emit(POD, HIT)
        poster.emit(POD, dataclasses.replace(HIT, message="next"))
        await asyncio.sleep(0.1)

    assert dropped("refused") - before == 1
    assert [event["message"] for event in api.all(rest_client.EVENTS)] == ["next"]


async def test_a_token_that_has_expired_is_waited_for(api) -> None:
    api.failures = [refusals.Denied(fakes.refusal(401, "Unauthorized"))]
    poster = event_queue.Poster(api, "n")
    async with running(poster):
        poster.emit(POD, HIT)
        await asyncio.sleep(5)

    assert len(api.all(rest_client.EVENTS)) == 1


async def test_what_is_asked_for_by_retry_after_is_waited(api) -> None:
    api.failures = [errors.TemporaryError("busy", delay=30.0)]
    poster = event_queue.Poster(api, "n")
    async with running(poster):
        poster.emit(POD, HIT)
        await asyncio.sleep(29)
        early = len(api.all(rest_client.EVENTS))
        await asyncio.sleep(2)

    assert (early, len(api.all(rest_client.EVENTS))) == (0, 1)


async def test_a_storm_is_cut_to_burst_and_rate(api) -> None:
    before = dropped("too_many")
    poster = event_queue.Poster(api, "n", rate=1, burst=10)
    async with running(poster):
        for number in range(100):
            poster.emit(POD, dataclasses.replace(HIT, message=str(number)))
        await asyncio.sleep(5)
        for number in range(100, 200):
            poster.emit(POD, dataclasses.replace(HIT, message=str(number)))
        await asyncio.sleep(1)

    assert len(api.all(rest_client.EVENTS)) == 15
    assert dropped("too_many") - before == 185


async def test_the_queue_is_bounded_while_the_api_is_away(api) -> None:
    before = dropped("queue_full")
    api.down = True
    poster = event_queue.Poster(api, "n", burst=1000, queue=20)
    async with running(poster):
        await asyncio.sleep(0.1)
        for number in range(50):
            poster.emit(POD, dataclasses.replace(HIT, message=str(number)))

    assert dropped("queue_full") - before == 30
