"""A build from end to end: what is in the store afterwards, and what is not."""

import asyncio
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
import zstandard

from agent import errors
from agent.build import erofs, layer_build, mkfs_erofs, mkfs_stall
from agent.build.tar import stream
from agent.clients.registry import failures
from agent.model import images, oci
from agent.store import integrity
from agent.store.gc import prune_now
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from lab.samples import tars
from tests.fakes import registry as fakes

LAYER = fakes.tar(file=b"content" * 1000)
OTHER = fakes.tar(other=os.urandom(3000))


async def test_a_build_leaves_a_sound_store_with_a_ready_cache(bench) -> None:
    bench.fake.add_image([LAYER, OTHER], "1")

    record = await bench.build()

    reader = direct_reader.Reader(bench.place)
    image = reader.image(bench.reference())
    assert reader.cache("imc-test") == record
    assert list(integrity.check(bench.place)) == []
    assert image is not None
    assert record.images[0].layers == [fakes.digest(LAYER), fakes.digest(OTHER)]
    layers = image.platforms[0].layers
    assert [one.diff_id for one in layers] == record.images[0].layers
    assert [one.tar_size for one in layers] == [len(LAYER), len(OTHER)]
    assert image.fetched_bytes == sum(one.size for one in layers)
    assert record.size == sum(one.erofs_size for one in layers)
    chain = reader.chain(layers[1].chain_id)
    assert chain is not None
    assert (chain.diff_id, chain.parent) == (layers[1].diff_id, layers[0].chain_id)
    assert reader.blob(image.target) == bench.fake.manifests["1"].data


async def test_nothing_is_fetched_twice(bench) -> None:
    bench.fake.add_image([LAYER, OTHER], "1")
    bench.fake.add_image([LAYER, OTHER, fakes.tar(third=b"3")], "2")
    await bench.build(cache_id="imc-one")
    bench.fake.requests.clear()

    await bench.build("team/app:2", cache_id="imc-two")

    layers = [bench.fake.blobs[what] for what in bench.blob_requests()]
    assert len(layers) == 2  # The config and the third layer.
    assert {one.stage for one in bench.progress} >= {
        layer_build.Stage.REUSED,
        layer_build.Stage.DONE,
    }


async def test_the_same_layer_gives_the_same_bytes(bench) -> None:
    bench.fake.add_image([OTHER], "1")
    await bench.build()
    path = bench.place.layer(fakes.digest(OTHER))
    before = path.read_bytes()
    path.unlink()

    await bench.build()

    assert path.read_bytes() == before


async def test_a_layer_that_comes_twice_and_an_empty_one_are_built_once_each(bench) -> None:
    bench.fake.add_image([LAYER, bytes(1024), LAYER, bytes(1024)], "1")

    record = await bench.build()

    assert len(record.images[0].layers) == 2
    assert len(list(bench.place.layer_files.glob("*/*.erofs"))) == 2
    image = direct_reader.Reader(bench.place).image(bench.reference())
    assert image is not None
    assert len(image.platforms[0].layers) == 4
    assert list(integrity.check(bench.place)) == []


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        zstandard.ZstdCompressor().compress,
        bytes,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]) + gzip.compress(b""),
        lambda data: gzip.compress(data) + bytes(100),
        lambda data: (
            zstandard.ZstdCompressor().compress(data[:700])
            + zstandard.ZstdCompressor().compress(data[700:])
        ),
    ],
    ids=["gzip", "zstd", "plain", "gzip members", "gzip padded", "zstd frames"],
)
async def test_every_compression_gives_the_same_layer(bench, compress) -> None:
    bench.fake.add_image([LAYER], "1", compress=compress)

    record = await bench.build()

    assert record.images[0].layers == [fakes.digest(LAYER)]


async def test_two_builders_at_once_are_harmless(bench) -> None:
    bench.fake.add_image([LAYER, OTHER], "1")

    async with asyncio.TaskGroup() as group:
        for cache_id in ("imc-one", "imc-two", "imc-three"):
            group.create_task(bench.build(cache_id=cache_id))

    assert list(integrity.check(bench.place)) == []
    assert len(list(direct_reader.Reader(bench.place).caches())) == 3


