"""The leader's lists: what watches have missed, and automatic caches beyond their number."""

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.decisions import outcome, retention
from agent.control.gc import node_list
from agent.control.reconcile import cache_upkeep, cluster, observed, work_queue
from agent.model import caches, images, keys

pytestmark = pytest.mark.looptime

GROUP = "uimgacc.io"
NOW = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)


class Client:
    """Lists of what there is; notes what is deleted."""

    def __init__(self) -> None:
        self.there: dict[str, list[dict[str, Any]]] = {}
        self.deleted: list[str] = []

    async def pages(
        self, resource: rest_client.Resource, **_: Any
    ) -> AsyncIterator[rest_client.Page]:
        found = (
            self.there.get(resource.plural, []) if resource.group in ("", "batch", GROUP) else []
        )
        yield rest_client.Page(raw=[json.dumps(each).encode() for each in found], version="1")

    async def patch(
        self, resource: rest_client.Resource, name: str, body: Any, **_: Any
    ) -> dict[str, Any]:
        (found,) = [
            each for each in self.there[resource.plural] if each["metadata"]["name"] == name
        ]
        found["metadata"]["annotations"] |= body["metadata"]["annotations"]
        found["metadata"]["resourceVersion"] = "2"
        return found

    async def delete(self, resource: rest_client.Resource, name: str, **_: Any) -> None:
        self.deleted.append(f"{resource.plural}/{name}")


def automatic(
    tag: str, matched: str = "", *, namespace: str = "", failed: bool = False
) -> dict[str, Any]:
    reference = images.parse_reference(f"r.io/app:{tag}")
    annotations = {keys.LAST_MATCHED: matched} if matched else {}
    annotations |= {keys.CREATED_FOR: f"{namespace}/pod"} if namespace else {}
    return {
        "status": {"phase": "Failed"} if failed else {},
        "apiVersion": f"{GROUP}/v1",
        "metadata": {
            "name": caches.name_of_auto_cache(caches.id_of_images([reference])),
            "uid": tag,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {keys.AUTO_CREATED: "true"},
            "annotations": annotations,
        },
        "kind": "ImageCache",
        "spec": {"images": [str(reference)]},
    }


def job(name: str, cache: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "resourceVersion": "1",
            "labels": {keys.JOB_CACHE_ID: cache_object.parse(cache).cache_id},
            "annotations": {keys.JOB_OWNER: f"{GROUP}/{cache['metadata']['name']}"},
        },
        "spec": {},
    }


class Leader:
    """A leader that runs; `stepped` are the names of the objects whose steps were done."""

    def __init__(self, client: Client, *, auto_caches: int = 100) -> None:
        any_client: Any = client
        self.queue: work_queue.Queue[cache_object.Key] = work_queue.Queue()
        self.view = observed.Observed(self.queue, parallel=4)
        self.stepped: list[str] = []
        self.emitted: list[tuple[str, outcome.Event]] = []
        self.upkeep = cache_upkeep.Upkeep(
            cluster.Cluster(any_client, namespace="system"),
            self.view,
            node_list.Nodes(any_client, self.view),
            self,
            retention.Rules(auto_caches=auto_caches),
            clock=lambda: NOW,
        )

    def emit(self, cache: cache_object.CacheObject, event: outcome.Event) -> None:
        self.emitted.append((cache.key.name, event))

    async def step(self, key: cache_object.Key) -> float | None:
        self.stepped.append(key.name)
        return None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.upkeep.prime()
        async with asyncio.TaskGroup() as group:
            services = [self.upkeep.run(), self.upkeep.run_counts(), self.queue.run(self.step)]
            tasks = [group.create_task(one) for one in services]
            yield
            for task in tasks:
                task.cancel()


def name_of(cache: dict[str, Any]) -> str:
    return str(cache["metadata"]["name"])


async def test_of_too_many_automatic_caches_those_not_used_for_the_longest_are_deleted() -> None:
    made = [
        automatic("never"),
        automatic("lately", "2026-03-01T00:00:00Z"),
        automatic("once", "2026-02-01T00:00:00Z"),
    ]
    client = Client()
    client.there["imagecaches"] = made
    one = Leader(client, auto_caches=1)
    async with one.running():
        for each in made:
            one.view.deliver("imagecaches", "ADDED", each)
        await asyncio.sleep(61)

        # Each hangs by its finalizer: no second event.
        await asyncio.sleep(60)

    gone = [name_of(made[0]), name_of(made[2])]
    assert client.deleted == [f"imagecaches/{name}" for name in gone] * 2
    assert [(name, event.reason) for name, event in one.emitted] == [
        (each, "Evicted") for each in gone
    ]
    assert "more than 1 automatic caches" in one.emitted[0][1].message
    assert one.emitted[0][1].message.endswith("never used.")
    assert one.emitted[1][1].message.endswith("last used at 2026-02-01 00:00 UTC.")


