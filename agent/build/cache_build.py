"""One build: images from their registries into a store, then the cache that names them.

What is in the store already is not fetched again, so a build that was interrupted
goes on where it was. Everything a record names is there before the record is.
"""

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Sequence

from agent import errors
from agent.build import layer_build, layer_stack
from agent.build.native import native_image
from agent.kits import files
from agent.kits.aio import threads
from agent.model import digests, images, oci, records, times
from agent.model.artifacts import artifact_files, artifact_image
from agent.store import signatures
from agent.store.lookup import direct_reader
from agent.store.publish import build_claims, layer_writer, writer

_DELETION_SECONDS = 600.0
"""A collector that lives is through with what it has begun long before."""

_LOOK_AGAIN_SECONDS = 1.0


class BeingDeleted(errors.TemporaryError):
    """Something that a build needs is being deleted, and that does not end.

    `generation` is the deletion.
    """

    def __init__(self, generation: int) -> None:
        super().__init__(
            f"layers of this cache are being deleted (generation {generation}), and the collector"
            " does not go on: is the controller running? Without one, run `uimgacc store prune`"
        )
        self.generation = generation


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to build."""

    cache_id: str
    name: str
    references: tuple[images.Reference, ...]
    platforms: tuple[images.Platform, ...]
    """What to build for; see `every_platform`."""
    capacity: int
    """Bytes that the layer files of the cache may have."""
    namespaces: tuple[str, ...] | None = None
    retention_days: int | None = None
    every_platform: bool = True
    """Whether an image must be there for all platforms, or only for one of them."""
    native: bool = True
    """Whether images may have native EROFS layers."""
    capacity_factor: float = 0.0
    """So many times what the images have at the registry their layer files may have as well ..."""
    capacity_most: int = 0
    """... but not more than these bytes."""


async def build_cache(request: Request, tools: layer_build.Tools) -> records.CacheRecord:
    """Build all images of a cache, then publish its record, which makes it Ready.

    Raises what agent.clients.registry.distribution, agent.build.* and agent.store.publish.writer
    document. After layer_build.CacheTooLarge and LayerTooLarge nothing of this build is left in
    the store; after other failures the layers that were finished are, for the next try.
    """
    with build_claims.Claim(tools.store, request.cache_id) as claim:
        build = _Build(request, tools, claim)
        try:
            return await build.run()
        except (layer_build.CacheTooLarge, layer_build.LayerTooLarge):
            await threads.run("clean", build.remove_new_layers)
            raise


@dataclasses.dataclass(frozen=True, slots=True)
class _Chosen:
    """The manifest of an image for one platform, and what was read on the way to it.

    `indexes` are those below the one that the reference names. An artifact has no `config` that
    is read here.
    """

    served: layer_build.Manifest
    manifest: oci.Manifest
    indexes: tuple[layer_build.Manifest, ...]
    config: oci.Config | None = None
    config_data: bytes = b""


class _Build:
    def __init__(
        self, request: Request, tools: layer_build.Tools, claim: build_claims.Claim
    ) -> None:
        self._request = request
        self._tools = tools
        self._claim = claim
        self._place = tools.store
        self._budget = layer_build.Budget(
            request.capacity, factor=request.capacity_factor, most=request.capacity_most
        )
        self._layers = layer_stack.Layers(tools, self._budget, self._count_on)
        self._files: dict[str, str] = {}
        """The name of the layer file for a chain ID: its diff ID, or that of a variant."""

    async def run(self) -> records.CacheRecord:
        started = time.monotonic()
        await threads.run("sweep", writer.sweep, self._place)
        await threads.run("sweep", self._sweep_scratch)
        store = await threads.run("open", direct_reader.open_store, self._place.root)
        cached = [
            await self._image(layer_stack.Image(reference, store.compression, _tally()))
            for reference in dict.fromkeys(self._request.references)
        ]
        record = records.CacheRecord(
            id=self._request.cache_id,
            name=self._request.name,
            images=cached,
            size=self._budget.size,
            capacity=self._budget.capacity,
            created=_now(),
            build_seconds=round(time.monotonic() - started, 3),
            namespaces=_listed(self._request.namespaces),
            retention_days=self._request.retention_days,
        )
        await threads.run("publish", self._publish_cache, record)
        return record

    async def _count_on(self, names: Iterable[str], references: Iterable[str] = ()) -> None:
        """Claim things before looking for them; wait while some are being deleted.

        Raises BeingDeleted where that does not come to its end.
        """
        wanted, named = list(names), list(references)
        loop = asyncio.get_running_loop()
        end = loop.time() + _DELETION_SECONDS
        while True:
            generation = await threads.run("claim", self._claim.add, wanted, named)
            if generation is None:
                return
            if loop.time() > end:
                raise BeingDeleted(generation)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _sweep_scratch(self) -> None:
        folder = self._tools.scratch.folder
        moment = files.time_at(folder) - writer.DAY
        for path in folder.glob(f"{layer_build.SCRATCH_PREFIX}*.erofs"):
            if files.was_written_before(path, moment):
                path.unlink(missing_ok=True)

    async def _image(self, image: layer_stack.Image) -> records.CachedImage:
        reference, tally = image.reference, image.tally
        top = await self._tools.registry.manifest(reference)
        if self._tools.signatures is not None:
            # Of these bytes, whatever the tag says later: all that is built follows from them.
            await self._tools.signatures.check(reference, top.digest)
        parsed = oci.parse(top.data, top.media_type)
        await self._count_on([top.digest], [str(reference)])
        blobs = [top.data]
        platforms: dict[str, records.PlatformImage] = {}
        missing: list[oci.WrongPlatform] = []
        for wanted in self._request.platforms:
            try:
                chosen = await self._choose(reference, top, wanted)
                one, more = await self._platform(image, chosen, wanted)
            except oci.WrongPlatform as error:
                missing.append(error)
                continue
            blobs += more
            platforms[one.manifest] = one
        if missing and (self._request.every_platform or not platforms):
            raise missing[0]
        record = records.ImageRecord(
            ref=str(reference),
            target=top.digest,
            target_media_type=parsed.media_type,
            target_size=len(top.data),
            platforms=list(platforms.values()),
            created=_now(),
            build_seconds=round(time.monotonic() - tally.started, 3),
            fetched_bytes=tally.fetched,
        )
        await threads.run("publish", self._publish_image, record, blobs)
        layers = {item.diff_id: item for one in record.platforms for item in one.layers}
        return records.CachedImage(
            ref=record.ref,
            target=record.target,
            size=sum(item.size for item in layers.values()),
            layers=list(layers),
            bottoms=list(
                dict.fromkeys(one.layers[0].diff_id for one in record.platforms if one.layers)
            ),
        )

    async def _choose(
        self, reference: images.Reference, top: layer_build.Manifest, wanted: images.Platform
    ) -> "_Chosen":
        """Follow indexes to the manifest for a platform; raise WrongPlatform, UnsupportedImage."""
        served, parsed = top, oci.parse(top.data, top.media_type)
        indexes: list[layer_build.Manifest] = []
        while isinstance(parsed, oci.Index):
            if len(indexes) == oci.MAX_INDEXES:
                raise oci.UnsupportedImage("its indexes name one another without end")
            indexes.append(served)
            entry = oci.choose(parsed, wanted, reference=str(reference))
            served = await self._tools.registry.manifest(reference, entry.digest)
            parsed = oci.parse(served.data, entry.media_type or served.media_type)
        if parsed.artifact_type:
            return _Chosen(served, parsed, tuple(indexes[1:]))
        data = await self._tools.registry.small_blob(reference, parsed.config.digest)
        config = oci.parse_config(data)
        if not oci.fits(config, wanted):
            raise oci.WrongPlatform(str(reference), str(wanted), [str(config.platform)])
        return _Chosen(served, parsed, tuple(indexes[1:]), config, data)

    async def _platform(
        self, image: layer_stack.Image, chosen: "_Chosen", wanted: images.Platform
    ) -> tuple[records.PlatformImage, list[bytes]]:
        if chosen.config is None:
            return await self._artifact(image, chosen, wanted)
        planned = oci.layers(chosen.manifest, chosen.config)
        blobs = [one.digest for one in chosen.indexes]
        blobs += [chosen.served.digest, chosen.manifest.config.digest]
        if any(oci.is_native(layer.blob.media_type) for layer in planned):
            if not self._request.native:
                raise native_image.NotAllowed(str(image.reference))
            return await self._native(image, chosen, wanted, planned)
        one = records.PlatformImage(
            platform=str(wanted),
            manifest=chosen.served.digest,
            manifest_media_type=chosen.manifest.media_type,
            manifest_size=len(chosen.served.data),
            config=chosen.manifest.config.digest,
            indexes=[index.digest for index in chosen.indexes],
            layers=await self._stacked(image, planned, blobs),
        )
        indexes = [index.data for index in chosen.indexes]
        return one, [*indexes, chosen.served.data, chosen.config_data]

    async def _artifact(
        self, image: layer_stack.Image, chosen: "_Chosen", wanted: images.Platform
    ) -> tuple[records.PlatformImage, list[bytes]]:
        """Build an artifact's files as one layer, and the image that nodes know in its place."""
        layer = artifact_files.layer_of(chosen.manifest)
        kind = chosen.manifest.artifact_type
        read = [*chosen.indexes, chosen.served]
        layers = await self._stacked(image, [layer], [one.digest for one in read])
        made = artifact_image.made_of(
            layer,
            digest=chosen.served.digest,
            kind=kind,
            platform=wanted,
            size=layers[0].tar_size,
        )
        return await self._published_as(chosen, wanted, layers, made, kind=kind)

    async def _native(
        self,
        image: layer_stack.Image,
        chosen: "_Chosen",
        wanted: images.Platform,
        planned: Sequence[oci.Layer],
    ) -> tuple[records.PlatformImage, list[bytes]]:
        """Take native layers, and make the image that every containerd takes in place of theirs."""
        read = [*chosen.indexes, chosen.served]
        layers = await self._stacked(image, planned, [one.digest for one in read])
        made = artifact_image.made_of_native(
            planned,
            chosen.config_data,
            digest=chosen.served.digest,
            sizes=[layer.tar_size for layer in layers],
        )
        return await self._published_as(chosen, wanted, layers, made, kind=oci.NATIVE_LAYER)

    async def _published_as(
        self,
        chosen: "_Chosen",
        wanted: images.Platform,
        layers: list[records.ImageLayer],
        made: artifact_image.Made,
        *,
        kind: str,
    ) -> tuple[records.PlatformImage, list[bytes]]:
        """The image that nodes know in place of what the registry has, and its documents."""
        one = records.PlatformImage(
            platform=str(wanted),
            manifest=digests.sha256(made.manifest),
            manifest_media_type=oci.IMAGE_MANIFEST,
            manifest_size=len(made.manifest),
            config=digests.sha256(made.config),
            indexes=[index.digest for index in chosen.indexes],
            layers=layers,
            artifact=records.Artifact(type=kind, manifest=chosen.served.digest),
        )
        await self._count_on([one.manifest, one.config])
        read = [*chosen.indexes, chosen.served]
        return one, [*(each.data for each in read), made.manifest, made.config]

    async def _stacked(
        self, image: layer_stack.Image, planned: Sequence[oci.Layer], blobs: Sequence[str]
    ) -> list[records.ImageLayer]:
        """The layers of an image, once they are in the store; `blobs` are claimed with them."""
        names = [name for layer in planned for name in (layer.diff_id, layer.chain_id)]
        await self._count_on([*blobs, *names])
        self._budget.expect({layer.blob.digest: layer.blob.size for layer in planned})
        used = await self._layers.stack(image, planned)
        self._files |= {
            layer.chain_id: record.diff_id for layer, record in zip(planned, used, strict=True)
        }
        return [
            records.ImageLayer(
                diff_id=layer.diff_id,
                chain_id=layer.chain_id,
                digest=layer.blob.digest,
                media_type=layer.blob.media_type,
                size=layer.blob.size,
                tar_size=record.tar_size,
                erofs_size=record.size,
            )
            for layer, record in zip(planned, used, strict=True)
        ]

    def _publish_image(self, record: records.ImageRecord, blobs: Sequence[bytes]) -> None:
        for one in record.platforms:
            parent = None
            for item in one.layers:
                file = self._files[item.chain_id]
                chain = records.ChainRecord(
                    diff_id=file,
                    parent=parent,
                    variant_of=item.diff_id if file != item.diff_id else None,
                )
                writer.publish_chain(self._place, item.chain_id, chain)
                self._tools.witness.add(signatures.of_chain(item.chain_id, chain))
                parent = item.chain_id
        for data in blobs:
            writer.publish_blob(self._place, data)
        writer.publish_image(self._place, record)
        self._layers.look_again()
        self._tools.witness.add(signatures.of_image(record))

    def _publish_cache(self, record: records.CacheRecord) -> None:
        self._claim.check()
        writer.publish_cache(self._place, record)
        self._tools.witness.add(signatures.of_cache(record))
        self._claim.finish()

    def remove_new_layers(self) -> None:
        """Remove the layers that this build made, except those that another one needs."""
        layer_writer.take_back(self._place, self._layers.new, self._claim.others)
        self._claim.withdraw()


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _tally() -> layer_build.Tally:
    return layer_build.Tally(started=time.monotonic())


def _now() -> str:
    return times.stamp(times.now())
