"""A mirror that follows its store, and what is served by it."""

import asyncio
import os
import pathlib
import shutil
from typing import Any

import msgspec
import pytest

from agent import errors
from agent.kits import files
from agent.local import mirror
from agent.model import digests, images, records
from agent.node.images import registration_plan
from agent.node.near import near_catalog, probed_store, record_mirror
from agent.store import layout, signing_keys, trusted_keys
from agent.store.lookup import catalog, file_reads, local_pool
from agent.store.publish import writer
from tests.unit.store import making, signing

PLATFORM = images.parse_platform("linux/amd64")
OTHER = "registry.io/team/other:1"
REFERENCE = images.parse_reference(making.REF)


class Membership:
    def __init__(self) -> None:
        self.cluster: str | None = ""


class Pool(local_pool.LocalPool):
    """The store's workers; `problem` is why it does not answer."""

    def __init__(self) -> None:
        super().__init__(file_reads.OPERATIONS)
        self.problem = ""
        self.read: list[str] = []

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        if self.problem:
            raise errors.TemporaryError(self.problem)
        if operation == "read_all":
            self.read += arguments[0]
        return await super().call(operation, *arguments, deadline=deadline)


class Node:
    """A node with a mirror of a store."""

    def __init__(self, folder: pathlib.Path, keys: trusted_keys.Keys | None = None) -> None:
        self.root = str(folder)
        self.place = layout.Layout(folder / "store")
        self.pool, self.membership = Pool(), Membership()
        self.keys = keys or trusted_keys.Keys()
        self.store = catalog.Catalog(
            self.place, self.pool, keys=self.keys, membership=self.membership
        )
        self.mirror = record_mirror.RecordMirror(self.store, self, PLATFORM, interval=30)
        self.near = near_catalog.NearCatalog(self, PLATFORM, self.keys, self.membership)
        self.here = mirror.Mirror(folder / "local")

    async def serve(self, record: records.ImageRecord) -> None:
        self.mirror.served(record)
        await self.mirror.look()

    def copy_layers(self) -> None:
        shutil.copytree(self.place.layer_files, self.here.layout.layer_files, dirs_exist_ok=True)

    def change(self, path: pathlib.Path, kind: Any, **changes: object) -> None:
        record = msgspec.structs.replace(records.decode(path.read_bytes(), kind, ""), **changes)
        files.write(path, records.encode(record))


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    return making.store(tmp_path / "store")


@pytest.fixture
def image(place) -> records.ImageRecord:
    record = making.image(place, "a", "b")
    making.cache(place, "imc-one", record)
    making.cache(place, "imc-other", making.image(place, "c", ref=OTHER))
    return record


@pytest.fixture
def node(tmp_path, image) -> Node:
    return Node(tmp_path)


def chain_of(place: layout.Layout, *names: str) -> pathlib.Path:
    return place.chain_record(digests.chain_ids([making.digest(name) for name in names])[-1])


async def test_an_image_s_records_are_here_as_they_are_and_no_others(node, image) -> None:
    await node.serve(image)

    paths = [path for path in node.here.layout.root.rglob("*") if path.is_file()]
    names = sorted(str(path.relative_to(node.here.layout.root)) for path in paths)
    wanted = [
        node.place.store_record,
        node.place.image_record(REFERENCE),
        node.place.cache_record("imc-one"),
        *(node.place.layer_record(making.digest(name)) for name in "ab"),
        chain_of(node.place, "a"),
        chain_of(node.place, "a", "b"),
        *(node.place.blob(digests.sha256(data)) for data in making.blobs(making.REF)),
    ]
    assert names == sorted(str(path.relative_to(node.place.root)) for path in wanted)
    assert all(
        path.read_bytes() == (node.place.root / name).read_bytes()
        for path, name in zip(sorted(paths), names, strict=True)
    )


async def test_what_is_complete_is_served_while_the_store_is_away(node, image) -> None:
    await node.serve(image)
    before = await node.near.image(REFERENCE)
    node.copy_layers()
    node.pool.problem = "hangs"

    assert before is None
    assert await node.near.image(REFERENCE) == image
    assert [cache.id for cache in await node.near.caches()] == ["imc-one"]
    assert await node.near.blob(image.platforms[0].config) == making.blobs(making.REF)[2]


async def test_by_its_digest_too(node, image) -> None:
    await node.serve(image)
    node.copy_layers()

    reference = images.parse_reference(f"{making.SOURCE}@{image.target}")
    assert await node.near.image(reference) == image


async def test_blobs_are_the_store_s_where_they_are_not_here(node, image) -> None:
    blobs = near_catalog.Blobs(node.store, node.near)

    assert await blobs.blob(image.target) == making.blobs(making.REF)[0]


async def test_another_cluster_s_records_serve_nothing(node, image) -> None:
    await node.serve(image)
    node.copy_layers()
    node.change(node.here.layout.store_record, records.StoreRecord, cluster="another")

    with pytest.raises(errors.AgentError):
        await node.near.caches()
    with pytest.raises(errors.AgentError):
        await node.near.image(REFERENCE)


