"""The store as the controller reads it: what hangs is killed, what is damaged is a miss."""

import dataclasses
import os
import pathlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from agent.control.reconcile import cache_store
from agent.kits.processes import workers
from agent.model import caches, records, reports
from agent.store import layout, signatures
from agent.store.publish import writer

DIGEST = f"sha256:{'1' * 64}"


def record(cache_id: str) -> records.CacheRecord:
    image = records.CachedImage(ref="docker.io/library/a:1", target=DIGEST, size=1, layers=[DIGEST])
    return records.CacheRecord(
        id=cache_id, name="a", images=[image], size=1, capacity=1, created="2026-01-01T00:00:00Z"
    )


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    writer.create(tmp_path / "store")
    return layout.Layout(tmp_path / "store")


@pytest.fixture
async def store(place: layout.Layout) -> AsyncIterator[cache_store.CacheStore]:
    async with workers.Pool(
        "agent.control.reconcile.cache_store", name="a test", size=1, packages=True
    ) as pool:
        yield cache_store.CacheStore(str(place.root), pool, deadline=10)


async def look(store: cache_store.CacheStore, cache_id: str, job: str = "") -> cache_store.Content:
    return await store.look(cache_id, job=job, detail=True)


async def test_a_store_that_hangs_costs_a_worker_and_no_more(place: layout.Layout) -> None:
    """A pipe that nobody writes to: opening it blocks in the kernel, as files of a dead server."""
    writer.publish_cache(place, record("imc-alive"))
    os.mkfifo(place.cache_record("imc-hangs"))
    async with workers.Pool(
        "agent.control.reconcile.cache_store", name="a test", size=1, packages=True
    ) as pool:
        hasty = cache_store.CacheStore(str(place.root), pool, deadline=3)

        with pytest.raises(cache_store.StoreAway, match="did not answer within 3 s"):
            await look(hasty, "imc-hangs")
        # A new worker has to start first, and Python takes its time on a loaded machine.
        patient = cache_store.CacheStore(str(place.root), pool, deadline=60)
        assert (await look(patient, "imc-alive")).stored is not None


async def test_what_there_is_of_a_cache(
    place: layout.Layout, store: cache_store.CacheStore
) -> None:
    assert await look(store, "imc-aaa") == cache_store.Content(None, None)

    writer.publish_cache(place, record("imc-aaa"))
    found = (await look(store, "imc-aaa")).stored
    assert (found.record, found.platforms) == (record("imc-aaa"), ())
    await store.remove("imc-aaa")
    assert await look(store, "imc-aaa") == cache_store.Content(None, None)
    assert await store.is_going("imc-aaa")
    assert not await store.is_going("imc-bbb")
    await store.remove("imc-aaa")
    assert list(place.cache_records.iterdir()) == []


async def test_what_nodes_are_to_know_is_written_beside_the_signatures(
    place: layout.Layout, store: cache_store.CacheStore
) -> None:
    cold = caches.CacheRequest(name="a", images=())
    warm = dataclasses.replace(cold, keep_warm=True, node_selector=(("pool", "gpu"),), local="off")
    signature = records.Signature(key="k", value="dg==")
    signed = msgspec.structs.replace(record(cold.cache_id), signatures=[signature])
    writer.write_record(place, place.cache_record(cold.cache_id), signed)

    tag = records.MovedTag(
        ref="docker.io/library/nginx:1",
        target=f"sha256:{'2' * 64}",
        noticed="2026-07-01T12:00:00Z",
        policy="never",
        withheld=True,
    )
    for request, moved in ((warm, [tag]), (cold, [])):
        await store.adjust(request, moved)
        found = (await look(store, cold.cache_id)).stored
        assert found is not None
        assert found.record == msgspec.structs.replace(
            signed,
            keep_warm=request.keep_warm,
            node_selector=dict(request.node_selector),
            local=request.local or "",
            moved=moved,
        )
        assert signatures.of_cache(found.record).lines == signatures.of_cache(signed).lines


async def test_a_cache_that_is_gone_is_not_adjusted(
    place: layout.Layout, store: cache_store.CacheStore
) -> None:
    await store.adjust(caches.CacheRequest(name="a", images=(), keep_warm=True), ())

    assert list(place.cache_records.iterdir()) == []


async def test_a_damaged_record_is_a_miss(
    place: layout.Layout, store: cache_store.CacheStore
) -> None:
    place.cache_record("imc-aaa").write_text("{")

    assert (await look(store, "imc-aaa")).stored is None
    await store.remove("imc-aaa")
    assert not place.cache_record("imc-aaa").exists()


async def test_a_report_from_its_beginning_to_its_end(
    place: layout.Layout, store: cache_store.CacheStore
) -> None:
    await store.begin("job-1")
    assert (await look(store, "imc-aaa", "job-1")).report == reports.Report()
    written = reports.Report(percent=3)
    place.build_report("job-1").write_bytes(reports.encode(written))
    await store.begin("job-1")  # of a controller that was started again
    assert (await look(store, "imc-aaa", "job-1")).report == written

    place.build_report("job-1").write_bytes(b"{")
    assert (await look(store, "imc-aaa", "job-1")).report is None
    await store.settle("job-1")
    await store.settle("job-1")
    assert not place.build_report("job-1").exists()


async def test_a_folder_that_is_no_store_says_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    async with workers.Pool(
        "agent.control.reconcile.cache_store", name="a test", size=1, packages=True
    ) as pool:
        store = cache_store.CacheStore(str(tmp_path / "other"), pool)

        with pytest.raises(cache_store.StoreAway, match="not empty"):
            await store.prepare("lz4", "uid")
        with pytest.raises(cache_store.StoreAway, match=r"store\.json"):
            await store.probe()