async def test_an_index_is_built_for_the_platforms_asked_for(bench) -> None:
    amd = bench.fake.add_image([LAYER])
    arm = bench.fake.add_image([OTHER], architecture="arm64")
    index = bench.fake.add_index({"linux/amd64": amd, "linux/arm64": arm, "linux/s390x": arm}, "1")

    await bench.build(
        platforms=(images.Platform("linux", "amd64"),
                   images.Platform("linux", "arm64"))
    )  # fmt: skip

    image = direct_reader.Reader(bench.place).image(bench.reference(f"team/app@{index}"))
    assert image is not None
    assert image.target == index
    assert [one.platform for one in image.platforms] == ["linux/amd64", "linux/arm64"]
    assert direct_reader.Reader(bench.place).image(bench.reference(f"team/app@{arm}")) == image


async def test_a_build_for_some_platforms_takes_what_there_is(bench) -> None:
    bench.fake.add_image([LAYER], "1")
    arm, amd = images.Platform("linux", "arm64"), images.Platform("linux", "amd64")
    platforms = (arm, amd)

    with pytest.raises(oci.WrongPlatform):
        await bench.build(platforms=platforms)
    await bench.build(platforms=platforms, every_platform=False)
    with pytest.raises(oci.WrongPlatform, match="linux/arm64"):
        await bench.build(platforms=platforms[:1], every_platform=False)

    found = direct_reader.Reader(bench.place).image(bench.reference())
    assert [one.platform for one in found.platforms] == ["linux/amd64"]


async def test_the_wrong_architecture_says_what_there_is(bench) -> None:
    bench.fake.add_index({"linux/arm64": bench.fake.add_image([OTHER], architecture="arm64")}, "1")
    bench.fake.add_image([OTHER], "2", architecture="s390x")

    with pytest.raises(oci.WrongPlatform, match=r"no image for linux/amd64; there is: .*arm64"):
        await bench.build()
    with pytest.raises(oci.WrongPlatform, match="s390x"):
        await bench.build("team/app:2")


async def test_nested_indexes_are_followed_and_kept(bench) -> None:
    fake = bench.fake
    image = fake.add_image([LAYER])
    inner = fake.add_index({"linux/s390x": image, "linux/amd64": image})
    entry = {"digest": inner, "size": 1, "mediaType": f"{fakes.OCI}.index.v1+json"}
    kind = f"{fakes.OCI}.index.v1+json"
    outer = fake.add_manifest(json.dumps({"manifests": [entry]}).encode(), kind, "1")

    await bench.build()

    record = direct_reader.Reader(bench.place).image(bench.reference())
    assert record.target == outer
    assert [(one.manifest, one.indexes) for one in record.platforms] == [(image, [inner])]
    shutil.rmtree(bench.place.claims)
    assert prune_now.prune(bench.place, min_age=0.0) == prune_now.Pruned(0, 0)
    assert list(integrity.check(bench.place)) == []
    assert direct_reader.Reader(bench.place).blob(inner) == fake.manifests[inner].data


async def test_an_index_that_names_itself_through_others_is_refused(bench) -> None:
    fake = bench.fake
    inner = fake.add_image([LAYER])
    for depth in range(6):
        entry = {"digest": inner, "size": 1, "mediaType": f"{fakes.OCI}.index.v1+json"}
        data = json.dumps({"manifests": [entry], "depth": depth}).encode()
        inner = fake.add_manifest(data, f"{fakes.OCI}.index.v1+json", "1")

    with pytest.raises(oci.UnsupportedImage, match="without end"):
        await bench.build()


