"""Layers that are EROFS images: taken as they are, or refused before a kernel reads them."""

import json
import pathlib
import struct
import subprocess
import tracemalloc
from collections.abc import Sequence

import pytest
import zstandard

from agent.build import layer_build, limits
from agent.build.native import native_image
from agent.model import oci, records
from agent.store import integrity
from agent.store.lookup import direct_reader
from lab.samples import tars
from tests import artifacts
from tests.fakes import registry as fakes

MAGIC = 0xE0F5E1E2
NATIVE = "application/vnd.erofs.layer.v1"
TEXT = b"".join(b"line %d\n" % number for number in range(100_000))
FILES = [
    tars.folder("app"),
    tars.file("app/run", b"#!/bin/sh\n", mode=0o755, uid=7),
    tars.file("app/data", TEXT),
    tars.file("app/.wh.gone", b""),
]


def erofs(folder: pathlib.Path, entries: Sequence[tars.Entry], *options: str) -> bytes:
    """What containerd's converter makes of a tar (core/images/converter/erofs)."""
    image = folder / f"{len(list(folder.iterdir()))}.erofs"
    command = ["mkfs.erofs", "--tar=f", "--aufs", "--quiet", "-Enoinline_data", *options, image]
    subprocess.run(command, input=tars.archive(entries), check=True, stdout=subprocess.DEVNULL)
    return image.read_bytes()


