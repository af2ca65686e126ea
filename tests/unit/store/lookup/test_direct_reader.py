"""The store as commands and the builder read it; the catalogue must find the same."""

import asyncio
import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kits.processes import workers
from agent.metrics import registries
from agent.model import images, records, reports
from agent.store import decoding
from agent.store.lookup import catalog, direct_reader, file_reads
from agent.store.publish import writer
from tests.unit.store import making


class DirectPool:
    """Runs the operations at once, in this process."""

    async def call(self, operation: str, *arguments, deadline: float):
        return file_reads.OPERATIONS[operation](*arguments)


@pytest.fixture
def place(tmp_path):
    return making.store(tmp_path)


def both(place):
    """Look something up both ways; the answers must be the same."""
    found = catalog.Catalog(place, DirectPool())

    def look(name: str, *arguments):
        direct = getattr(direct_reader.Reader(place), name)(*arguments)
        direct = list(direct) if name == "caches" else direct
        assert asyncio.run(getattr(found, name)(*arguments)) == direct
        return direct

    return look


@pytest.mark.parametrize("version", [":1", "@target", "@manifest", ":other@manifest"])
def test_an_image_is_found_by_tag_and_by_every_digest(place, version: str) -> None:
    record = making.image(place, "a", "b")
    version = version.replace("target", record.target)
    version = version.replace("manifest", record.platforms[0].manifest)

    assert both(place)("image", images.parse_reference(f"registry.io/team/app{version}")) == record


@pytest.mark.parametrize(
    "ref",
    ["registry.io/team/app:2", "registry.io/team:1", f"registry.io/team/app@{making.digest('x')}"],
)
def test_another_image_is_not_found(place, ref: str) -> None:
    making.image(place, "a")

    assert both(place)("image", images.parse_reference(ref)) is None


def test_layers_chains_blobs_and_caches_are_found(place) -> None:
    record = making.image(place, "a", "b")
    cache = making.cache(place, "imc-one", record)
    look = both(place)

    top = record.platforms[0].layers[1]
    assert look("layer", top.diff_id).diff_id == top.diff_id
    assert look("chain", top.chain_id).diff_id == top.diff_id
    assert look("chain", top.chain_id).parent == record.platforms[0].layers[0].chain_id
    assert look("blob", record.target) == b"index of registry.io/team/app:1"
    assert look("cache", "imc-one") == cache
    assert look("caches") == [cache]
    assert look("cache", "../../etc") is None
    assert look("layer", making.digest("none")) is None


def test_a_record_under_another_name_is_damage(place) -> None:
    making.image(place, "a", "b")
    first, second = making.digest("a"), making.digest("b")
    place.layer_record(first).write_bytes(place.layer_record(second).read_bytes())
    place.cache_record("imc-two").write_bytes(records.encode(making.cache(place, "imc-one")))
    look = both(place)

    assert look("layer", first) is None
    assert look("cache", "imc-two") is None
    assert [cache.id for cache in look("caches")] == ["imc-one"]


def counted(kind: str) -> float:
    """How many damaged records of a kind the agent's metrics have counted."""
    name, labels = "uimgacc_damaged_records_total", {"kind": kind}
    return registries.AGENT.get_sample_value(name, labels) or 0


def test_damage_is_a_miss_and_is_counted(place) -> None:
    record = making.image(place, "a")
    paths = {
        "image": (place.image_record(images.parse_reference(record.ref)),),
        "blob": (place.blob(record.target),),
    }
    for path in (*paths["image"], *paths["blob"]):
        path.write_bytes(b"{}")
    before = counted("image"), counted("blob")
    reader = catalog.Catalog(place, DirectPool())

    assert asyncio.run(reader.image(images.parse_reference(record.ref))) is None
    assert asyncio.run(reader.blob(record.target)) is None
    assert (counted("image"), counted("blob")) == (before[0] + 1, before[1] + 1)


def test_all_images_are_listed(place) -> None:
    refs = ["a.io/x:1", "a.io/x:2", "a.io/x/y:1", "b.io:5000/x:1"]
    for ref in refs:
        making.image(place, "a", ref=ref)

    assert sorted(record.ref for record in direct_reader.Reader(place).images()) == sorted(refs)


def test_no_store_says_so(tmp_path) -> None:
    with pytest.raises(decoding.NotAStore, match=r"no store\.json"):
        direct_reader.open_store(tmp_path)
    with pytest.raises(decoding.NotAStore):
        asyncio.run(catalog.Catalog(making.layout.Layout(tmp_path), DirectPool()).store())


class HungPool:
    """A store whose server does not answer."""

    async def call(self, operation: str, *arguments, deadline: float):
        raise workers.DeadlineError(operation, deadline)


class BrokenPool:
    """A store that answers with an I/O error."""

    async def call(self, operation: str, *arguments, deadline: float):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("pool", [HungPool(), BrokenPool()])
def test_a_store_that_does_not_answer_is_not_a_miss(place, pool) -> None:
    found = catalog.Catalog(place, pool)

    for call in (
        found.store(),
        found.image(images.parse_reference("nginx")),
        found.caches(),
        found.layer(making.digest("a")),
        found.blob(making.digest("a")),
    ):
        with pytest.raises(catalog.StoreUnavailable, match="does not answer"):
            asyncio.run(call)