async def test_a_config_of_twenty_megabytes_is_stored_and_read(bench) -> None:
    fake = bench.fake
    manifest = json.loads(fake.manifests[fake.add_image([LAYER])].data)
    config = json.loads(fake.blobs[manifest["config"]["digest"]].data)
    data = json.dumps({**config, "history": [{"comment": "x" * (20 << 20)}]}).encode()
    manifest["config"] |= {"digest": fake.add_blob(data), "size": len(data)}
    fake.add_manifest(json.dumps(manifest).encode(), manifest["mediaType"], "1")

    await bench.build()

    assert direct_reader.Reader(bench.place).blob(manifest["config"]["digest"]) == data


async def test_a_compressed_layer_whose_type_says_plain_is_refused_as_in_containerd(bench) -> None:
    fake = bench.fake
    manifest = json.loads(fake.manifests[fake.add_image([LAYER])].data)
    for tag, suffix in ("1", ""), ("2", "+lz4"):
        manifest["layers"][0]["mediaType"] = f"{fakes.OCI}.layer.v1.tar{suffix}"
        fake.add_manifest(json.dumps(manifest).encode(), manifest["mediaType"], tag)

        with pytest.raises(layer_build.LayerUnusable, match="media type says"):
            await bench.build(f"team/app:{tag}")


@pytest.mark.parametrize("position", [0, 100, 124, 136, 148, 156, 257], ids="byte {}".format)
async def test_a_layer_with_a_damaged_header_is_refused(bench, position: int) -> None:
    """By its checksum, whichever of its fields it is."""
    damaged = bytearray(LAYER)
    damaged[position] ^= 1
    bench.fake.add_image([bytes(damaged)], "1")

    with pytest.raises(errors.PermanentError):
        await bench.build()
    assert direct_reader.Reader(bench.place).image(bench.reference()) is None


async def test_a_manifest_without_platform_is_judged_by_its_config(bench) -> None:
    fake = bench.fake
    for tag, architecture in ("1", "x86_64"), ("2", "arm64"):
        image = fake.add_image([LAYER], architecture=architecture)
        entry = {"digest": image, "size": 1, "mediaType": f"{fakes.OCI}.manifest.v1+json"}
        data = json.dumps({"manifests": [entry]}).encode()
        fake.add_manifest(data, f"{fakes.OCI}.index.v1+json", tag)

    await bench.build()
    with pytest.raises(oci.WrongPlatform, match="linux/arm64"):
        await bench.build("team/app:2")


async def test_damage_on_the_way_is_fetched_once_more(bench) -> None:
    bench.fake.add_image([LAYER], "1")
    blob = fakes.gzipped(LAYER)
    bench.fake.faults[fakes.digest(blob)].append(fakes.other_bytes(bytes(len(blob))))

    await bench.build()

    assert list(integrity.check(bench.place)) == []


async def test_a_blob_that_is_always_wrong_fails_with_both_digests(bench) -> None:
    bench.fake.add_image([LAYER], "1")
    blob = fakes.gzipped(LAYER)
    bench.fake.faults[fakes.digest(blob)] += [fakes.other_bytes(bytes(len(blob)))] * 3

    with pytest.raises(layer_build.LayerMismatch, match=fakes.digest(blob)):
        await bench.build()

    assert bench.files() == []


async def test_an_image_that_lies_about_its_diff_id_is_refused(bench) -> None:
    bench.fake.add_image([LAYER], "1", compress=lambda data: gzip.compress(OTHER))

    with pytest.raises(layer_build.LayerMismatch, match="unpacks to"):
        await bench.build()


async def test_a_layer_that_cannot_be_unpacked_says_why(bench) -> None:
    tar = tars.archive([tars.Entry(name=b"x", kind=b"S")])
    bench.fake.add_image([tar], "1")

    with pytest.raises(layer_build.LayerUnusable, match="containerd does not unpack it either"):
        await bench.build()


async def test_a_hard_link_to_a_layer_below_is_refused_like_in_containerd(bench) -> None:
    bench.fake.add_image([LAYER, tars.archive([tars.link("link", "file")])], "1")

    with pytest.raises(layer_build.LayerUnusable, match="link to file, which this layer"):
        await bench.build()

    assert list(bench.place.tmp.iterdir()) == []


