"""Which images containerd has, and which snapshots each of them needs.

Read from containerd's own content store, both for images that the agent has registered
and for those that the kubelet has pulled.
"""

import dataclasses
import datetime
import itertools
import re
from collections.abc import Iterable, Sequence

from agent.clients.containerd import objects, rpc
from agent.model import digests, images, keys, oci

_REMEMBERED = 512
_VOLUME = re.compile(r"/image-volumes/([^/]+)/[0-9a-f]{64}")
"""The key of the snapshot that a pod has of an image as a volume ends so: it is where containerd
mounts it, by the IDs of the sandbox and of the image (internal/cri/server/helpers.go)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an image consists of; it follows from its target and never changes.

    `layers` are the digests and sizes of the compressed blobs, `chain` the chain
    IDs, both from the bottom.
    """

    manifest: str
    config: str
    layers: Sequence[tuple[str, int]]
    chain: Sequence[str]

    @property
    def top(self) -> str:
        """The chain ID of the top layer, the parent of containers' snapshots; "" without layers."""
        return self.chain[-1] if self.chain else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """An image in containerd: `snapshotters` are those that it has been unpacked for.

    `since` is when its manifest was written.
    """

    target: str
    records: Sequence[objects.Image]
    contents: Contents
    snapshotters: frozenset[str]
    since: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Users:
    """What runs on images: the names of containers' images, and the top chain IDs of volumes'."""

    names: frozenset[str]
    tops: frozenset[str]

    def use(self, names: Iterable[str], top: str) -> bool:
        """Whether a container or a volume is of the image with these names and this top chain."""
        return top in self.tops or not self.names.isdisjoint(names)


class Inventory:
    """Reads images of one platform. Contents are read once and remembered."""

    def __init__(self, client: rpc.Client, platform: images.Platform) -> None:
        self._client = client
        self._platform = platform
        self._contents: dict[str, Contents] = {}

    async def all(self) -> Sequence[Present]:
        """All images whose manifest and config exist, each with all its records."""
        images = sorted(await self._client.images(), key=lambda image: image.target.digest)
        present = []
        for _, group in itertools.groupby(images, key=lambda image: image.target.digest):
            image = await self.look_up(list(group))
            present += [image] if image is not None else []
        return present

    async def look_up(self, records: Sequence[objects.Image]) -> Present | None:
        """The image that these records of one target belong to; None where it is incomplete."""
        target = records[0].target
        try:
            contents = self._contents.get(target.digest) or await self._read(target)
            config = await self._client.blob(contents.config)
            manifest = await self._client.blob(contents.manifest)
        except (
            rpc.NotFoundError,
            digests.DigestError,
            oci.UnsupportedImage,
            oci.WrongPlatform,
        ):
            return None
        self._contents[target.digest] = contents
        while len(self._contents) > _REMEMBERED:
            del self._contents[next(iter(self._contents))]
        prefixes = (keys.GC_SNAPSHOT, keys.SET_ASIDE)
        return Present(
            target=target.digest,
            records=records,
            contents=contents,
            snapshotters=frozenset(
                key.removeprefix(prefix).partition("/")[0]
                for key in config.labels
                for prefix in prefixes
                if key.startswith(prefix)
            ),
            since=manifest.created,
        )

    async def users(self, snapshotter: str) -> Users:
        """What runs on images of a snapshotter."""
        containers = await self._client.containers()
        snapshots = await self._client.snapshots(snapshotter)
        return Users(
            frozenset(container.image for container in containers),
            frozenset(parent for key, parent in snapshots.items() if sandbox_of_volume(key)),
        )

    async def has_blobs(self, image: Present, *, first: int = 0) -> bool:
        """Whether containerd has the blobs of all layers from number `first` on, to unpack them."""
        try:
            for digest, _ in image.contents.layers[first:]:
                await self._client.blob(digest)
        except rpc.NotFoundError:
            return False
        return True

    async def _read(self, target: objects.Descriptor) -> Contents:
        digest = target.digest
        parsed = oci.parse(await self._client.read(digest), target.media_type)
        for _ in range(oci.MAX_INDEXES):
            if isinstance(parsed, oci.Manifest):
                break
            entry = oci.choose(parsed, self._platform, reference=digest)
            digest = entry.digest
            parsed = oci.parse(await self._client.read(digest), entry.media_type)
        else:
            raise oci.UnsupportedImage("its indexes name one another without end")
        config = oci.parse_config(await self._client.read(parsed.config.digest))
        return Contents(
            manifest=digest,
            config=parsed.config.digest,
            layers=[(layer.digest, layer.size) for layer in parsed.layers],
            chain=digests.chain_ids(config.diff_ids),
        )


def sandbox_of_volume(key: str) -> str:
    """The ID of the sandbox whose pod has a snapshot for an image volume; "" for others."""
    volume = _VOLUME.search(key)
    return volume[1] if volume and volume.end() == len(key) else ""
