"""A containerd that is a fake, and an image of two layers as the store has it."""

import hashlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator

import msgspec
import pytest

from agent.clients.containerd import rpc
from agent.model import digests, images, keys, records
from agent.node.images import containerd_images, image_snapshots, registration_plan
from tests.fakes import containerd as fakes

PLATFORM = images.Platform("linux", "amd64")
NAME = "uimgacc"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Image:
    """An image with its blobs and its record in the store, and its snapshots' chain."""

    def __init__(self, name: str, layers: int = 2, *, index: bool = False) -> None:
        self.reference = images.parse_reference(name)
        diff_ids = [digest_of(f"{name} {n}".encode()) for n in range(layers)]
        blobs = [digest_of(f"blob {name} {n}".encode()) for n in range(layers)]
        self.chain = list(digests.chain_ids(diff_ids))
        config = json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode()
        self.config = digest_of(config)
        manifest = json.dumps(
            {
                "config": {"digest": self.config, "size": len(config)},
                "layers": [{"digest": blob, "size": 4 << 20} for blob in blobs],
            }
        ).encode()
        self.manifest = self.target = digest_of(manifest)
        self.layer_blobs = blobs
        self.media_type = MANIFEST_TYPE
        self.blobs = {self.config: config, self.manifest: manifest}
        if index:
            platform = {"os": "linux", "architecture": "amd64"}
            foreign = {"digest": digest_of(b"arm"), "platform": {**platform, "architecture": "arm"}}
            own = {"digest": self.manifest, "platform": platform}
            data = json.dumps({"manifests": [foreign, own]}).encode()
            self.target, self.media_type = digest_of(data), INDEX_TYPE
            self.blobs[self.target] = data
        self.record = records.ImageRecord(
            ref=str(self.reference),
            target=self.target,
            target_media_type=self.media_type,
            target_size=len(self.blobs[self.target]),
            platforms=[
                records.PlatformImage(
                    platform="linux/amd64",
                    manifest=self.manifest,
                    manifest_media_type=MANIFEST_TYPE,
                    manifest_size=len(manifest),
                    config=self.config,
                    layers=[
                        records.ImageLayer(
                            diff_id=diff_id,
                            chain_id=chain_id,
                            digest=blob,
                            media_type="application/vnd.oci.image.layer.v1.tar+gzip",
                            size=4 << 20,
                            tar_size=8 << 20,
                            erofs_size=8 << 20,
                        )
                        for diff_id, chain_id, blob in zip(diff_ids, self.chain, blobs, strict=True)
                    ],
                )
            ],
            created="2026-01-01T00:00:00Z",
            build_seconds=10.0,
            fetched_bytes=8 << 20,
        )

    def make_of(self, artifact: str) -> None:
        """Have it be made of an artifact, whose manifest its registry has, of this digest."""
        kind = records.Artifact(type="application/vnd.example", manifest=artifact)
        made = [msgspec.structs.replace(one, artifact=kind) for one in self.record.platforms]
        self.record = msgspec.structs.replace(self.record, target=artifact, platforms=made)

    @property
    def wanted(self) -> registration_plan.Registration:
        wanted = registration_plan.registration_of(
            self.reference, self.record, PLATFORM, snapshotter=NAME
        )
        assert wanted is not None
        return wanted

    @property
    def names(self) -> set[str]:
        return set(self.wanted.all_names)

    def pull_into(self, fake: fakes.Fake, snapshotter: str, *, layers: bool = True) -> None:
        """What containerd's own pull leaves: all records, and every layer's blob."""
        layer_labels = {f"{keys.GC_CONTENT}.l.{n}": blob for n, blob in enumerate(self.layer_blobs)}
        labels = {
            self.target: {f"{keys.GC_CONTENT}.m.0": self.manifest},
            self.manifest: {f"{keys.GC_CONTENT}.config": self.config, **layer_labels},
            self.config: {f"{keys.GC_SNAPSHOT}{snapshotter}": self.chain[-1]},
        }
        for digest, data in self.blobs.items():
            fake.add_blob(digest, data, labels[digest])
        fake.tick()
        parent = ""
        for blob, chain_id in zip(self.layer_blobs, self.chain, strict=True):
            if layers:
                fake.add_blob(blob)
            fake.tick()
            fake.add_snapshot(snapshotter, chain_id, parent)
            parent = chain_id
        fake.add_image(str(self.reference), self.target, media=self.media_type)


class Blobs:
    """The store's blobs."""

    def __init__(self, *known: Image) -> None:
        self.blobs = {digest: data for image in known for digest, data in image.blobs.items()}

    async def blob(self, digest: str) -> bytes | None:
        return self.blobs.get(digest)


@pytest.fixture
def image() -> Image:
    return Image("registry.example/app:1")


@pytest.fixture
async def fake() -> AsyncIterator[fakes.Fake]:
    with tempfile.TemporaryDirectory(prefix="fc") as folder:
        address = pathlib.Path(folder) / "s"
        async with fakes.running(address) as fake:
            fake.address = address
            yield fake


@pytest.fixture
async def client(fake) -> AsyncIterator[rpc.Client]:
    async with rpc.Client(str(fake.address), deadline=5) as connected:
        yield connected


@pytest.fixture
def containerd(client) -> containerd_images.ContainerdImages:
    return containerd_images.of(client, PLATFORM, snapshotter=NAME)


@pytest.fixture
def chains(containerd) -> image_snapshots.Chains:
    return containerd.chains