async def test_a_dropped_connection_costs_only_the_rest(bench) -> None:
    layer = fakes.tar(big=os.urandom(3_000_000))
    bench.fake.add_image([layer], "1", compress=bytes)
    bench.fake.faults[fakes.digest(layer)] += [fakes.cut_after(2_000_000), fakes.stall_after(0)]

    await bench.build(read_timeout=1.0)

    ranges = [headers.get("Range") for _, what, headers in bench.fake.requests
              if what == fakes.digest(layer)]  # fmt: skip
    assert len(ranges) == 3
    assert ranges[1] is not None


async def test_a_cache_that_grows_too_large_leaves_nothing_behind(bench) -> None:
    bench.fake.add_image([LAYER, fakes.tar(big=os.urandom(200_000))], "1")

    with pytest.raises(layer_build.CacheTooLarge, match="imageCacheSize"):
        await bench.build(capacity=100_000)

    assert bench.files() == []
    assert list(bench.place.claims.iterdir()) == []


async def test_the_limit_of_an_automatic_cache_follows_its_images(bench) -> None:
    bench.fake.add_image([LAYER, fakes.tar(big=os.urandom(200_000))], "1")
    bench.fake.add_image([LAYER, fakes.tar(big=os.urandom(600_000))], "2")
    grown = {"capacity": 100_000, "capacity_factor": 3.0}

    with pytest.raises(layer_build.CacheTooLarge, match="UIMGACC_AUTO_SHARE"):
        await bench.build(**grown, capacity_most=150_000)
    assert bench.files() == []

    record = await bench.build("team/app:1", "team/app:2", **grown, capacity_most=1 << 30)
    compressed = sum(image.size for image in record.images) - len(fakes.gzipped(LAYER))
    assert record.capacity == 3 * compressed
    assert 800_000 < record.size <= record.capacity


async def test_a_cache_that_is_too_large_keeps_what_others_use(bench) -> None:
    bench.fake.add_image([LAYER], "1")
    bench.fake.add_image([LAYER, fakes.tar(big=os.urandom(200_000))], "2")
    await bench.build(cache_id="imc-one")
    before = bench.files()

    with pytest.raises(layer_build.CacheTooLarge):
        await bench.build("team/app:2", cache_id="imc-two", capacity=100_000)

    assert bench.files() == before


async def test_a_failed_build_is_resumed_by_the_next(bench) -> None:
    bench.fake.add_image([LAYER, OTHER], "1")
    second = fakes.digest(fakes.gzipped(OTHER))
    bench.fake.faults[second] += [fakes.status(404)]
    with pytest.raises(failures.ImageUnknown):
        await bench.build()
    assert direct_reader.Reader(bench.place).cache("imc-test") is None
    await bench.build()

    assert list(integrity.check(bench.place)) == []


async def test_cancelling_a_build_leaves_no_draft(bench) -> None:
    layer = fakes.tar(big=os.urandom(3_000_000))
    bench.fake.add_image([layer], "1", compress=bytes)
    bench.fake.faults[fakes.digest(layer)] += [fakes.stall_after(1_000_000)] * 100

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await bench.build()

    assert list(bench.place.tmp.iterdir()) == []


async def test_no_mkfs_and_an_old_mkfs_say_what_to_install(bench, tmp_path) -> None:
    old = tmp_path / "old-mkfs"
    old.write_text("#!/bin/sh\necho mkfs.erofs 1.5\n")
    old.chmod(0o755)
    noise = tmp_path / "noise"
    noise.write_text("#!/bin/sh\necho hello\n")
    noise.chmod(0o755)

    with pytest.raises(mkfs_erofs.MkfsMissing, match=r"install erofs-utils >= 1\.8"):
        await bench.build(mkfs=str(tmp_path / "none"))
    with pytest.raises(mkfs_erofs.MkfsMissing, match="hello"):
        await bench.build(mkfs=str(noise))
    with pytest.raises(mkfs_erofs.MkfsTooOld, match=r"erofs-utils 1\.5"):
        await bench.build(mkfs=str(old))


