"""Manifests, indexes, configs and blobs in odd forms: pulled by containerd and built, or not."""

import gzip
import hashlib
import json
import os
import pathlib
from collections.abc import Callable

import pytest
import zstandard

from agent import errors
from agent.kits.aio import threads
from agent.store.publish import writer
from lab import processes, services
from lab.samples import tars
from tests.containerd import conftest
from tests.fakes import registry as fakes

pytestmark = [pytest.mark.root, pytest.mark.containerd]

INDEX, MANIFEST, CONFIG = (
    f"{fakes.OCI}.{kind}.v1+json" for kind in ("index", "manifest", "config")
)
LAYER = f"{fakes.OCI}.layer.v1.tar"
AMD64 = {"os": "linux", "architecture": "amd64"}
Form = Callable[[fakes.FakeRegistry, str], None]


def layer(name: str) -> bytes:
    """A layer that no other form has: containerd unpacks each."""
    return tars.archive([tars.file(name, name.encode())])


def image(fake: fakes.FakeRegistry, name: str, *, tag: str = "1", **parts) -> str:
    """An image with parts of its own: `blob`, `media_type`, `config`, `manifest`, `size`."""
    tar = layer(name)
    blob = parts.get("blob", gzip.compress(tar, mtime=0))
    config = {**AMD64, "rootfs": {"type": "layers", "diff_ids": [fakes.digest(tar)]}}
    config = parts.get("config", lambda data: data)(config)
    data = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": fake.add_blob(data), "size": len(data)},
        "layers": [
            {
                "mediaType": parts.get("media_type", f"{LAYER}+gzip"),
                "digest": fake.add_blob(blob),
                "size": len(blob),
            }
        ],
    }
    manifest = parts.get("manifest", lambda data: data)(manifest)
    return fake.add_manifest(json.dumps(manifest).encode(), MANIFEST, f"{name}-{tag}")


def index(fake: fakes.FakeRegistry, name: str, *entries: tuple[str, str, dict | None]) -> None:
    """An index of digests, media types and platforms."""
    manifests = [
        {
            "mediaType": kind,
            "digest": digest,
            "size": len(fake.manifests[digest].data),
            **({} if platform is None else {"platform": platform}),
        }
        for digest, kind, platform in entries
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    fake.add_manifest(data, INDEX, f"{name}-1")


def single(**parts) -> Form:
    return lambda fake, name: void(image(fake, name, **parts))


def listed(platform: dict | None) -> Form:
    """An index with one image."""
    return lambda fake, name: index(fake, name, (image(fake, name, tag="m"), MANIFEST, platform))


def nested(fake: fakes.FakeRegistry, name: str) -> None:
    index(fake, f"{name}-inner", (image(fake, name, tag="m"), MANIFEST, AMD64))
    inner = fakes.digest(fake.manifests[f"{name}-inner-1"].data)
    index(fake, name, (inner, INDEX, None))


def void(_: object) -> None:
    pass


def zstd(window: int) -> Callable[[bytes], bytes]:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window)

    def compress(data: bytes) -> bytes:
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return stream.compress(data) + stream.flush()

    return compress


def upper(data: dict) -> dict:
    return {key.upper(): value for key, value in data.items()}


