"""Artifacts become images of one layer, with their files where they say; others are refused."""

import json
import os
import pathlib
import random
import stat
import subprocess

import pytest

from agent.build import layer_build, limits
from agent.clients.registry import failures
from agent.model import images, oci, records
from agent.store import integrity
from agent.store.lookup import direct_reader
from lab import processes as programs
from lab.samples import tars
from tests import artifacts
from tests.fakes import registry as fakes

NOISE = random.Random(7).randbytes((3 << 20) + 5)
DAMAGED = NOISE[:-1] + b"?"
TEXT = b"".join(b"token %d\n" % number for number in range(200_000))
LONG = "/".join(["d" * 200, "e" * 250, "weights-" + "f" * 240])


def publish(bench, layers, tag: str = "1", **more) -> str:
    for layer in layers:
        bench.fake.add_blob(layer.data)
    document = artifacts.manifest(layers, **more)
    return bench.fake.add_manifest(json.dumps(document).encode(), artifacts.MANIFEST, tag)


def model() -> list[artifacts.Layer]:
    return [
        artifacts.weights("model-00001.safetensors", NOISE, mode=0o640, uid=1000, gid=1000),
        artifacts.weights(f"{LONG}.bin", TEXT, mode=0o4755, mtime="2025-01-02T03:04:05.6+02:00"),
        artifacts.weights("empty", b""),
        artifacts.packed("tokenizer", [tars.folder("tokenizer"), tars.file("tokenizer/a", b"a")]),
        artifacts.packed("configs/c.json", [tars.file("c.json", b"{}", mode=0o600)], "gzip"),
        artifacts.packed("code", [tars.file("code/run.py", TEXT, uid=3)], "zstd"),
    ]