@pytest.mark.parametrize(
    ("script", "failure", "words"),
    [
        ("cat >/dev/null; echo '<E> out of luck' >&2; exit 1", "ConversionFailed", "out of luck"),
        ("exit 1", "ConversionFailed", "exit status 1"),
        ("kill -9 $$", "ConversionFailed", "signal 9"),
        ("echo 'write: No space left on device' >&2; exit 1", "DiskFull", "no space left"),
        ("echo '<E> Cannot allocate memory' >&2; exit 1", "MemoryExceeded", "give builders more"),
        ("cat >/dev/null; for o; do :; done; echo x > $o", "ConversionFailed", "superblock"),
    ],
)
async def test_a_failing_mkfs_is_explained_and_leaves_nothing(
    bench, tmp_path: pathlib.Path, script: str, failure: str, words: str
) -> None:
    bench.fake.add_image([fakes.tar(big=os.urandom(3_000_000))], "1", compress=bytes)
    mkfs = tmp_path / "failing"
    mkfs.write_text(f"#!/bin/sh\n[ $1 = -V ] && echo mkfs.erofs 1.8.6 && exit\n{script}\n")
    mkfs.chmod(0o755)

    with pytest.raises(getattr(mkfs_erofs, failure), match=words):
        await bench.build(mkfs=str(mkfs))

    assert bench.files() == []


async def test_what_is_no_image_says_what_it_is(bench) -> None:
    bench.fake.add_manifest(b'{"schemaVersion": 1}', "application/json", "1")
    bench.fake.add_manifest(b"nonsense", "text/html", "2")
    config = bench.fake.add_blob(json.dumps({"os": "linux", "architecture": "amd64"}).encode())
    chart = {
        "config": {"digest": config, "size": 1},
        "layers": [{"digest": config, "size": 1, "mediaType": "application/helm"}],
    }
    bench.fake.add_manifest(json.dumps(chart).encode(), "", "3")

    for tag, words in ("1", "schema 1"), ("2", "damaged"), ("3", "application/helm"):
        with pytest.raises(oci.UnsupportedImage, match=words):
            await bench.build(f"team/app:{tag}")


async def test_an_unknown_image_says_so(bench) -> None:
    with pytest.raises(failures.ImageUnknown, match="team/nothing"):
        await bench.build("team/nothing:1")


async def test_old_drafts_are_swept(bench) -> None:
    bench.fake.add_image([LAYER], "1")
    draft = bench.place.tmp / "old.erofs"
    draft.touch()
    os.utime(draft, (0, 0))

    await bench.build()

    assert not draft.exists()


async def test_a_full_store_leaves_nothing_behind(bench, monkeypatch) -> None:
    bench.fake.add_image([LAYER], "1")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.store.publish.layer_writer._link_layer", full)

    with pytest.raises(writer.StoreFull, match="no space left in the store"):
        await bench.build()

    assert bench.files() == []


KEY = {"SCHILY.xattr.user.k": b"v"}


def below() -> bytes:
    return tars.archive(
        [
            tars.folder("tmp", mode=0o1777, uid=3, gid=4, mtime=77),
            tars.folder("opt", mode=0o700, pax={**KEY, "mtime": b"5.000000006"}),
            *(tars.folder(f"opt/{at:04}-{'x' * 60}") for at in range(300)),
            tars.file("file"),
        ]
    )