ACCEPTED: dict[str, Form] = {
    "no-platform": listed(None),
    "nested": nested,
    "x86-64": listed({"os": "Linux", "architecture": "x86_64"}),
    "v1": listed({**AMD64, "variant": "v1"}),
    "i386": listed({"os": "linux", "architecture": "386"}),
    "config-without-os": single(config=lambda data: {"rootfs": data["rootfs"]}),
    "config-null": single(config=lambda data: {**data, "os": None, "architecture": None}),
    "layers-null": single(
        config=lambda data: {**AMD64, "rootfs": {"type": "layers", "diff_ids": None}},
        manifest=lambda data: {**data, "layers": None},
    ),
    "upper-case": single(config=upper, manifest=upper),
    "large-config": single(config=lambda data: {**data, "comment": "x" * (17 << 20)}),
    "window-256": lambda fake, name: void(
        image(fake, name, blob=zstd(28)(layer(name)), media_type=f"{LAYER}+zstd")
    ),
    "zstd-as-gzip": lambda fake, name: void(image(fake, name, blob=zstd(20)(layer(name)))),
    "gzip-as-docker-plain": single(media_type="application/vnd.docker.image.rootfs.diff.tar"),
    "plain-as-lz4": lambda fake, name: void(
        image(fake, name, blob=layer(name), media_type=f"{LAYER}+lz4")
    ),
    "junk": lambda fake, name: void(
        image(fake, name, blob=gzip.compress(layer(name)) + b"\x1f\x8bjunk")
    ),
}
I386 = ("i386", "1.7")
REFUSED: dict[str, Form] = {
    "gzip-as-plain": single(media_type=LAYER),
    "zstd-as-plain": lambda fake, name: void(
        image(fake, name, blob=zstd(20)(layer(name)), media_type=LAYER)
    ),
    "gzip-as-lz4": single(media_type=f"{LAYER}+lz4"),
    "squashfs": single(media_type=f"{fakes.OCI}.layer.v2.squashfs"),
    "erofs": single(media_type=f"{fakes.OCI}.layer.v1.erofs"),
    "empty-blob": single(
        blob=b"",
        config=lambda data: {
            **AMD64,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256().hexdigest()]},
        },
    ),
    "amd64-v3": listed({**AMD64, "variant": "v3"}),
    "arm64": listed({"os": "linux", "architecture": "arm64"}),
}


@pytest.fixture
def bare(version, folder, registry) -> services.Containerd:
    """A containerd without snapshotters of others."""
    return services.Containerd(version, registries=[registry.address], folder=folder / "c")


async def outcomes(
    containerd: services.Containerd, forms: dict[str, Form], store: pathlib.Path, *, use: bool
) -> dict[str, tuple[str, str]]:
    """Of each form: what containerd and the builder say, "" where they take it.

    With `use` it must be possible to mount what was pulled: `ctr` of containerd 2 may pull
    nothing of an image for another platform, and say so then only.
    """
    store.mkdir()
    writer.create(store)
    said = {}
    with containerd:
        async with fakes.FakeRegistry() as fake:
            for name, form in forms.items():
                form(fake, name)
                reference = f"team/app:{name}-1"
                pulled = built = ""
                try:
                    await threads.run("pull", pull, containerd, f"{fake.host}/{reference}", use)
                except processes.LabError as error:
                    pulled = str(error)
                try:
                    registry = Address(fake.host)
                    await threads.run("build", conftest.build, store, registry, [reference])
                except errors.PermanentError as error:
                    built = str(error)
                said[name] = (pulled, built)
    return said


def pull(containerd: services.Containerd, reference: str, use: bool) -> None:
    containerd.pull(reference)
    if use:
        target = containerd.folder / "mounted"
        target.mkdir(exist_ok=True)
        containerd.ctr("images", "mount", "--snapshotter", "overlayfs", reference, target)
        containerd.ctr("images", "unmount", target)


class Address:
    """What the builder needs to know of a registry."""

    def __init__(self, address: str) -> None:
        self.address = address


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the forms are written for amd64")
async def test_what_containerd_pulls_is_built(bare, tmp_path) -> None:
    # Of containerd 1.7, `ctr` takes no image for a compatible processor.
    forms = {name: form for name, form in ACCEPTED.items() if (name, bare.version) != I386}
    said = await outcomes(bare, forms, tmp_path / "store", use=False)

    assert {name: pair for name, pair in said.items() if pair != ("", "")} == {}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the forms are written for amd64")
async def test_what_containerd_does_not_pull_is_refused(bare, tmp_path) -> None:
    said = await outcomes(bare, REFUSED, tmp_path / "store", use=True)

    assert {name: pair for name, pair in said.items() if "" in pair} == {}