def unpack(bench, diff_id: str, folder: pathlib.Path) -> pathlib.Path:
    """The files of a layer; fsck.erofs reads them as the kernel does, and needs no root."""
    command = ["fsck.erofs", f"--extract={folder}", bench.place.layer(diff_id)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def files_below(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def image_of(bench, rest: str = "team/app:1") -> tuple[records.ImageRecord, records.PlatformImage]:
    image = direct_reader.Reader(bench.place).image(bench.reference(rest))
    assert image is not None
    return image, image.platforms[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")
@pytest.mark.root
async def test_the_kernel_reads_the_files_of_a_model_where_it_names_them(bench, tmp_path) -> None:
    target = publish(bench, model())

    record = await bench.build()

    assert list(integrity.check(bench.place)) == []
    image, made = image_of(bench)
    assert (image.target, record.images[0].target) == (target, target)
    assert made.artifact == records.Artifact(type=artifacts.MODEL_TYPE, manifest=target)
    place = tmp_path / "mounted"
    place.mkdir()
    file = bench.place.layer(made.layers[0].diff_id)
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", file, place], check=True)
    try:
        assert files_below(place) == {
            "model-00001.safetensors": NOISE,
            f"{LONG}.bin": TEXT,
            "empty": b"",
            "tokenizer/a": b"a",
            "configs/c.json": b"{}",
            "code/run.py": TEXT,
        }
        weights = (place / "model-00001.safetensors").stat()
        assert (stat.S_IMODE(weights.st_mode), weights.st_uid, weights.st_gid) == (
            0o640,
            1000,
            1000,
        )
        assert weights.st_mtime == 0
        long = (place / f"{LONG}.bin").stat()
        assert stat.S_IMODE(long.st_mode) == 0o755
        assert long.st_mtime_ns == 1_735_779_845_600_000_000
        assert stat.S_IMODE((place / "empty").stat().st_mode) == 0o644
        assert stat.S_IMODE((place / "configs").stat().st_mode) == 0o755
        assert stat.S_IMODE((place / "configs/c.json").stat().st_mode) == 0o600
    finally:
        programs.unmount_below(place)


async def test_files_and_folders_of_oras(bench, tmp_path) -> None:
    entries = [
        tars.folder("data"),
        tars.file("data/one", b"1", mode=0o755),
        tars.file("data/sub/two", TEXT),
        tars.symlink("data/link", "sub/../one"),
        tars.link("data/three", "data/one"),
    ]
    publish(
        bench,
        [
            artifacts.titled("README.md", b"read me"),
            # What ORAS calls every file unless it is told otherwise.
            artifacts.titled("x/w.bin", NOISE, "application/vnd.oci.image.layer.v1.tar"),
            artifacts.folder("data", entries),
        ],
        kind="application/vnd.example.thing",
        config=(artifacts.EMPTY, b"{}"),
    )

    await bench.build()

    _, made = image_of(bench)
    folder = unpack(bench, made.layers[0].diff_id, tmp_path / "out")
    assert files_below(folder) == {
        "README.md": b"read me",
        "x/w.bin": NOISE,
        "data/one": b"1",
        "data/sub/two": TEXT,
        "data/three": b"1",
    }
    assert (folder / "data/link").readlink() == pathlib.Path("sub/../one")


async def test_the_image_that_nodes_know_is_whole(bench) -> None:
    target = publish(bench, model())

    await bench.build(platforms=(images.Platform("linux", "arm64"),))

    reader = direct_reader.Reader(bench.place)
    image, made = image_of(bench)
    assert image.target_size == len(bench.fake.manifests["1"].data)
    assert reader.blob(target) == bench.fake.manifests["1"].data
    manifest = oci.parse(reader.blob(made.manifest), made.manifest_media_type)
    config = oci.parse_config(reader.blob(made.config))
    assert isinstance(manifest, oci.Manifest)
    assert manifest.artifact_type == ""
    assert [layer.chain_id for layer in oci.layers(manifest, config)] == [made.layers[0].chain_id]
    assert str(config.platform) == "linux/arm64"
    notes = json.loads(reader.blob(made.manifest))["annotations"]
    assert notes["uimgacc.io/artifact"] == target
    assert made.layers[0].size == sum(len(layer.data) for layer in model())


async def test_the_same_artifact_makes_the_same_bytes_and_is_fetched_once(bench) -> None:
    publish(bench, model())
    publish(bench, model(), "2", annotations={"other": "manifest"})
    await bench.build(cache_id="imc-one")
    _, first = image_of(bench)
    bench.fake.requests.clear()

    await bench.build("team/app:2", cache_id="imc-two")

    _, second = image_of(bench, "team/app:2")
    assert bench.blob_requests() == []
    assert second.layers == first.layers
    assert second.artifact != first.artifact
    file = bench.place.layer(first.layers[0].diff_id)
    before = file.read_bytes()
    file.unlink()
    await bench.build(cache_id="imc-one")
    assert file.read_bytes() == before


async def test_one_layer_serves_all_platforms(bench) -> None:
    publish(bench, model())
    platforms = tuple(images.Platform("linux", name) for name in ("amd64", "arm64"))

    await bench.build(platforms=platforms)

    image, _ = image_of(bench)
    assert [made.platform for made in image.platforms] == ["linux/amd64", "linux/arm64"]
    assert len({made.manifest for made in image.platforms}) == 2
    assert len({made.layers[0].diff_id for made in image.platforms}) == 1
    assert list(integrity.check(bench.place)) == []


async def test_another_repository_gets_a_private_artifact_only_from_its_registry(bench) -> None:
    """By its manifest, which is no secret, an artifact can name the files of another one."""
    bench.fake.user = "u:p"
    publish(bench, model())
    config = bench.scratch / "docker.json"
    auth = {"auths": {bench.fake.host: {"username": "u", "password": "p"}}}
    config.write_text(json.dumps(auth))
    await bench.build(docker_configs=(config,))
    bench.fake.requests.clear()

    await bench.build(docker_configs=(config,), cache_id="imc-two")

    stored = direct_reader.Reader(bench.place).layer(image_of(bench)[1].layers[0].diff_id)
    assert stored is not None
    assert (stored.public, stored.sources) == (False, [bench.reference().name])
    blobs = {artifacts.digest(layer.data) for layer in model() if layer.data}
    assert set(bench.blob_requests()) == blobs
    bench.fake.requests.clear()
    for blob in blobs:
        del bench.fake.blobs[blob]
    with pytest.raises(failures.ImageUnknown):
        await bench.build("other/app:1", docker_configs=(config,), cache_id="imc-three")


async def test_damage_on_the_way_is_fetched_once_more(bench) -> None:
    publish(bench, model())
    bench.fake.faults[artifacts.digest(NOISE)] = [fakes.other_bytes(DAMAGED)]

    await bench.build()

    assert list(integrity.check(bench.place)) == []
    assert bench.blob_requests().count(artifacts.digest(NOISE)) == 2


async def test_a_blob_with_a_wrong_digest_leaves_nothing(bench) -> None:
    publish(bench, model())
    bench.fake.faults[artifacts.digest(NOISE)] = [
        fakes.other_bytes(DAMAGED),
        fakes.other_bytes(DAMAGED),
    ]

    with pytest.raises(layer_build.LayerMismatch, match=f"{artifacts.digest(NOISE)} of"):
        await bench.build()

    assert bench.files() == []


@pytest.mark.parametrize("size", [len(NOISE) - 1, len(NOISE) + 1])
async def test_a_blob_of_another_size_leaves_nothing(bench, size: int) -> None:
    layer = artifacts.weights("w", NOISE)
    publish(bench, [artifacts.Layer(NOISE, layer.media_type, layer.annotations, {"size": size})])

    with pytest.raises((failures.WrongContent, failures.RegistryUnreachable)):
        await bench.build()

    assert bench.files() == []


REFUSED = {
    "traversal": ([artifacts.weights("../etc/passwd", b"x")], "has .. in its path"),
    "traversal within": ([artifacts.weights("a/../../b", b"x")], "has .. in its path"),
    "absolute": ([artifacts.weights("/etc/passwd", b"x")], "has an absolute path"),
    "root": ([artifacts.weights("./", b"x")], "has no name"),
    "zero byte": ([artifacts.weights("a\0b", b"x")], "zero byte"),
    "long name": ([artifacts.weights("a" * 256, b"x")], "too long"),
    "whiteout": ([artifacts.weights("d/.wh.model", b"x")], "hides files"),
    "twice": ([artifacts.weights("a", b"x"), artifacts.weights("./a", b"y")], "is there twice"),
    "file as folder": (
        [artifacts.weights("a/b", b"x"), artifacts.weights("a", b"y")],
        "is there twice",
    ),
    "below a file": (
        [artifacts.weights("a", b"x"), artifacts.weights("a/b", b"y")],
        "is below 'a', which is a file",
    ),
    "no name": (
        [artifacts.weights("a", b"x"), artifacts.Layer(b"y", f"{artifacts.MODEL}.doc.v1.raw")],
        "cncf.model.doc.v1.raw' that names no file",
    ),
    "no layers": ([], "'application/vnd.cncf.model.manifest.v1.json' without files"),
    "symlink type": ([artifacts.weights("a", b"x", typeflag=50)], "of type 50"),
    "owner": ([artifacts.weights("a", b"x", uid=-1)], "an owner that no file may have"),
    "metadata": ([artifacts.weights("a", b"x", mode="rw")], "the attributes of its file"),
    "unknown suffix": (
        [artifacts.Layer(b"x", f"{artifacts.MODEL}.weight.v1.raw+xz", {artifacts.FILEPATH: "a"})],
        "weight.v1.raw.xz",
    ),
    "many": (
        [artifacts.weights(f"f{number}", b"x") for number in range(10_000)],
        "10000 layers, and no more than 5000",
    ),
}


@pytest.mark.parametrize(("layers", "words"), REFUSED.values(), ids=REFUSED)
async def test_what_a_manifest_must_not_say_is_refused_before_a_byte(bench, layers, words) -> None:
    publish(bench, layers)

    with pytest.raises(oci.UnsupportedImage, match=words):
        await bench.build()

    assert bench.blob_requests() == []
    assert bench.files() == []


def odd(name: str, kind: bytes, target: str = "") -> tars.Entry:
    return tars.Entry(name=name.encode(), kind=kind, target=target.encode())


HOSTILE = {
    "traversal": ([tars.file("../x", b"x")], "has .. in its path"),
    "absolute": ([tars.file("/x", b"x")], "has an absolute path"),
    "outside": ([tars.file("other/x", b"x")], "is outside of the folder 'd'"),
    "symlink out": ([tars.symlink("d/l", "../../x")], "leads out of it"),
    "symlink up and back": ([tars.symlink("d/l", "../d/x")], "leads out of it"),
    "symlink out through another one": (
        [tars.symlink("d/a/x", "../y"), tars.symlink("d/a/l", "x/../..")],
        "'d/a/l' is a symlink that leads out of it, or may",
    ),
    "symlink out through a later one": (
        [tars.symlink("d/a/l", "x/../.."), tars.symlink("d/a/x", "../y")],
        "'d/a/l' is a symlink that leads out of it, or may",
    ),
    "absolute symlink": ([tars.symlink("d/l", "/etc/passwd")], "leads out of it"),
    "through a symlink": (
        [tars.folder("d/a"), tars.symlink("d/l", "a"), tars.file("d/l/x", b"x")],
        "is below 'd/l', which is a symlink",
    ),
    "over a symlink": ([tars.symlink("d/l", "a"), tars.file("d/l", b"x")], "is there twice"),
    "twice": ([tars.file("d/x", b"x"), tars.file("d/x", b"y")], "is there twice"),
    "of another layer": ([tars.file("d/f", b"x"), tars.file("d/f/x", b"y")], "which is a file"),
    "hard link out": ([tars.link("d/l", "../../etc/shadow")], "has .. in its path"),
    "hard link to nothing": ([tars.link("d/l", "d/x")], "is no file of it"),
    "device": ([odd("d/null", b"3")], "is no file, directory or link"),
    "fifo": ([odd("d/fifo", b"6")], "is no file, directory or link"),
    "whiteout": ([tars.file("d/.wh.x", b"")], "hides files"),
    "opaque": ([tars.file("d/.wh..wh..opq", b"")], "hides files"),
}


@pytest.mark.parametrize(("entries", "words"), HOSTILE.values(), ids=HOSTILE)
async def test_a_tar_that_leaves_its_folder_leaves_nothing(bench, entries, words) -> None:
    publish(bench, [artifacts.titled("first", NOISE), artifacts.folder("d", entries)])

    with pytest.raises(layer_build.LayerUnusable, match=words):
        await bench.build()

    assert bench.files() == []


async def test_a_tar_that_is_none_is_refused(bench) -> None:
    for data, words in (b"not gzip", "tar cannot be unpacked"), (b"\x1f\x8b\x08rest", "decompress"):
        layer = artifacts.folder("d", [])
        publish(bench, [artifacts.Layer(data, layer.media_type, layer.annotations)])
        with pytest.raises(layer_build.LayerUnusable, match=words):
            await bench.build()


async def test_a_tar_bomb_is_refused(bench, monkeypatch) -> None:
    monkeypatch.setattr(limits, "RATIO_FREE", 8 << 20)
    publish(bench, [artifacts.folder("d", [tars.file("d/zeros", bytes(64 << 20))])])

    with pytest.raises(layer_build.LayerUnusable, match="unpacks to more than"):
        await bench.build()

    assert bench.files() == []


OTHERS = {
    "chart": (
        [artifacts.Layer(b"x", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        {"kind": "", "config": ("application/vnd.cncf.helm.config.v1+json", b"{}")},
        r"a Helm chart \('application/vnd.cncf.helm.config.v1\+json'\)",
    ),
    "signature": (
        [artifacts.Layer(b"x", "application/vnd.dev.cosign.simplesigning.v1+json")],
        {"kind": "", "config": ("application/vnd.oci.image.config.v1+json", b"{}")},
        "a layer of type 'application/vnd.dev.cosign.simplesigning.v1.json'",
    ),
    "bundle": (
        [artifacts.Layer(b"x", "application/vnd.dev.sigstore.bundle.v0.3+json")],
        {
            "kind": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "config": (artifacts.EMPTY, b"{}"),
        },
        r"a signature \('application/vnd.dev.sigstore.bundle.v0.3\+json'\)",
    ),
    "SBOM with a title": (
        [artifacts.titled("sbom.json", b"x", "application/spdx+json")],
        {"kind": "application/spdx+json", "config": (artifacts.EMPTY, b"{}")},
        r"an SBOM \('application/spdx\+json'\)",
    ),
    "attestation": (
        [artifacts.Layer(b"x", "application/vnd.in-toto+json")],
        {"kind": "application/vnd.in-toto+json", "config": (artifacts.EMPTY, b"{}")},
        "an attestation",
    ),
    "about another image": (
        [artifacts.titled("report.txt", b"x")],
        {
            "kind": "application/vnd.example.report",
            "config": (artifacts.EMPTY, b"{}"),
            "subject": {
                "mediaType": artifacts.MANIFEST,
                "digest": artifacts.digest(b""),
                "size": 1,
            },
        },
        "'application/vnd.example.report' that says something about another image",
    ),
    "without files": (
        [artifacts.Layer(b"{}", artifacts.EMPTY)],
        {"kind": "application/vnd.example.thing", "config": (artifacts.EMPTY, b"{}")},
        "'application/vnd.example.thing' without files",
    ),
}


@pytest.mark.parametrize(("layers", "more", "words"), OTHERS.values(), ids=OTHERS)
async def test_what_is_no_volume_is_refused_by_its_type(bench, layers, more, words) -> None:
    publish(bench, layers, **more)
    bench.fake.add_blob(b"{}")

    with pytest.raises(oci.UnsupportedImage, match=words):
        await bench.build()

    assert bench.files() == []