def publish(
    bench,
    layers: Sequence[tuple[str, bytes, bytes]],
    tag: str = "1",
    *,
    diff_ids: Sequence[str] = (),
    **more: object,
) -> str:
    """An image of layers: their types, blobs, and the images or tars that these unpack to."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "os.features": ["erofs"],
            "config": {"Cmd": ["/app/run"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": diff_ids or [artifacts.digest(plain) for _, _, plain in layers],
            },
        }
    ).encode()
    bench.fake.add_blob(config)
    for _, blob, _ in layers:
        bench.fake.add_blob(blob)
    document = artifacts.manifest(
        [artifacts.Layer(blob, kind) for kind, blob, _ in layers],
        kind="",
        config=(oci.IMAGE_CONFIG, config),
        **more,
    )
    return bench.fake.add_manifest(json.dumps(document).encode(), artifacts.MANIFEST, tag)


def image_of(bench, rest: str = "team/app:1") -> tuple[records.ImageRecord, records.PlatformImage]:
    image = direct_reader.Reader(bench.place).image(bench.reference(rest))
    assert image is not None
    return image, image.platforms[0]


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


async def test_a_cache_that_takes_no_native_layers_fails_before_a_layer_is_fetched(
    bench, tmp_path
) -> None:
    image = erofs(tmp_path, FILES)
    publish(bench, [(NATIVE, image, image)])
    with pytest.raises(native_image.NotAllowed, match="UIMGACC_AUTO_NATIVE=true"):
        await bench.build(native=False)

    assert bench.files() == []


async def test_layers_are_taken_as_they_are(bench, folder) -> None:
    plain = erofs(folder, FILES)
    small = erofs(folder, [tars.file("other", TEXT)], "-zlz4hc,9", "-C65536")
    tar = tars.archive([tars.file("third", b"3")])
    target = publish(
        bench,
        [
            (NATIVE, plain, plain),
            (f"{NATIVE}+zstd", zstandard.compress(small), small),
            (f"{fakes.OCI}.layer.v1.tar+gzip", fakes.gzipped(tar), tar),
        ],
    )

    await bench.build()

    assert list(integrity.check(bench.place)) == []
    image, made = image_of(bench)
    assert image.target == target
    assert made.artifact == records.Artifact(type=NATIVE, manifest=target)
    assert [layer.diff_id for layer in made.layers[:2]] == [
        artifacts.digest(f"uimgacc native 1\n{artifacts.digest(data)}".encode())
        for data in (plain, small)
    ]
    for layer, data in zip(made.layers, (plain, small), strict=False):
        file = bench.place.layer(layer.diff_id)
        assert file.read_bytes()[: len(data)] == data
        stored = direct_reader.Reader(bench.place).layer(layer.diff_id)
        assert stored is not None
        assert stored.mkfs.options == ["native"]
        assert stored.tar_size == len(data)


async def test_nodes_get_an_image_that_every_containerd_takes(bench, folder) -> None:
    plain = erofs(folder, FILES)
    publish(bench, [(NATIVE, plain, plain)])

    await bench.build()

    reader = direct_reader.Reader(bench.place)
    _, made = image_of(bench)
    manifest = oci.parse(reader.blob(made.manifest), made.manifest_media_type)
    config = json.loads(reader.blob(made.config))
    assert isinstance(manifest, oci.Manifest)
    assert [layer.media_type for layer in manifest.layers] == [oci.PLAIN_LAYER]
    assert manifest.config.digest == made.config
    assert "os.features" not in config
    assert config["rootfs"]["diff_ids"] == [layer.digest for layer in manifest.layers]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in made.layers]
    assert config["config"] == {"Cmd": ["/app/run"]}


async def test_a_second_build_fetches_nothing(bench, folder) -> None:
    plain = erofs(folder, FILES)
    publish(bench, [(NATIVE, plain, plain)])
    await bench.build()
    file = bench.place.layer(image_of(bench)[1].layers[0].diff_id)
    before = file.read_bytes()
    bench.fake.requests.clear()

    await bench.build(cache_id="imc-two")

    assert artifacts.digest(plain) not in bench.blob_requests()
    file.unlink()
    await bench.build()
    assert file.read_bytes() == before


@pytest.mark.parametrize("native_first", [True, False])
async def test_the_same_bytes_as_a_tar_are_another_layer(bench, folder, native_first: bool) -> None:
    """An EROFS image begins with zeros, which end a tar: as a tar it is an empty layer.

    Else who makes both would have pods run files that nobody sees in the image that they name.
    """
    both = erofs(folder, FILES)
    tar = f"{fakes.OCI}.layer.v1.tar"
    for kind in (NATIVE, tar) if native_first else (tar, NATIVE):
        publish(bench, [(kind, both, both)], tag="native" if kind == NATIVE else "tar")
        await bench.build(f"team/app:{'native' if kind == NATIVE else 'tar'}")

    native, plain = (image_of(bench, f"team/app:{tag}")[1].layers[0] for tag in ("native", "tar"))
    assert native.chain_id != plain.chain_id
    assert plain.diff_id == artifacts.digest(both)
    assert bench.place.layer(native.diff_id).read_bytes().startswith(both)
    assert not bench.place.layer(plain.diff_id).read_bytes().startswith(both)


def index(bench, *entries: tuple[str, list[str]]) -> None:
    listed = []
    for name, features in entries:
        content = bench.fake.manifests[name]
        platform = {"os": "linux", "architecture": "amd64"}
        more = {"os.features": features} if features else {}
        listed.append(
            {
                "mediaType": content.media_type,
                "digest": artifacts.digest(content.data),
                "size": len(content.data),
                "platform": {**platform, **more},
            }
        )
    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": listed}).encode()
    bench.fake.add_manifest(data, kind, "1")


async def test_of_an_index_with_both_the_plain_image_is_built(bench, folder) -> None:
    plain = erofs(folder, FILES)
    publish(bench, [(NATIVE, plain, plain)], "native")
    bench.fake.add_image([tars.archive(FILES[:3])], "plain")
    index(bench, ("native", ["erofs"]), ("plain", []))

    await bench.build()

    assert image_of(bench)[1].artifact is None


async def test_of_an_index_with_native_layers_only_these_are_taken(bench, folder) -> None:
    plain = erofs(folder, FILES)
    target = publish(bench, [(NATIVE, plain, plain)], "native")
    index(bench, ("native", ["erofs"]))

    await bench.build()

    image, made = image_of(bench)
    assert made.artifact == records.Artifact(type=NATIVE, manifest=target)
    assert image.target == artifacts.digest(bench.fake.manifests["1"].data)
    assert list(integrity.check(bench.place)) == []


def patched(image: bytes, at: int, form: str, *values: int) -> bytes:
    """An image with other values in its superblock, and without its checksum."""
    made = bytearray(image)
    (compatible,) = struct.unpack_from("<I", made, 1024 + 8)
    struct.pack_into("<I", made, 1024 + 8, compatible & ~1)
    struct.pack_into(form, made, 1024 + at, *values)
    return bytes(made)


def without_root(image: bytes) -> bytes:
    """An image whose root directory, which stands behind its inode, has entries of nonsense."""
    (root,), (meta,) = struct.unpack_from("<H", image, 1038), struct.unpack_from("<I", image, 1064)
    at = meta * 4096 + root * 32
    form, xattrs = struct.unpack_from("<HH", image, at)
    at += (64 if form & 1 else 32) + (12 + 4 * (xattrs - 1) if xattrs else 0)
    return image[:at] + b"\xff" * 32 + image[at + 32 :]


UNSAFE = {
    "devices": (lambda image: patched(image, 86, "<H", 2), "2 other devices"),
    "a table of devices": (lambda image: patched(image, 80, "<I", 8), "other devices, or a second"),
    "features of tomorrow": (
        lambda image: patched(image, 80, "<I", 1 << 20),
        "unknown features 0x100000",
    ),
    "ztailpacking": (lambda image: patched(image, 80, "<I", 16), "ztailpacking"),
    "zstd inside": (lambda image: patched(image, 80, "<IH", 3, 9), r"zstd \(6\.10\)"),
    "small blocks": (lambda image: patched(image, 12, "<B", 9), "blocks of 512 bytes"),
    "cut off": (lambda image: image[:-4096], "it is cut off"),
    "no EROFS": (lambda image: bytes(8192), "no EROFS superblock"),
    "a tar": (lambda image: tars.archive(FILES), "no EROFS superblock"),
    "no root": (lambda image: patched(image, 14, "<H", 40_000), "fsck.erofs"),
    "damaged inside": (lambda image: patched(without_root(image), 0, "<I", MAGIC), "fsck.erofs"),
    "a wrong checksum": (without_root, "fsck.erofs: .*chksum"),
}


@pytest.mark.parametrize(("change", "words"), UNSAFE.values(), ids=UNSAFE)
async def test_what_a_kernel_must_not_read_is_refused(bench, folder, change, words) -> None:
    data = change(erofs(folder, FILES))
    publish(bench, [(NATIVE, data, data)])

    with pytest.raises(layer_build.LayerUnusable, match=words):
        await bench.build()

    assert bench.files() == []


async def test_real_images_with_newer_features_are_refused(bench, folder) -> None:
    for options in (["-zlz4hc", "-Efragments"], ["-zzstd"]):
        data = erofs(folder, FILES, *options)
        publish(bench, [(NATIVE, data, data)])
        with pytest.raises(layer_build.LayerUnusable, match="not every node can read"):
            await bench.build()


async def test_a_diff_id_must_be_the_digest_of_the_image(bench, folder) -> None:
    data = erofs(folder, FILES)
    blob = zstandard.compress(data)
    publish(bench, [(f"{NATIVE}+zstd", blob, data)], diff_ids=[artifacts.digest(blob)])

    with pytest.raises(layer_build.LayerMismatch, match="unpacks to"):
        await bench.build()

    assert bench.files() == []


async def test_damage_on_the_way_is_fetched_once_more(bench, folder) -> None:
    data = erofs(folder, FILES)
    publish(bench, [(NATIVE, data, data)])
    bench.fake.faults[artifacts.digest(data)] = [fakes.other_bytes(data[:-1] + b"?")]

    await bench.build()

    assert list(integrity.check(bench.place)) == []


async def test_a_blob_that_unpacks_to_very_much_is_refused(bench, monkeypatch) -> None:
    monkeypatch.setattr(limits, "RATIO_FREE", 1 << 20)
    blob = zstandard.compress(bytes(64 << 20))
    publish(bench, [(f"{NATIVE}+zstd", blob, bytes(64 << 20))])

    with pytest.raises(layer_build.LayerUnusable, match="unpacks to more than"):
        await bench.build()

    assert bench.files() == []


async def test_what_fsck_says_takes_no_memory(folder) -> None:
    image = folder / "image"
    image.write_bytes(erofs(folder, FILES))
    checker = folder / "fsck.erofs"
    checker.write_text("#!/bin/sh\nhead -c 33554432 /dev/zero >&2; echo No errors found >&2\n")
    for path in (checker, folder / "mkfs.erofs"):
        path.touch()
        path.chmod(0o755)

    tracemalloc.start()
    try:
        await native_image.check(image, str(folder / "mkfs.erofs"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 << 20


async def test_other_suffixes_are_refused(bench, folder) -> None:
    data = erofs(folder, FILES)
    publish(bench, [(f"{NATIVE}+gzip", data, data)])

    with pytest.raises(oci.UnsupportedImage, match=r"erofs\.layer\.v1\+gzip"):
        await bench.build()
