"""Which images containerd has, and on which snapshots each of them stands.

Read from containerd's own content store, for images that we have registered and
for those that the kubelet has pulled alike.
"""

import dataclasses
import datetime
import itertools
from collections.abc import Sequence

import msgspec

from agent.clients.containerd import rpc
from agent.model import digests, images, keys

_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_REMEMBERED = 512


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct):
    digest: str
    size: int = 0
    platform: _Platform | None = None


class _Index(msgspec.Struct):
    manifests: list[_Descriptor]


class _Manifest(msgspec.Struct):
    config: _Descriptor
    layers: list[_Descriptor]


class _RootFS(msgspec.Struct):
    diff_ids: list[str]


class _Config(msgspec.Struct):
    rootfs: _RootFS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an image is made of; it follows from its target and never changes.

    `layers` are the digests and sizes of the compressed blobs, `chain` the chain
    IDs, both from the bottom.
    """

    manifest: str
    config: str
    layers: Sequence[tuple[str, int]]
    chain: Sequence[str]

    @property
    def top(self) -> str:
        """The chain ID that containers stand on; "" without layers."""
        return self.chain[-1] if self.chain else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """An image in containerd: `snapshotters` are those that it has been unpacked for.

    `since` is when its manifest came.
    """

    target: str
    records: Sequence[rpc.Image]
    contents: Contents
    snapshotters: frozenset[str]
    since: datetime.datetime


class Inventory:
    """Reads images of one platform. Contents are read once and remembered."""

    def __init__(self, client: rpc.Client, platform: images.Platform) -> None:
        self._client = client
        self._platform = platform
        self._contents: dict[str, Contents] = {}

    async def all(self) -> Sequence[Present]:
        """All images whose manifest and config are there, each with all its records."""
        found = sorted(await self._client.images(), key=lambda image: image.target.digest)
        present = []
        for _, group in itertools.groupby(found, key=lambda image: image.target.digest):
            image = await self.look_up(list(group))
            present += [image] if image is not None else []
        return present

    async def look_up(self, records: Sequence[rpc.Image]) -> Present | None:
        """The image that these records of one target name; None where it is not complete."""
        target = records[0].target
        try:
            contents = self._contents.get(target.digest) or await self._read(target)
            config = await self._client.blob(contents.config)
            manifest = await self._client.blob(contents.manifest)
        except (rpc.NotFoundError, digests.DigestError, msgspec.MsgspecError):
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

    async def has_blobs(self, image: Present, *, first: int = 0) -> bool:
        """Whether the blobs of all layers from number `first` on are here, to be unpacked."""
        try:
            for digest, _ in image.contents.layers[first:]:
                await self._client.blob(digest)
        except rpc.NotFoundError:
            return False
        return True

    async def _read(self, target: rpc.Descriptor) -> Contents:
        digest = target.digest
        if target.media_type in _INDEX_TYPES:
            index = msgspec.json.decode(await self._client.read(digest), type=_Index)
            digest = self._pick(index, digest)
        manifest = msgspec.json.decode(await self._client.read(digest), type=_Manifest)
        config = msgspec.json.decode(await self._client.read(manifest.config.digest), type=_Config)
        return Contents(
            manifest=digest,
            config=manifest.config.digest,
            layers=[(layer.digest, layer.size) for layer in manifest.layers],
            chain=digests.chain_ids(config.rootfs.diff_ids),
        )

    def _pick(self, index: _Index, digest: str) -> str:
        wanted = self._platform
        for variant in (wanted.variant, "", None):
            for found in index.manifests:
                platform = found.platform or _Platform()
                if (platform.os, platform.architecture) != (wanted.os, wanted.architecture):
                    continue
                if variant is None or platform.variant == variant:
                    return found.digest
        raise rpc.NotFoundError(f"index {digest} has nothing for {wanted}")