async def test_a_directory_that_a_layer_implies_looks_as_below(bench) -> None:
    above = tars.archive([tars.file("tmp/x"), tars.file("opt/0299-" + "x" * 60 + "/deep/y")])
    bench.fake.add_image([below(), above, above], "1")

    await bench.build()

    image = direct_reader.Reader(bench.place).image(bench.reference())
    assert image is not None
    for item in image.platforms[0].layers[1:]:
        chain = direct_reader.Reader(bench.place).chain(item.chain_id)
        assert chain is not None
        assert chain.variant_of == item.diff_id == fakes.digest(above)
        with erofs.Layer(bench.place.layer(chain.diff_id)) as layer:
            assert layer.find(b"tmp") == stream.DirInfo(0o1777, 3, 4, 77)
            opt = stream.DirInfo(0o700, 0, 0, 5, 6, ((b"user.k", b"v"),))
            assert layer.find(b"opt") == opt
            deep = layer.find(b"opt/0299-" + b"x" * 60 + b"/deep")
            assert deep == stream.DirInfo(0o755, 0, 0, 0)
            assert layer.find(b"tmp/x") is True
            assert layer.find(b"tmp/z") is False
    assert list(integrity.check(bench.place)) == []
    # The bottom layer, the upper one as it is, and its variant, which both chains share.
    assert len(list(bench.place.layer_files.glob("*/*.erofs"))) == 3


async def test_the_variant_of_a_layer_is_built_once(bench) -> None:
    above = tars.archive([tars.file("tmp/x")])
    bench.fake.add_image([below(), above], "1")
    await bench.build(cache_id="imc-one")
    bench.fake.requests.clear()

    await bench.build(cache_id="imc-two")

    assert len(bench.blob_requests()) == 1  # The config.


async def test_pruning_keeps_variants(bench) -> None:
    bench.fake.add_image([below(), tars.archive([tars.file("tmp/x")])], "1")
    await bench.build()

    shutil.rmtree(bench.place.claims)

    assert prune_now.prune(bench.place, min_age=0.0) == prune_now.Pruned(0, 0)
    assert list(integrity.check(bench.place)) == []


async def test_a_store_on_another_file_system_gets_only_the_finished_file(bench, tmp_path) -> None:
    shared_memory = pathlib.Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=shared_memory) as scratch:
        bench.fake.add_image([LAYER], "1")
        bench.scratch = pathlib.Path(scratch)
        old = bench.scratch / "uimgacc-old.erofs"
        old.touch()
        os.utime(old, (0, 0))

        await bench.build()

        assert list(bench.scratch.iterdir()) == []
    assert list(integrity.check(bench.place)) == []


BUILD = """
import asyncio, pathlib, sys
from agent.build import cache_build
from agent.clients.registry import connections
from agent.model import images, oci
from agent.roles import builder
root, host = sys.argv[1:]
asyncio.run(builder.build(
    builder.Settings(
        store=pathlib.Path(root),
        registries=connections.Options(plain_http=frozenset({host}), read_timeout=60),
    ),
    cache_build.Request(
        cache_id="imc-test", name="x", references=(images.parse_reference(host + "/team/app:1"),),
        platforms=(images.Platform("linux", "amd64"),), capacity=1 << 30,
    ),
))
"""


@pytest.mark.parametrize("script", ["exec sleep 600", "head -c 4096 >/dev/null; exec sleep 600"])
async def test_a_mkfs_that_gets_nowhere_is_killed(bench, tmp_path, monkeypatch, script) -> None:
    monkeypatch.setattr(mkfs_erofs, "_STALLED_SECONDS", 1.0)
    bench.fake.add_image([fakes.tar(big=os.urandom(3_000_000))], "1", compress=bytes)
    mkfs = tmp_path / "hanging"
    mkfs.write_text(f"#!/bin/sh\n[ $1 = -V ] && echo mkfs.erofs 1.8.6 && exit\n{script}\n")
    mkfs.chmod(0o755)

    with pytest.raises(mkfs_erofs.ConversionStalled, match="neither read nor wrote"):
        await bench.build(mkfs=str(mkfs))
    assert bench.files() == []


def test_a_mkfs_that_waits_for_a_slow_registry_is_not_killed() -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL) as process:
        os.close(reading)
        # Still with its loader on a loaded machine, it would be one that does nothing.
        wait_until_reading(process.pid)
        with mkfs_stall.Watch(process.pid, 1.0) as watch:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            os.close(writing)
            assert process.wait(60) == 0
    assert not watch.fired


