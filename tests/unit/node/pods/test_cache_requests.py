"""Each cache is created once by many nodes, and its use is written rarely. In fake time."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator

import pytest

from agent.clients.kube import refusals, rest_client
from agent.matching import decisions
from agent.model import cache_manifest, caches, images, keys, pods
from agent.node.pods import cache_requests
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
POD = pods.Pod(namespace="team", name="pod", uid="u-1", node="n-1")
EVENT = decisions.Event(reason="ImageCacheAutoCreated", message="Image cache is auto created")


def wish(*names: str, secrets: tuple[caches.SecretName, ...] = ()) -> decisions.AutoCreate:
    references = tuple(images.parse_reference(name) for name in names or ("example.com/app:1",))
    cache_id = caches.id_of_images(references, pull_secrets=secrets)
    return decisions.AutoCreate(
        request=caches.CacheRequest(
            name=caches.name_of_auto_cache(cache_id),
            images=references,
            dialect=caches.Dialect.ALIBABA,
            pull_secrets=secrets,
            size_gib=caches.SIZE_AUTO,
            auto=True,
        ),
        cache_id=cache_id,
        event=EVENT,
    )


class Setting:
    def __init__(self, api: fakes.Api | None = None) -> None:
        self.api = api or fakes.Api()
        self.emitted: list[str] = []
        self.creator = cache_requests.Creator(self.api, self, now=self.now)

    def now(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=asyncio.get_running_loop().time())

    def emit(self, pod: pods.Pod, event: decisions.Event) -> None:
        self.emitted.append(f"{pod.name} {event.reason}")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.creator.run()),
                group.create_task(self.creator.run_matched()),
            ]
            yield
            for task in tasks:
                task.cancel()


@pytest.fixture
def given() -> Setting:
    return Setting()


async def test_the_object_says_what_to_build_and_for_whom(given) -> None:
    secrets = (caches.SecretName("team", "pull"),)
    wanted = wish("example.com/b:1", "example.com/a:1", secrets=secrets)
    async with given.running():
        given.creator.create(POD, wanted)
        await asyncio.sleep(1)

    (made,) = given.api.all(rest_client.IMAGE_CACHES)
    assert made["metadata"]["name"] == wanted.request.name
    assert made["metadata"]["labels"] == {"uimgacc.io/auto-created": "true"}
    assert made["metadata"]["annotations"] == {
        "uimgacc.io/created-for": "team/pod",
        "uimgacc.io/created-for-uid": "u-1",
        "uimgacc.io/created-on": "n-1",
        "uimgacc.io/dialect": "alibaba",
    }
    assert made["spec"] == {
        "images": ["example.com/b:1", "example.com/a:1"],
        "imageCacheSize": 30,
        "imagePullSecrets": ["team/pull"],
    }


async def test_what_is_created_is_read_back_as_the_same_cache(given) -> None:
    wanted = wish("example.com/b:1", secrets=(caches.SecretName("team", "pull"),))
    manifest = cache_requests.manifest_of(wanted.request, POD)
    read = cache_manifest.read(manifest)

    assert caches.is_auto_cache(wanted.cache_id, read.name)
    assert dataclasses.replace(read, auto=True).cache_id == wanted.cache_id


async def test_many_nodes_create_one_cache_and_each_emits_its_pods_event() -> None:
    api = fakes.Api()
    nodes = [Setting(api) for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
            node.creator.create(POD, wish())
        await asyncio.sleep(1)

    assert len(api.all(rest_client.IMAGE_CACHES)) == 1
    assert [node.emitted for node in nodes] == [["pod ImageCacheAutoCreated"]] * 5


async def test_a_hundred_pods_of_a_node_ask_once_in_a_while(given) -> None:
    async with given.running():
        for number in range(50):
            given.creator.create(dataclasses.replace(POD, name=f"p{number}"), wish())
        await asyncio.sleep(1)
        given.creator.create(dataclasses.replace(POD, name="later"), wish())
        await asyncio.sleep(1)
        first = len(given.api.log)
        await asyncio.sleep(900)
        given.creator.create(POD, wish())
        await asyncio.sleep(1)

    assert (first, len(given.api.log)) == (1, 2)
    assert "later ImageCacheAutoCreated" in given.emitted


async def test_no_event_is_emitted_before_the_cache_is_created(given) -> None:
    given.api.down = True
    async with given.running():
        given.creator.create(POD, wish())
        await asyncio.sleep(120)
        before = list(given.emitted)
        given.api.down = False
        await asyncio.sleep(60)

    assert (before, given.emitted) == ([], ["pod ImageCacheAutoCreated"])


@pytest.mark.parametrize(
    "refused",
    [
        refusals.NotFound(fakes.refusal(404, "NotFound")),
        refusals.Invalid(fakes.refusal(422, "Invalid")),
        refusals.Denied(fakes.refusal(403, "Forbidden")),
    ],
)
async def test_a_refusal_holds_up_no_other_wish_and_may_be_wished_again(given, refused) -> None:
    given.api.failures = [refused]
    async with given.running():
        given.creator.create(POD, wish("example.com/x:1"))
        given.creator.create(POD, wish("example.com/y:1"))
        await asyncio.sleep(1)
        first = len(given.api.all(rest_client.IMAGE_CACHES))
        given.creator.create(POD, wish("example.com/x:1"))
        await asyncio.sleep(1)

    assert (first, len(given.api.all(rest_client.IMAGE_CACHES))) == (1, 2)


def put_cache(api: fakes.Api, **annotations: str) -> None:
    api.put(rest_client.IMAGE_CACHES, {"metadata": {"name": "auto-x", "annotations": annotations}})


def last_matched(api: fakes.Api) -> str:
    (found,) = api.all(rest_client.IMAGE_CACHES)
    return found["metadata"]["annotations"].get(keys.LAST_MATCHED, "")


async def test_a_fleet_writes_the_last_match_once(given) -> None:
    put_cache(given.api)
    nodes = [Setting(given.api) for _ in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        for _ in range(10):
            for node in nodes:
                node.creator.matched("uimgacc.io", "auto-x")
            await asyncio.sleep(60)

    patches = [entry for entry in given.api.log if entry[0] == "patch"]
    assert len(patches) == 1
    assert len(given.api.log) <= 21
    assert last_matched(given.api).startswith("2026-01-01T00:0")


async def test_what_another_node_writes_at_the_same_time_stands(given) -> None:
    put_cache(given.api)

    def be_faster(_patch) -> None:
        found = given.api.objects["imagecaches", "", "auto-x"]
        found["metadata"]["annotations"][keys.LAST_MATCHED] = "2026-01-01T00:00:00Z"
        found["metadata"]["resourceVersion"] = "2"

    given.api.before_patch = be_faster
    async with given.running():
        given.creator.matched("uimgacc.io", "auto-x")
        await asyncio.sleep(400)

    assert last_matched(given.api) == "2026-01-01T00:00:00Z"


async def test_a_match_is_written_again_after_hours(given) -> None:
    put_cache(given.api)
    async with given.running():
        for _ in range(13):
            given.creator.matched("uimgacc.io", "auto-x")
            await asyncio.sleep(3600)

    assert len([entry for entry in given.api.log if entry[0] == "patch"]) == 3
    assert last_matched(given.api).startswith("2026-01-01T12:")


@pytest.mark.parametrize(
    "damaged",
    ["", "yesterday", "2025-12-01T00:00:00", "2025-12-01", "1970-01-01T00:00:09Z"],
)
async def test_a_time_that_is_old_or_none_is_written_anew(given, damaged) -> None:
    put_cache(given.api, **{keys.LAST_MATCHED: damaged})
    async with given.running():
        given.creator.matched("uimgacc.io", "auto-x")
        await asyncio.sleep(400)

    assert last_matched(given.api).startswith("2026-01-01T00:0")


async def test_a_time_of_the_future_is_the_controllers_to_take_back(given) -> None:
    put_cache(given.api, **{keys.LAST_MATCHED: "2036-01-01T00:00:00Z"})
    async with given.running():
        given.creator.matched("uimgacc.io", "auto-x")
        await asyncio.sleep(400)

    assert last_matched(given.api) == "2036-01-01T00:00:00Z"


async def test_each_dialects_own_object_is_updated() -> None:
    asked = []

    class Api(fakes.Api):
        async def get(self, resource, name, **more):
            asked.append((resource.group, name))
            return await super().get(resource, name, **more)

    given = Setting(Api())
    async with given.running():
        for group in caches.GROUPS:
            given.creator.matched(group, "tools")
        await asyncio.sleep(400)

    assert sorted(asked) == sorted((group, "tools") for group in caches.GROUPS)


async def test_a_cache_that_is_gone_is_no_problem(given) -> None:
    async with given.running():
        given.creator.matched("uimgacc.io", "auto-x")
        await asyncio.sleep(400)

    assert [entry[0] for entry in given.api.log] == ["get"]