def test_how_far_builds_are_is_read_from_their_reports(place) -> None:
    def report(job: str, content: bytes) -> None:
        place.build_report(job).write_bytes(content)

    ended = reports.Report(percent=100, result=reports.Result(reason="it failed"))
    report("imc-one-0a1b2c3d4e-0", reports.encode(reports.Report(percent=4, step="layer 1")))
    report("imc-one-1a1b2c3d4e-1", reports.encode(reports.Report(percent=2)))
    report("imc-two-0a1b2c3d4e-0", reports.encode(ended))
    report("imc-bad-0a1b2c3d4e-0", b"{")
    (place.tmp / "draft.erofs").write_bytes(b"1")

    assert asyncio.run(catalog.Catalog(place, DirectPool()).builds()) == {"imc-one": 4}


async def test_the_catalogue_works_in_real_workers(place) -> None:
    record = making.image(place, "a")
    cache = making.cache(place, "imc-one", record)

    async with workers.Pool("agent.store.lookup.file_reads", name="store", size=1) as pool:
        found = catalog.Catalog(place, pool, deadline=5.0)

        assert await found.caches() == [cache]
        assert await found.image(images.parse_reference(record.ref)) == record


KINDS = st.sampled_from(
    [
        records.LayerRecord,
        records.ChainRecord,
        records.ImageRecord,
        records.CacheRecord,
        records.StoreRecord,
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["diff_id", "parent", "id", "size", "layers", "images", "ref", "format"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)


@given(data=st.binary(max_size=100) | JSON.map(lambda value: repr(value).encode()), kind=KINDS)
def test_any_bytes_are_a_record_or_a_record_error(data: bytes, kind) -> None:
    with contextlib.suppress(records.RecordError):
        assert records.encode(records.decode(data, kind, "x"))


@given(JSON)
def test_any_json_as_any_record_never_crashes_the_reader(value) -> None:
    data = json.dumps(value).encode()
    digest = making.digest("a")
    for decode in (
        lambda: decoding.layer(data, digest),
        lambda: decoding.chain(data, digest),
        lambda: decoding.image(data, images.parse_reference("nginx")),
        lambda: decoding.any_image(data, "x/latest.json"),
        lambda: decoding.cache(data, "imc-one"),
    ):
        with pytest.raises(records.RecordError):
            decode()


def write_record(path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def test_generations_are_read_and_what_they_retire(place) -> None:
    layers = [records.RetiredLayer(diff_id=making.digest("a"), chains=[making.digest("c")])]
    record = records.RetiredRecord(generation=2, layers=layers, caches=["imc-gone"])
    found = catalog.Catalog(place, DirectPool())
    before = await found.generation(), await found.retired(1)
    number = records.encode(records.GenerationRecord(generation=2))
    write_record(place.generation_record, number)
    write_record(place.retired_record(2), records.encode(record))

    assert before == (0, None)
    assert await found.generation() == 2
    assert (await found.retired(1), await found.retired(2)) == (None, record)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b'{"generation": -1}',
        b'{"generation": "2"}',
        b'{"generation": 2.5}',
        b'{"generation": 3, "layers": []}',
        b'{"generation": 2, "layers": [{"diff_id": "sha256:x", "chains": []}]}',
        b'{"generation": 2, "layers": [{"diff_id": null, "chains": []}]}',
        b'{"generation": 2}',
    ],
)
async def test_a_damaged_record_of_deletions_is_never_taken_for_none(place, damage: bytes) -> None:
    """None would say that all of it has been deleted: a node would acknowledge what it holds."""
    found = catalog.Catalog(place, DirectPool())
    write_record(place.retired_record(2), damage)
    before = counted("retired")
    with pytest.raises(records.RecordError):
        await found.retired(2)

    assert counted("retired") == before + 1


@pytest.mark.parametrize("damage", [b"", b"2", b"{}", b'{"generation": -1}', b'{"generation":'])
async def test_a_damaged_counter_of_generations_is_doubt(place, damage: bytes) -> None:
    write_record(place.generation_record, damage)
    before = counted("generation")
    with pytest.raises(records.RecordError):
        await catalog.Catalog(place, DirectPool()).generation()

    assert counted("generation") == before + 1


def test_a_look_at_the_folder_says_whether_a_cache_has_changed(place) -> None:
    found = catalog.Catalog(place, DirectPool())
    times = [asyncio.run(found.caches_time())]
    for change in ("add", "replace", "remove"):
        # Within one tick of the file system's clock two changes have one time.
        os.utime(place.cache_records, ns=(0, 0))
        path = place.cache_record("imc-one")
        if change == "remove":
            path.unlink()
        else:
            writer.write_record(place, path, records.GenerationRecord(generation=1))
        times.append(asyncio.run(found.caches_time()))
    place.cache_records.rmdir()

    assert 0 not in times
    assert asyncio.run(found.caches_time()) == 0