def wait_until_reading(pid: int) -> None:
    """Return when a process sleeps in a read of a pipe."""
    deadline = time.monotonic() + 60
    while "pipe_read" not in pathlib.Path(f"/proc/{pid}/wchan").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_mkfs_does_not_outlive_a_builder_that_is_killed(bench) -> None:
    layer = fakes.tar(big=os.urandom(5_000_000))
    bench.fake.add_image([layer], "1", compress=bytes)
    bench.fake.faults[fakes.digest(layer)] += [fakes.stall_after(4_000_000)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUILD, str(bench.place.root), bench.fake.host
    )
    while not (found := converters(bench.place.root)):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)

    process.kill()
    await process.wait()

    async with asyncio.timeout(60):
        while converters(bench.place.root):
            await asyncio.sleep(0.05)
    assert found
    await bench.build()
    assert {one.kind for one in integrity.check(bench.place)} <= {integrity.Kind.LEFTOVER}


def converters(root: pathlib.Path) -> list[int]:
    """The processes that have the store in their arguments and are a mkfs.erofs."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if str(root).encode() in words and b"--aufs" in words:
            found.append(int(entry.parent.name))
    return found


async def test_a_bottom_layer_with_whiteouts_has_a_variant_without_them(bench) -> None:
    tar = tars.archive([tars.folder("d"), tars.file("d/f"), tars.file("d/.wh.f")])
    hiding = tars.archive([tars.folder("d"), tars.file("d/.wh.f")])
    bench.fake.add_image([hiding], "1")
    bench.fake.add_image([below(), hiding], "2")
    bench.fake.add_image([tar], "3")

    for tag in "123":
        await bench.build(f"team/app:{tag}", cache_id=f"imc-cache-{tag}")

    reader = direct_reader.Reader(bench.place)
    bottom = reader.chain(fakes.digest(hiding))
    assert bottom is not None
    assert bottom.variant_of == fakes.digest(hiding)
    above = reader.image(bench.reference("team/app:2")).platforms[0].layers[1]
    assert reader.chain(above.chain_id).diff_id == fakes.digest(hiding)
    removing = reader.chain(fakes.digest(tar))
    for chain in bottom, removing:
        with erofs.Layer(bench.place.layer(chain.diff_id)) as layer:
            assert (layer.find(b"d/f"), bool(layer.find(b"d"))) == (False, True)


async def test_something_below_what_a_lower_layer_made_a_file_is_refused(bench) -> None:
    for tag, lower in ("1", tars.file("a")), ("2", tars.file(".wh.a")):
        bench.fake.add_image(
            [below(), tars.archive([lower]), tars.archive([tars.file("a/b/c")])], tag
        )

        with pytest.raises(layer_build.LayerUnusable, match="a is no directory in a layer below"):
            await bench.build(f"team/app:{tag}")


async def test_directories_are_inherited_through_symlinks_of_the_layers_below(bench) -> None:
    lower = tars.archive(
        [
            tars.folder("usr/lib", mode=0o700, uid=9),
            tars.symlink("lib", "usr/lib"),
            tars.folder("a", mode=0o750, uid=5, gid=6),
        ]
    )
    between = tars.archive([tars.symlink("a", "etc")])
    upper = tars.archive([tars.file("lib/new"), tars.file("a/new")])
    bench.fake.add_image([lower, between, upper], "1")

    await bench.build()

    reader = direct_reader.Reader(bench.place)
    image = reader.image(bench.reference())
    chain = reader.chain(image.platforms[0].layers[2].chain_id)
    with erofs.Layer(bench.place.layer(chain.diff_id)) as layer:
        assert layer.find(b"lib") == stream.DirInfo(0o700, 9, 0, tars.EPOCH)
        assert layer.find(b"a") == stream.DirInfo(0o750, 5, 6, tars.EPOCH)