async def evicted(made: list[dict[str, Any]], *, auto_caches: int) -> list[str]:
    """The tags of the caches that are deleted, in their order."""
    client = Client()
    client.there["imagecaches"] = made
    one = Leader(client, auto_caches=auto_caches)
    async with one.running():
        for each in made:
            one.view.deliver("imagecaches", "ADDED", each)
        await asyncio.sleep(61)
    tags = {name_of(each): each["metadata"]["uid"] for each in made}
    return [tags[name.partition("/")[2]] for name in client.deleted]


async def test_a_namespace_does_not_evict_the_caches_of_another() -> None:
    """The attack: a hundred pods of one namespace, whose caches are all newer and in use."""
    good = automatic("good", "2026-01-02T00:00:00Z", namespace="good")
    bad = [automatic(f"b{at:03}", "2026-03-01T00:00:00Z", namespace="bad") for at in range(100)]

    gone = await evicted([good, *bad], auto_caches=99)

    assert len(gone) == 2
    assert "good" not in gone


async def test_what_could_not_be_built_is_evicted_first() -> None:
    failed = automatic("failed", namespace="small", failed=True)
    ready = [automatic(f"r{at}", namespace="large") for at in range(3)]

    assert await evicted([*ready, failed], auto_caches=3) == ["failed"]


async def test_a_time_of_the_future_is_taken_back() -> None:
    made = [automatic("evil", "2036-01-01T00:00:00Z"), automatic("soon", "2026-03-02T00:30:00Z")]
    client = Client()
    client.there["imagecaches"] = made
    one = Leader(client)
    async with one.running():
        for each in made:
            one.view.deliver("imagecaches", "ADDED", each)
        await asyncio.sleep(61)

    said = [each["metadata"]["annotations"][keys.LAST_MATCHED] for each in made]
    assert said == ["2026-03-02T00:00:00Z", "2026-03-02T00:30:00Z"]
    known = {cache.matched for cache in one.view.caches.values()}
    assert known == {NOW, NOW + datetime.timedelta(minutes=30)}


async def test_the_build_of_an_object_that_was_deleted_unseen_is_stopped() -> None:
    """A person removed the finalizer while no watch was open."""
    kept, gone = automatic("kept"), automatic("gone")
    client = Client()
    client.there = {"imagecaches": [kept, gone], "jobs": [job("j-1", kept), job("j-2", gone)]}
    one = Leader(client)
    async with one.running():
        for each in (kept, gone):
            one.view.deliver("imagecaches", "ADDED", each)
        client.there["imagecaches"] = [kept]
        await asyncio.sleep(61)

    assert [key.name for key in one.view.caches] == [name_of(kept)]
    assert client.deleted == ["jobs/j-2"]


async def test_a_deleted_job_makes_its_cache_due() -> None:
    cache = automatic("1")
    client = Client()
    client.there = {"imagecaches": [cache], "jobs": [job("j-1", cache)]}
    one = Leader(client)
    async with one.running():
        one.view.deliver("imagecaches", "ADDED", cache)
        await asyncio.sleep(1)
        one.stepped.clear()
        one.view.deliver("jobs", "DELETED", {"metadata": {"name": "j-1", "uid": "j-1"}})
        await asyncio.sleep(1)

    assert one.stepped == [name_of(cache)]
    assert one.view.building() == []


async def test_a_build_that_ended_unseen_frees_its_slot() -> None:
    cache = automatic("1")
    client = Client()
    client.there = {"imagecaches": [cache], "jobs": [job("j-1", cache)]}
    one = Leader(client)
    async with one.running():
        one.view.deliver("imagecaches", "ADDED", cache)
        await asyncio.sleep(1)
        one.view.note_waiting(cache_object.key_of(cache), waits=True)
        assert len(one.view.building()) == 1
        before = len(one.stepped)
        client.there["jobs"] = []
        await asyncio.sleep(61)
        assert one.view.building() == []

    assert len(one.stepped) > before, "a cache that waits for a slot has its step"
