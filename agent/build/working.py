"""One build: images from their registries into a store, then the cache that names them.

What is in the store already is not fetched again, so a build that was interrupted
goes on where it was. Everything a record names is there before the record is.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import logging
import pathlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.build import converting, inheriting, planning, tarheaders, tarstream, unpacking
from agent.kits import threads
from agent.model import digests, images, records
from agent.store import checking, layout, publishing, reading

logger = logging.getLogger(__name__)

SCRATCH_PREFIX = "uimgacc-"
"""Begins the names of the files in the folder for temporary files."""


class Manifest(Protocol):
    """A manifest or index as a registry served it, verified."""

    @property
    def digest(self) -> str:
        """Its digest."""

    @property
    def media_type(self) -> str:
        """What the registry called it."""

    @property
    def data(self) -> bytes:
        """Its bytes."""


class Registry(Protocol):
    """Where images come from (agent.clients.registry.Client).

    Retries what is worth it by itself; what it raises is final for this build.
    """

    async def manifest(self, reference: images.Reference, digest: str = "") -> Manifest:
        """The manifest or index of a reference, or of a digest in its repository."""

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory, verified."""

    def blob(
        self, reference: images.Reference, digest: str, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, not verified."""


class LayerMismatch(errors.PermanentError):
    """A layer's bytes, or what they unpack to, are not what the image says; also the second time.

    `what` is the thing, `expected` and `found` the digests.
    """

    def __init__(self, what: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{what} is damaged at the registry, or on the way: expected {expected}, got {found}"
        )
        self.what = what
        self.expected = expected
        self.found = found


class LayerUnusable(errors.PermanentError):
    """A layer has the right bytes, but cannot be unpacked. `what` it is, `fault` says why."""

    def __init__(self, what: str, fault: errors.AgentError) -> None:
        super().__init__(f"{what}: {fault}")
        self.what = what
        self.fault = fault


class CacheTooLarge(errors.PermanentError):
    """The images are larger than the cache may be. `size` and `capacity` are bytes."""

    def __init__(self, size: int, capacity: int) -> None:
        super().__init__(
            f"the images need {size / 2**30:.2f} GiB or more in the store, the cache may have"
            f" {capacity / 2**30:.2f} GiB: raise its size (imageCacheSize), or name fewer images"
        )
        self.size = size
        self.capacity = capacity


class Stage(enum.Enum):
    """What is being done with a layer."""

    FETCHING = "fetching"
    CONVERTING = "converting"
    PUBLISHING = "publishing"
    DONE = "done"
    REUSED = "already in the store"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far one layer of an image is: `done` of `total` bytes of its blob."""

    image: str
    digest: str
    stage: Stage
    done: int
    total: int


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to build."""

    cache_id: str
    name: str
    references: tuple[images.Reference, ...]
    platforms: tuple[images.Platform, ...]
    capacity: int
    """Bytes that the layer files of the cache may have."""
    namespaces: tuple[str, ...] | None = None
    retention_days: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What to build with: all opened by the role."""

    store: layout.Layout
    registry: Registry
    mkfs: converting.Mkfs
    scratch: pathlib.Path
    """A local folder; mkfs.erofs keeps the files of a layer there, uncompressed."""
    parallel: int = 3
    """Layers worked on at a time."""
    on_progress: Callable[[Progress], None] = lambda _: None


class _Budget:
    """The bytes of the layer files of one cache, each layer counted once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._sizes: dict[str, int] = {}

    @property
    def size(self) -> int:
        return sum(self._sizes.values())

    def add(self, diff_id: str, size: int) -> None:
        self._sizes[diff_id] = size
        if self.size > self._capacity:
            raise CacheTooLarge(self.size, self._capacity)


@dataclasses.dataclass(slots=True)
class _Tally:
    """What one image cost."""

    started: float
    fetched: int = 0


async def build_cache(request: Request, tools: Tools) -> records.CacheRecord:
    """Build all images of a cache, then publish its record, which makes it Ready.

    Raises what agent.clients.registry, agent.build.* and agent.store.publishing
    document. After CacheTooLarge nothing of this build is left in the store; after
    other failures the layers that were finished are, for the next try.
    """
    build = _Build(request, tools)
    try:
        return await build.run()
    except CacheTooLarge:
        await threads.run("clean", build.remove_new_layers)
        raise


class _Build:
    def __init__(self, request: Request, tools: Tools) -> None:
        self._request = request
        self._tools = tools
        self._place = tools.store
        self._budget = _Budget(request.capacity)
        self._slots = asyncio.Semaphore(tools.parallel)
        self._locks: dict[str, asyncio.Lock] = {}
        self._new: set[str] = set()
        self._files: dict[str, str] = {}
        """The name of the layer file for a chain ID: its diff ID, or that of a variant."""

    async def run(self) -> records.CacheRecord:
        started = time.monotonic()
        await threads.run("sweep", publishing.sweep, self._place)
        await threads.run("sweep", self._sweep_scratch)
        store = await threads.run("open", reading.open_store, self._place.root)
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
        await threads.run("publish", publishing.publish_cache, self._place, record)
        return record

    def _sweep_scratch(self) -> None:
        for path in self._tools.scratch.glob(f"{SCRATCH_PREFIX}*.erofs"):
            if publishing.age(path) > publishing.DAY:
                path.unlink(missing_ok=True)

    async def _image(self, reference: images.Reference, *, compression: str) -> records.CachedImage:
        tally = _Tally(started=time.monotonic())
        top = await self._tools.registry.manifest(reference)
        parsed = planning.parse(top.data, top.media_type)
        blobs = [top.data]
        platforms: dict[str, records.PlatformImage] = {}
        for wanted in self._request.platforms:
            manifest = top
            if isinstance(parsed, planning.Index):
                chosen = planning.choose(parsed, wanted, reference=str(reference))
                manifest = await self._tools.registry.manifest(reference, chosen.digest)
            one, more = await self._platform(
                reference, manifest, wanted, tally=tally, compression=compression
            )
            blobs += more
            platforms[one.manifest] = one
        record = records.ImageRecord(
            ref=str(reference),
            target=top.digest,
            target_media_type=_media_type(parsed, top),
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

    async def _platform(
        self,
        reference: images.Reference,
        manifest: Manifest,
        wanted: images.Platform,
        *,
        tally: _Tally,
        compression: str,
    ) -> tuple[records.PlatformImage, list[bytes]]:
        parsed = planning.parse(manifest.data, manifest.media_type)
        if not isinstance(parsed, planning.Manifest):
            raise planning.UnsupportedImage("its index names another index")
        config_data = await self._tools.registry.small_blob(reference, parsed.config.digest)
        config = planning.parse_config(config_data)
        planned = planning.layers(parsed, config)
        if not planning.fits(config.platform, wanted):
            raise planning.WrongPlatform(str(reference), str(wanted), [str(config.platform)])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._layer(reference, layer, tally=tally, compression=compression),
                        name=f"layer {layer.diff_id}",
                    )
                    for layer in planned
                ]
        except* errors.AgentError as failures:
            raise _leaf(failures) from None
        used = [task.result() for task in tasks]
        for at, layer in enumerate(planned):
            if used[at].implied:
                used[at] = await self._variant(
                    reference, layer, used[: at + 1], tally=tally, compression=compression
                )
            self._files[layer.chain_id] = used[at].diff_id
        one = records.PlatformImage(
            platform=str(wanted),
            manifest=manifest.digest,
            manifest_media_type=_media_type(parsed, manifest),
            manifest_size=len(manifest.data),
            config=parsed.config.digest,
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
        return one, [manifest.data, config_data]

    async def _layer(
        self,
        reference: images.Reference,
        layer: planning.Layer,
        *,
        tally: _Tally,
        compression: str,
    ) -> records.LayerRecord:
        async with self._locks.setdefault(layer.diff_id, asyncio.Lock()), self._slots:
            found = await threads.run("look up", self._reuse, layer)
            if found is None:
                self._new.add(layer.diff_id)
                work = _LayerWork(self._tools, reference, layer, compression=compression)
                found = await work.run(tally, self._budget)
            else:
                self._budget.add(layer.diff_id, found.size)
                self._report(reference, layer, Stage.REUSED)
            return found

    async def _variant(
        self,
        reference: images.Reference,
        layer: planning.Layer,
        stack: Sequence[records.LayerRecord],
        *,
        tally: _Tally,
        compression: str,
    ) -> records.LayerRecord:
        """The layer as it must be on top of those below it; see agent.build.inheriting."""
        plain = stack[-1]
        files = [self._place.layer(one.diff_id) for one in stack[:-1]]
        inherited = await threads.run("look below", inheriting.look_below, plain.implied, files)
        if not inherited:
            return plain
        variant = dataclasses.replace(
            layer, diff_id=inheriting.variant_id(layer.diff_id, inherited)
        )
        async with self._locks.setdefault(variant.diff_id, asyncio.Lock()), self._slots:
            found = await threads.run("look up", self._reuse, variant)
            if found is None:
                self._new.add(variant.diff_id)
                work = _LayerWork(
                    self._tools, reference, layer, compression=compression, inherited=inherited
                )
                return await work.run(tally, self._budget)
            self._budget.add(layer.diff_id, found.size)
            return found

    def _reuse(self, layer: planning.Layer) -> records.LayerRecord | None:
        found = reading.Reader(self._place).layer(layer.diff_id)
        if found is None:
            return None
        return publishing.add_blobs(self._place, found, [layer.blob.digest])

    def _report(self, reference: images.Reference, layer: planning.Layer, stage: Stage) -> None:
        size = layer.blob.size
        self._tools.on_progress(Progress(str(reference), layer.blob.digest, stage, size, size))

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
                publishing.publish_chain(self._place, item.chain_id, chain)
                parent = item.chain_id
        for data in blobs:
            publishing.publish_blob(self._place, data)
        publishing.publish_image(self._place, record)

    def remove_new_layers(self) -> None:
        """Take back the layers that this build made and no image needs."""
        needed = publishing.referenced(reading.Reader(self._place))
        for diff_id in self._new:
            if digests.hex_of(diff_id) in needed:
                continue
            self._place.layer_record(diff_id).unlink(missing_ok=True)
            self._place.layer(diff_id).unlink(missing_ok=True)


class _LayerWork:
    """The making of one layer that is not in the store."""

    def __init__(
        self,
        tools: Tools,
        reference: images.Reference,
        layer: planning.Layer,
        *,
        compression: str,
        inherited: Mapping[bytes, tarstream.DirInfo] | None = None,
    ) -> None:
        self._tools = tools
        self._reference = reference
        self._layer = layer
        self._inherited = inherited or {}
        self._name = inheriting.variant_id(layer.diff_id, inherited) if inherited else layer.diff_id
        self._compression = compression
        self._done = 0

    async def run(self, tally: _Tally, budget: _Budget) -> records.LayerRecord:
        """Fetch, convert, verify, publish; what is wrong once is fetched once more."""
        try:
            return await self._try(tally, budget)
        except LayerMismatch as error:
            logger.warning(
                "fetching a layer again",
                extra={"image": str(self._reference), "reason": str(error)},
            )
            return await self._try(tally, budget)

    async def _try(self, tally: _Tally, budget: _Budget) -> records.LayerRecord:
        store, layer = self._tools.store, self._layer
        draft = await threads.run("draft", publishing.draft_of, store, self._name)
        work = await threads.run("place", self._workplace, draft)
        try:
            unpacked = await self._convert(work, tally, {})
            if unpacked.changed:
                logger.info(
                    "a second pass: hard links change their files",
                    extra={"layer": layer.diff_id, "files": len(unpacked.changed)},
                )
                work.unlink()
                unpacked = await self._convert(work, tally, unpacked.changed)
            self._report(Stage.PUBLISHING)
            record = await threads.run("describe", self._describe, work, draft, unpacked)
            budget.add(layer.diff_id, record.size)
            record = await threads.run("publish", publishing.publish_layer, store, draft, record)
        finally:
            for path in (work, draft):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        self._report(Stage.DONE)
        return record

    async def _convert(
        self, draft: pathlib.Path, tally: _Tally, overrides: Mapping[bytes, tarheaders.Entry]
    ) -> unpacking.Unpacked:
        tools, layer = self._tools, self._layer

        def on_bytes(count: int) -> None:
            self._done += count
            tally.fetched += count
            self._report(Stage.FETCHING)

        self._done = 0
        async with converting.running(
            tools.mkfs,
            draft,
            diff_id=self._name,
            compression=self._compression,
            scratch=tools.scratch,
        ) as run:
            blob = tools.registry.blob(self._reference, layer.blob.digest, layer.blob.size)
            async with contextlib.aclosing(blob) as chunks:
                try:
                    unpacked = await unpacking.unpack(
                        chunks,
                        run.pipe,
                        below=self._inherited.get,
                        overrides=overrides,
                        on_bytes=on_bytes,
                    )
                except (unpacking.ReaderGone, threads.Closed):
                    await run.wait()
                    raise
            self._verify(unpacked)
            self._report(Stage.CONVERTING)
            await run.wait()
        return unpacked

    def _verify(self, unpacked: unpacking.Unpacked) -> None:
        layer = self._layer
        what = f"layer {layer.blob.digest} of {self._reference}"
        if unpacked.blob_digest != layer.blob.digest:
            raise LayerMismatch(what, expected=layer.blob.digest, found=unpacked.blob_digest)
        if unpacked.fault is not None:
            raise LayerUnusable(what, unpacked.fault)
        if unpacked.diff_id != layer.diff_id:
            raise LayerMismatch(
                f"what {what} unpacks to", expected=layer.diff_id, found=unpacked.diff_id
            )

    def _workplace(self, draft: pathlib.Path) -> pathlib.Path:
        """Where mkfs.erofs works: it writes the layer's files to its output first, uncompressed.

        Far behind what will be the image, and reads them back: nothing to do over
        NFS. On the store's own file system it may as well work in the store.
        """
        if draft.parent.stat().st_dev == self._tools.scratch.stat().st_dev:
            return draft
        return self._tools.scratch / f"{SCRATCH_PREFIX}{draft.name}"

    def _describe(
        self, work: pathlib.Path, draft: pathlib.Path, unpacked: unpacking.Unpacked
    ) -> records.LayerRecord:
        """Bring the finished file into the store's tmp/, and say what it is."""
        fault = checking.superblock_fault(work)
        if fault is not None:
            raise converting.ConversionFailed(self._name, fault)
        if work == draft:
            digest = checking.sha256_of(draft)
        else:
            with publishing.translated(draft):
                digest = publishing.copy(work, draft)
        return records.LayerRecord(
            diff_id=self._name,
            size=draft.stat().st_size,
            tar_size=unpacked.tar_size,
            sha256=digest,
            blobs=[self._layer.blob.digest],
            mkfs=self._tools.mkfs.toolchain(self._compression),
            implied=[] if self._inherited else inheriting.encode(unpacked.implied),
        )

    def _report(self, stage: Stage) -> None:
        layer = self._layer
        self._tools.on_progress(
            Progress(str(self._reference), layer.blob.digest, stage, self._done, layer.blob.size)
        )


def _leaf(failures: BaseExceptionGroup[errors.AgentError]) -> errors.AgentError:
    """The first failure itself: the others were cancelled or would say the same."""
    first = failures.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


def _media_type(parsed: planning.Index | planning.Manifest, manifest: Manifest) -> str:
    return parsed.media_type or manifest.media_type


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
