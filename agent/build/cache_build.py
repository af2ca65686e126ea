"""One build: images from their registries into a store, then the cache that names them.

What is in the store already is not fetched again, so a build that was interrupted
goes on where it was. Everything a record names is there before the record is.
"""

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Sequence

from agent import errors
from agent.build import layer_build
from agent.build.tar import headers, inheritance
from agent.kits.aio import tasks, threads
from agent.model import images, oci, records, times
from agent.store.lookup import direct_reader
from agent.store.publish import build_claims, layer_writer, writer

_DELETION_SECONDS = 600.0
"""A collector that lives is through with what it has begun long before."""

_LOOK_AGAIN_SECONDS = 1.0

_BOTTOM = inheritance.Position(is_bottom=True)


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


async def build_cache(request: Request, tools: layer_build.Tools) -> records.CacheRecord:
    """Build all images of a cache, then publish its record, which makes it Ready.

    Raises what agent.clients.registry.distribution, agent.build.* and agent.store.publish.writer
    document. After layering.CacheTooLarge nothing of this build is left in the store; after
    other failures the layers that were finished are, for the next try.
    """
    with build_claims.Claim(tools.store, request.cache_id) as claim:
        build = _Build(request, tools, claim)
        try:
            return await build.run()
        except layer_build.CacheTooLarge:
            await threads.run("clean", build.remove_new_layers)
            raise


@dataclasses.dataclass(frozen=True, slots=True)
class _Chosen:
    """The manifest of an image for one platform, and what was read on the way to it.

    `indexes` are those below the one that the reference names.
    """

    served: layer_build.Manifest
    manifest: oci.Manifest
    config: oci.Config
    config_data: bytes
    indexes: tuple[layer_build.Manifest, ...]