@pytest.mark.parametrize("is_probed", [True, False])
async def test_a_store_that_others_have_taken_over_serves_nothing_from_here(
    node, image, is_probed
) -> None:
    node.membership.cluster = "own"
    node.change(node.place.store_record, records.StoreRecord, cluster="own")
    await node.serve(image)
    node.copy_layers()
    assert len(await node.near.caches()) == 1
    node.change(node.place.store_record, records.StoreRecord, cluster="another")
    if is_probed:
        with pytest.raises(errors.AgentError):
            await node.store.store()
    with pytest.raises(errors.AgentError):
        await node.mirror.look()

    with pytest.raises(errors.AgentError):
        await node.near.caches()
    assert node.here.complete() == []
    assert node.here.layout.layer_record(making.digest("a")).exists()


async def test_nor_while_it_is_not_known_which_cluster_this_is(node, image) -> None:
    node.membership.cluster = "own"
    node.change(node.place.store_record, records.StoreRecord, cluster="own")
    await node.serve(image)
    node.membership.cluster = None

    with pytest.raises(catalog.StoreUnavailable):
        await node.near.caches()


async def test_a_signature_that_counts_no_more_serves_nothing(tmp_path, image) -> None:
    key = signing_keys.generate()
    place = layout.Layout(tmp_path / "store")
    signing.sign(place, key)
    node = Node(tmp_path, signing.keys(place, key, tmp_path / "keys"))
    await node.serve(image)
    node.copy_layers()
    signed = await node.near.image(REFERENCE), await node.near.caches()
    others = signing.keys(place, signing_keys.generate(), tmp_path / "other-keys")
    distrusting = near_catalog.NearCatalog(node, PLATFORM, others, node.membership)

    assert signed[0] is not None
    assert [cache.id for cache in signed[1]] == ["imc-one"]
    assert await distrusting.image(REFERENCE) is None
    assert await distrusting.caches() == []


async def test_what_the_store_deletes_goes_at_the_next_look(node, image) -> None:
    await node.serve(image)
    for path in (
        node.place.cache_record("imc-one"),
        node.place.image_record(REFERENCE),
        chain_of(node.place, "a", "b"),
    ):
        path.unlink()
    node.place.generation_record.write_bytes(records.encode(records.GenerationRecord(generation=1)))
    await node.mirror.look()

    assert node.here.images() == []
    assert not node.here.layout.cache_record("imc-one").exists()
    assert not chain_of(node.here.layout, "a", "b").exists()


async def test_so_does_a_cache_s_permission_without_a_deletion_of_layers(node, image) -> None:
    await node.serve(image)
    node.change(node.place.cache_record("imc-one"), records.CacheRecord, namespaces=["team"])
    await node.mirror.look()

    (cache,) = await node.near.caches()
    assert cache.namespaces == ["team"]


async def test_all_layers_have_their_turn_within_minutes(node, image) -> None:
    await node.serve(image)
    for name in "ab":
        node.change(node.place.layer_record(making.digest(name)), records.LayerRecord, damaged="x")
    for _ in range(6):
        await node.mirror.look()

    for name in "ab":
        path = node.here.layout.layer_record(making.digest(name))
        assert records.decode(path.read_bytes(), records.LayerRecord, "").damaged == "x"


async def read_at(node: Node) -> int:
    """How many records the next look reads."""
    node.pool.read.clear()
    await node.mirror.look()
    return len([path for path in node.pool.read if not path.endswith("store.json")])


async def test_a_quiet_store_is_read_a_little_at_a_time(node, image) -> None:
    await node.serve(image)
    await node.mirror.look()

    assert await read_at(node) == 1
    node.change(node.place.cache_record("imc-other"), records.CacheRecord, namespaces=["team"])
    assert await read_at(node) == 3  # the image, its cache, and one of four


async def test_with_very_many_records_no_more_are_read(node, image, monkeypatch) -> None:
    monkeypatch.setattr(record_mirror, "_AT_ONCE", 2)
    node.mirror._interval = record_mirror._ALL_SECONDS
    await node.serve(image)
    await node.mirror.look()

    assert await read_at(node) == 2


async def test_an_image_with_a_damaged_record_keeps_no_other_out(node, image) -> None:
    other = making.image(node.place, "c", ref=OTHER)
    chain_of(node.place, "a").write_bytes(b"torn")
    node.mirror.served(image)
    await node.serve(other)

    assert len(node.here.images()) == 1
    assert not node.mirror._pending