class _Build:
    def __init__(
        self, request: Request, tools: layer_build.Tools, claim: build_claims.Claim
    ) -> None:
        self._request = request
        self._tools = tools
        self._claim = claim
        self._place = tools.store
        self._budget = layer_build.Budget(request.capacity)
        self._slots = asyncio.Semaphore(tools.parallel)
        self._locks: dict[str, asyncio.Lock] = {}
        self._new: set[str] = set()
        self._files: dict[str, str] = {}
        """The name of the layer file for a chain ID: its diff ID, or that of a variant."""

    async def run(self) -> records.CacheRecord:
        started = time.monotonic()
        await threads.run("sweep", writer.sweep, self._place)
        await threads.run("sweep", self._sweep_scratch)
        store = await threads.run("open", direct_reader.open_store, self._place.root)
        cached = [
            await self._image(reference, compression=store.compression)
            for reference in dict.fromkeys(self._request.references)
        ]
        record = records.CacheRecord(
            id=self._request.cache_id,
            name=self._request.name,
            images=cached,
            size=self._budget.size,
            capacity=self._request.capacity,
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
        for path in self._tools.scratch.glob(f"{layer_build.SCRATCH_PREFIX}*.erofs"):
            if writer.age(path) > writer.DAY:
                path.unlink(missing_ok=True)

    async def _image(self, reference: images.Reference, *, compression: str) -> records.CachedImage:
        tally = layer_build.Tally(started=time.monotonic())
        top = await self._tools.registry.manifest(reference)
        parsed = oci.parse(top.data, top.media_type)
        await self._count_on([top.digest], [str(reference)])
        blobs = [top.data]
        platforms: dict[str, records.PlatformImage] = {}
        missing: list[oci.WrongPlatform] = []
        for wanted in self._request.platforms:
            try:
                chosen = await self._choose(reference, top, wanted)
                one, more = await self._platform(
                    reference, chosen, wanted, tally=tally, compression=compression
                )
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
        data = await self._tools.registry.small_blob(reference, parsed.config.digest)
        config = oci.parse_config(data)
        if not oci.fits(config, wanted):
            raise oci.WrongPlatform(str(reference), str(wanted), [str(config.platform)])
        return _Chosen(served, parsed, config, data, tuple(indexes[1:]))

    async def _platform(
        self,
        reference: images.Reference,
        chosen: "_Chosen",
        wanted: images.Platform,
        *,
        tally: layer_build.Tally,
        compression: str,
    ) -> tuple[records.PlatformImage, list[bytes]]:
        planned = oci.layers(chosen.manifest, chosen.config)
        blobs = [one.digest for one in chosen.indexes]
        blobs += [chosen.served.digest, chosen.manifest.config.digest]
        names = [name for layer in planned for name in (layer.diff_id, layer.chain_id)]
        await self._count_on([*blobs, *names])
        for layer in planned:
            self._report(reference, layer, layer_build.Stage.WAITING)
        used = await tasks.together(
            *(
                self._layer(
                    reference, layer, tally=tally, compression=compression, is_bottom=at == 0
                )
                for at, layer in enumerate(planned)
            )
        )
        for at, layer in enumerate(planned):
            if used[at].implied or (used[at].has_whiteouts and at == 0):
                used[at] = await self._variant(
                    reference, layer, used[: at + 1], tally=tally, compression=compression
                )
            self._files[layer.chain_id] = used[at].diff_id
        one = records.PlatformImage(
            platform=str(wanted),
            manifest=chosen.served.digest,
            manifest_media_type=chosen.manifest.media_type,
            manifest_size=len(chosen.served.data),
            config=chosen.manifest.config.digest,
            indexes=[index.digest for index in chosen.indexes],
            layers=[
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
            ],
        )
        indexes = [index.data for index in chosen.indexes]
        return one, [*indexes, chosen.served.data, chosen.config_data]

    async def _layer(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        *,
        tally: layer_build.Tally,
        compression: str,
        is_bottom: bool,
    ) -> records.LayerRecord:
        async with self._locks.setdefault(layer.diff_id, asyncio.Lock()), self._slots:
            record = await self._stored(layer)
            if record is None and is_bottom:
                record = await self._stored(_at_bottom(layer))
            if record is None:
                record = await self._made_anew(
                    reference, layer, tally=tally, compression=compression, is_bottom=is_bottom
                )
            else:
                self._budget.add(layer.diff_id, record.size)
                self._report(reference, layer, layer_build.Stage.REUSED)
            return record

    async def _made_anew(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        *,
        tally: layer_build.Tally,
        compression: str,
        is_bottom: bool,
    ) -> records.LayerRecord:
        """Make a layer; one that only the bottom of an image can be, as that."""
        work = layer_build.LayerWork(self._tools, reference, layer, compression=compression)
        try:
            return await self._made(work, layer.diff_id, tally)
        except layer_build.LayerUnusable as error:
            if not is_bottom or not isinstance(error.fault, headers.OwnWhiteoutError):
                raise
        variant = _at_bottom(layer).diff_id
        await self._count_on([variant])
        work = layer_build.LayerWork(
            self._tools, reference, layer, compression=compression, position=_BOTTOM
        )
        return await self._made(work, variant, tally)

    async def _variant(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        stack: Sequence[records.LayerRecord],
        *,
        tally: layer_build.Tally,
        compression: str,
    ) -> records.LayerRecord:
        """The layer as it must be on top of those below it; see agent.build.tar.inheritance."""
        plain = stack[-1]
        files = [self._place.layer(one.diff_id) for one in stack[:-1]]
        try:
            inherited = await threads.run(
                "look below", inheritance.look_below, plain.implied, files
            )
        except headers.LayerTarError as error:
            what = f"layer {layer.blob.digest} of {reference}"
            raise layer_build.LayerUnusable(what, error) from error
        position = inheritance.Position(inherited, plain.has_whiteouts and not files)
        if not position:
            return plain
        variants = [
            dataclasses.replace(layer, diff_id=name)
            for name in inheritance.names(layer.diff_id, position)
        ]
        name = variants[0].diff_id
        await self._count_on([variant.diff_id for variant in variants])
        async with self._locks.setdefault(name, asyncio.Lock()), self._slots:
            for variant in variants:
                record = await self._stored(variant)
                if record is not None:
                    self._budget.add(layer.diff_id, record.size)
                    return record
            work = layer_build.LayerWork(
                self._tools, reference, layer, compression=compression, position=position
            )
            return await self._made(work, name, tally)

    async def _stored(self, layer: oci.Layer) -> records.LayerRecord | None:
        """The layer's record; what replaces a damaged layer is claimed by its own name first."""
        record = await threads.run("look up", self._reuse, layer)
        if record is not None and record.diff_id != layer.diff_id:
            await self._count_on([record.diff_id])
            record = await threads.run("look up", self._reuse, layer)
        return record

    async def _made(
        self, work: layer_build.LayerWork, name: str, tally: layer_build.Tally
    ) -> records.LayerRecord:
        """Make a layer; where a damaged file has its name, the new one gets another."""
        self._new.add(name)
        made = await work.run(tally, self._budget)
        if made.diff_id != name:
            self._new.remove(name)
            self._new.add(made.diff_id)
            await self._count_on([made.diff_id])
        return made

    def _reuse(self, layer: oci.Layer) -> records.LayerRecord | None:
        record = direct_reader.Reader(self._place).layer(layer.diff_id)
        if record is None:
            return None
        return layer_writer.add_blobs(self._place, record, [layer.blob.digest])

    def _report(
        self, reference: images.Reference, layer: oci.Layer, stage: layer_build.Stage
    ) -> None:
        size = layer.blob.size
        done = 0 if stage is layer_build.Stage.WAITING else size
        self._tools.on_progress(
            layer_build.Progress(str(reference), layer.blob.digest, stage, done, size)
        )

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
                parent = item.chain_id
        for data in blobs:
            writer.publish_blob(self._place, data)
        writer.publish_image(self._place, record)

    def _publish_cache(self, record: records.CacheRecord) -> None:
        self._claim.check()
        writer.publish_cache(self._place, record)
        self._claim.finish()

    def remove_new_layers(self) -> None:
        """Remove the layers that this build made, except those that another one needs."""
        layer_writer.take_back(self._place, self._new, self._claim.others)
        self._claim.withdraw()


def _at_bottom(layer: oci.Layer) -> oci.Layer:
    """A layer under the name of its variant for the bottom of an image."""
    return dataclasses.replace(layer, diff_id=inheritance.variant_id(layer.diff_id, _BOTTOM))


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _now() -> str:
    return times.stamp(times.now())