@pytest.mark.parametrize("away", ["hangs", "unmounted", "another in its place"])
async def test_while_the_store_is_away_nothing_changes(node, image, away) -> None:
    await node.serve(image)
    before = sorted(node.here.layout.root.rglob("*"))
    if away == "hangs":
        node.pool.problem = away
    else:
        node.place.root.rename(node.place.root.with_name("elsewhere"))
        node.place.root.mkdir()
    if away == "another in its place":
        node.place.store_record.write_bytes(b"torn")
    with pytest.raises(errors.AgentError):
        await node.mirror.look()

    assert sorted(node.here.layout.root.rglob("*")) == before


async def test_an_image_that_was_served_meanwhile_is_mirrored_afterwards(node, image) -> None:
    node.pool.problem = "hangs"
    with pytest.raises(errors.AgentError):
        await node.serve(image)
    node.pool.problem = ""
    await node.mirror.look()

    assert len(node.here.images()) == 1


async def test_an_image_that_is_deleted_meanwhile_is_not(node, image) -> None:
    chain_of(node.place, "a").unlink()
    await node.serve(image)

    assert node.here.images() == []


async def test_an_image_is_not_read_again_with_each_pod(node, image) -> None:
    await node.serve(image)
    node.mirror.served(image)

    assert not node.mirror._pending


async def test_a_warm_image_is_used_and_asks_nothing_of_a_quiet_store(
    node, image, monkeypatch
) -> None:
    """It is made ready again every few minutes."""
    monkeypatch.setattr(record_mirror, "_AGAIN_SECONDS", 0.0)
    await node.serve(image)
    await node.mirror.look()
    path = node.here.layout.image_record(REFERENCE)
    os.utime(path, (0, 0))
    node.mirror.served(image)

    assert await read_at(node) == 1
    assert path.stat().st_mtime > 0


async def test_of_another_platform_s_image_there_is_nothing(node, image, tmp_path) -> None:
    other = record_mirror.RecordMirror(
        node.store, node, images.parse_platform("linux/arm64"), interval=30
    )
    other.served(image)
    await other.look()

    assert node.here.images() == []


async def test_the_service_goes_on_after_a_failure(node, image, monkeypatch) -> None:
    monkeypatch.setattr(record_mirror, "_CALM_SECONDS", 0.0)
    node.root = ""
    task = asyncio.create_task(node.mirror.run())
    await asyncio.sleep(0)
    assert node.mirror.problem == "the snapshotter is not known yet"
    node.root = str(node.here.layout.root.parent)
    node.mirror.served(image)
    while not node.here.images():
        await asyncio.sleep(0.01)
    task.cancel()


async def test_those_who_count_are_called_and_so_is_the_mirror(node, image) -> None:
    counted = []

    class Ledger:
        async def registered(self, record, done, *, seconds: float) -> None:
            counted.append(record.ref)

        def laid_out(self, record, done, *, seconds: float) -> None:
            counted.append(record.ref)

    noted = record_mirror.NotedImages(Ledger(), node.mirror)
    done = registration_plan.Registered()
    await noted.registered(image, done, seconds=1)
    assert node.mirror._pending.pop(image.ref)
    noted.laid_out(image, done, seconds=1)
    assert node.mirror._pending
    assert counted == [image.ref, image.ref]


async def test_the_probe_counts_what_is_complete(node, image) -> None:
    await node.serve(image)
    none = probed_store.ProbedStore(node.store, has_copies=True)
    empty = await none.local_images(node.root)
    node.copy_layers()

    assert empty == 0
    assert await none.local_images(node.root) == 0  # it has just looked
    fresh = probed_store.ProbedStore(node.store, has_copies=True)
    assert await fresh.local_images(node.root) == 1
    off = probed_store.ProbedStore(node.store, has_copies=False)
    assert await off.local_images(node.root) == 0


async def test_a_count_that_takes_long_is_seldom_made(node, image, monkeypatch) -> None:
    monkeypatch.setattr(probed_store, "_REST", 1e9)
    await node.serve(image)
    probed = probed_store.ProbedStore(node.store, has_copies=True)
    await probed.local_images(node.root)

    assert probed._count_at > asyncio.get_running_loop().time() + probed_store._LATER / 2


async def test_the_catalog_says_whether_it_had_an_answer(node) -> None:
    node.pool.problem = "hangs"
    with pytest.raises(errors.TemporaryError):
        await node.store.store()
    silent = node.store.is_silent
    node.pool.problem = ""
    await node.store.store()

    assert (silent, node.store.is_silent) == (True, False)


async def test_of_the_caches_that_have_an_image_few_are_mirrored(node, place, image) -> None:
    """Those that serve all namespaces first."""
    record = records.decode(place.cache_record("imc-one").read_bytes(), records.CacheRecord, "")
    for number in range(40):
        team = {"id": f"imc-a{number:02}", "name": f"a{number:02}", "namespaces": ["team"]}
        writer.publish_cache(place, msgspec.structs.replace(record, **team))

    await node.serve(image)

    mirrored = sorted(path.stem for path in node.here.layout.cache_records.iterdir())
    assert "imc-one" in mirrored
    assert len(mirrored) == 16
