"""One layer: fetched, verified, unpacked, converted, published."""

import contextlib
import dataclasses
import enum
import logging
import pathlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from agent import errors
from agent.build import limits, mkfs_erofs, scratch_room, unpack
from agent.build.artifacts import assembly
from agent.build.bulk import grafting, spool
from agent.build.native import native_image
from agent.build.tar import corrections, detours, inheritance
from agent.clients.registry import failures
from agent.kits import units
from agent.kits.aio import threads
from agent.model import images, oci, records
from agent.model.artifacts import artifact_files
from agent.store import hash_tree, layer_file, layout
from agent.store.publish import attestation, layer_writer, writer

logger = logging.getLogger(__name__)

_COMPRESSING = 2
"""Threads that compress the large files of a layer: faster than one can decompress its blob."""

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
    """Where images come from (agent.clients.registry.distribution.Client).

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

    def distrust(self, reference: images.Reference, digest: str) -> bool:
        """Note that a blob has wrong bytes; whether a host is left that has not given it so."""

    async def gives(self, reference: images.Reference, digest: str) -> bool:
        """Whether the registry would give a blob to this build's credentials, by one HEAD."""

    async def is_public(
        self, reference: images.Reference, blob: oci.Descriptor, *, ask: bool
    ) -> bool:
        """Whether the registry gave a blob without credentials, or does so where it is asked."""


class LayerMismatch(errors.PermanentError):
    """A layer's bytes, or what they unpack to, are not what the image says; also the second time.

    `what` is the thing, `expected` and `actual` are the digests, `blob` is that of the blob.
    """

    def __init__(self, what: str, *, blob: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{what} is damaged at the registry, or on the way: expected {expected}, got {actual}"
        )
        self.what = what
        self.blob = blob
        self.expected = expected
        self.actual = actual


def wrong_blob(reference: images.Reference, expected: str, actual: str) -> LayerMismatch:
    """What is raised for a blob of an artifact that has another digest."""
    what = f"layer {expected} of {reference}"
    return LayerMismatch(what, blob=expected, expected=expected, actual=actual)


class LayerUnusable(errors.PermanentError):
    """A layer has the right bytes, but cannot be unpacked. `what` it is, `fault` says why.

    With whiteouts (`has_whiteouts`) it may yet be one at the bottom of an image.
    """

    def __init__(self, what: str, fault: errors.AgentError, *, has_whiteouts: bool = False) -> None:
        super().__init__(f"{what}: {fault}")
        self.what = what
        self.fault = fault
        self.has_whiteouts = has_whiteouts


class CacheTooLarge(errors.PermanentError):
    """The images are larger than the cache may be. `size` and `capacity` are bytes.

    One that `grows` is an automatic cache: its manifest sets no limit.
    """

    def __init__(self, size: int, capacity: int, *, grows: bool = False) -> None:
        advice = (
            "raise UIMGACC_AUTO_FACTOR or the share of its namespace, UIMGACC_AUTO_SHARE, or create"
            " a cache of these images with an imageCacheSize"
            if grows
            else "raise its size (imageCacheSize), or name fewer images"
        )
        super().__init__(
            f"the images need more in the store than the {units.size(capacity)} that the cache may"
            f" have ({units.size(size)} so far): {advice}"
        )
        self.size = size
        self.capacity = capacity


class Digests(Protocol):
    """What a blob turned out to be."""

    @property
    def blob_digest(self) -> str:
        """Of the bytes that came."""

    @property
    def diff_id(self) -> str:
        """Of the tar that they unpack to."""

    @property
    def fault(self) -> errors.AgentError | None:
        """Why they cannot be unpacked."""


def verify(
    actual: Digests, layer: oci.Layer, reference: images.Reference, *, has_whiteouts: bool = False
) -> None:
    """Raise LayerMismatch or LayerUnusable unless a blob is the layer that its image names."""
    what = f"layer {layer.blob.digest} of {reference}"
    is_artifact = isinstance(layer, artifact_files.Layer)
    if actual.blob_digest != layer.blob.digest and not is_artifact:
        blob = layer.blob.digest
        raise LayerMismatch(what, blob=blob, expected=blob, actual=actual.blob_digest)
    if actual.fault is not None:
        raise LayerUnusable(what, actual.fault, has_whiteouts=has_whiteouts)
    if is_artifact:
        # Its blobs were verified one by one, and its diff ID is the digest of no tar.
        return
    if actual.diff_id != layer.diff_id:
        raise LayerMismatch(
            f"what {what} unpacks to",
            blob=layer.blob.digest,
            expected=layer.diff_id,
            actual=actual.diff_id,
        )


def _read(layer: oci.Layer, bounds: limits.Limits) -> unpack.Read:
    """What makes the tar of a layer from its blobs."""
    if isinstance(layer, artifact_files.Layer):
        return assembly.Assembly(layer, bounds).pieces
    return unpack.read_blob(compressed=oci.is_compressed(layer.blob.media_type))


async def public(
    registry: Registry, reference: images.Reference, layer: oci.Layer, *, ask: bool
) -> bool:
    """Whether the registry gives all blobs of a layer to everybody; see Registry.is_public."""
    for blob in layer.blobs:
        if blob.size and not await registry.is_public(reference, blob, ask=ask):
            return False
    return True


class LayerTooLarge(errors.PermanentError):
    """A layer unpacks to more than can fit into the cache. `what` it is, `fault` says how much."""

    def __init__(self, what: str, fault: limits.NoRoom) -> None:
        super().__init__(f"{what}: {fault}: raise its size (imageCacheSize), or name fewer images")
        self.what = what
        self.fault = fault


class Stage(enum.Enum):
    """What is being done with a layer."""

    WAITING = "waiting"
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


class Signatures(Protocol):
    """What decides which images may be built (agent.build.signatures.cosign.Verifier)."""

    async def check(self, reference: images.Reference, digest: str) -> None:
        """Raise AgentError for a manifest or index that may not be built, or not yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What to build with: all opened by the role."""

    store: layout.Layout
    registry: Registry
    mkfs: mkfs_erofs.Mkfs
    scratch: scratch_room.Room
    """A local folder; mkfs.erofs keeps the files of a layer there, uncompressed."""
    machine: limits.Machine
    """The memory of the builder, and how many layers are worked on at a time."""
    signatures: Signatures | None = None
    """None: every image may be built."""
    on_progress: Callable[[Progress], None] = lambda _: None
    witness: attestation.Attestation = dataclasses.field(default_factory=attestation.Attestation)
    """What this build vouches for: one for each build."""


class Budget:
    """The bytes of the layer files of one cache, each file counted once, by its name.

    It grows to `factor` times what the images have at the registry, up to `most` bytes.
    """

    def __init__(self, capacity: int, *, factor: float = 0.0, most: int = 0) -> None:
        self._capacity = capacity
        self._factor = factor
        self._most = most
        self._blobs: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    @property
    def capacity(self) -> int:
        """Bytes that the files may have, by what is known of the images so far."""
        grown = int(self._factor * sum(self._blobs.values()))
        return max(self._capacity, min(grown, self._most))

    def expect(self, blobs: Mapping[str, int]) -> None:
        """Take in what an image has at the registry: the sizes of its blobs, by their digests."""
        self._blobs.update(blobs)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    @property
    def left(self) -> int:
        """Bytes that the files to come may have."""
        return max(0, self.capacity - self.size)

    def add(self, name: str, size: int) -> None:
        """Count a file; raise CacheTooLarge."""
        self._sizes[name] = size
        if self.size > self.capacity:
            raise CacheTooLarge(self.size, self.capacity, grows=bool(self._factor))


@dataclasses.dataclass(slots=True)
class Tally:
    """What one image cost."""

    started: float
    fetched: int = 0


class LayerWork:
    """The making of one layer that is not in the store."""

    def __init__(
        self,
        tools: Tools,
        reference: images.Reference,
        layer: oci.Layer,
        *,
        compression: str,
        position: inheritance.Position = inheritance.ANYWHERE,
    ) -> None:
        self._tools = tools
        self._reference = reference
        self._layer = layer
        self._position = position
        self._name = inheritance.variant_id(layer.diff_id, position) if position else layer.diff_id
        self._compression = compression
        self._fetched = layer.blob.digest
        self._done = 0

    async def run(self, tally: Tally, budget: Budget) -> records.LayerRecord:
        """Fetch, convert, verify, publish; what is wrong once is fetched once more.

        It is as long as a host is left that has not given it wrongly.
        """
        tries = 0
        while True:
            try:
                return await self._try(tally, budget)
            except (LayerMismatch, failures.WrongContent) as error:
                tries += 1
                wrong = error.blob if isinstance(error, LayerMismatch) else self._fetched
                has_others = self._tools.registry.distrust(self._reference, wrong)
                once_more = isinstance(error, LayerMismatch) and tries == 1
                if not (has_others or once_more):
                    raise
                logger.warning(
                    "fetching a layer again",
                    extra={"image": str(self._reference), "reason": str(error)},
                )

    async def _try(self, tally: Tally, budget: Budget) -> records.LayerRecord:
        store, layer = self._tools.store, self._layer
        draft = await threads.run("draft", layer_writer.draft_of, store, self._name)
        work = await threads.run("place", self._workplace, draft)
        try:
            bounds = self._limits(budget)
            unpacked = await self._made(work, tally, bounds)
            self._report(Stage.PUBLISHING)
            # Before it is copied: what does not fit must not fill the store.
            budget.add(self._name, work.stat().st_size)
            record = await threads.run("describe", self._describe, work, draft, unpacked)
            is_public = await public(self._tools.registry, self._reference, layer, ask=True)
            record = msgspec.structs.replace(record, public=is_public)
            budget.add(self._name, record.size)
            record = await threads.run(
                "publish",
                layer_writer.publish_layer,
                store,
                draft,
                record,
                self._tools.witness.believes,
            )
        finally:
            for path in (work, draft):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        self._report(Stage.DONE)
        return record

    async def _made(
        self, work: pathlib.Path, tally: Tally, bounds: limits.Limits
    ) -> unpack.Unpacked | unpack.Identified:
        """Make the EROFS image, in a second pass where the first one shows that it must be."""
        layer = self._layer
        if oci.is_native(layer.blob.media_type):
            return await self._take(work, tally, bounds)
        unpacked = await self._convert(work, tally, corrections.NONE, bounds)
        if unpacked.corrections:
            logger.info(
                "a second pass: entries of the tar change earlier ones",
                extra={"layer": layer.diff_id, "files": len(unpacked.corrections.files)},
            )
            await threads.run("clear", work.unlink)
            unpacked = await self._convert(work, tally, unpacked.corrections, bounds)
        return unpacked

    async def _take(
        self, work: pathlib.Path, tally: Tally, bounds: limits.Limits
    ) -> unpack.Identified:
        """Take a layer that is an EROFS image as it is, once it is one that nodes may read."""
        layer, scratch = self._layer, self._tools.scratch
        account = limits.Account(bounds)
        self._done = 0
        with scratch.share() as share, native_image.Draft(work, account, share.take) as draft:
            async with contextlib.aclosing(self._blobs()) as chunks:
                with self._explained():
                    taken = await unpack.identify(
                        chunks,
                        compressed=oci.is_compressed(layer.blob.media_type),
                        limit=None,
                        on_bytes=self._counting(tally),
                        keep=draft.write,
                    )
            verify(taken, layer, self._reference)
        self._report(Stage.CONVERTING)
        try:
            await native_image.check(work, self._tools.mkfs.command)
        except native_image.NotUsable as error:
            what = f"layer {layer.blob.digest} of {self._reference}"
            raise LayerUnusable(what, error) from error
        return taken

    def _counting(self, tally: Tally) -> Callable[[int], None]:
        def on_bytes(count: int) -> None:
            self._done += count
            tally.fetched += count
            self._report(Stage.FETCHING)

        return on_bytes

    def _limits(self, budget: Budget) -> limits.Limits:
        size = self._layer.blob.size
        bounds = limits.Limits(blob=size, room=budget.left, memory=self._tools.machine.of_layer)
        with self._explained():
            # Not fetched at all where it is larger than what it may unpack to.
            limits.Account(bounds).unpack(size)
        return bounds

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of which layer it is that it takes too much, or cannot be used."""
        what = f"layer {self._layer.blob.digest} of {self._reference}"
        try:
            yield
        except assembly.UnusableFile as error:
            raise LayerUnusable(f"a file of {self._reference}", error) from error
        except assembly.WrongBlob as error:
            raise wrong_blob(self._reference, error.expected, error.actual) from error
        except limits.NoRoom as error:
            raise LayerTooLarge(what, error) from error
        except limits.TooMuch as error:
            raise LayerUnusable(what, error) from error

    async def _convert(
        self,
        draft: pathlib.Path,
        tally: Tally,
        known: corrections.Corrections,
        bounds: limits.Limits,
    ) -> unpack.Unpacked:
        tools, layer = self._tools, self._layer

        self._done = 0
        wanted = unpack.Layer(
            read=_read(layer, bounds),
            position=self._position,
            known=known,
            limits=bounds,
        )
        running = mkfs_erofs.running(
            tools.mkfs,
            draft,
            diff_id=self._name,
            compression=self._compression,
            scratch=tools.scratch.folder,
        )
        with tools.scratch.share() as share, self._spool(draft) as bulk:
            async with running as run:
                unpacked = await self._unpack(
                    run, wanted, bulk=bulk, on_bytes=self._counting(tally), on_write=share.take
                )
                verify(unpacked, layer, self._reference, has_whiteouts=unpacked.has_whiteouts)
                self._report(Stage.CONVERTING)
                await run.wait()
            await threads.run("graft", self._complete, draft, bulk)
        return unpacked

    def _complete(self, image: pathlib.Path, bulk: spool.Spool) -> None:
        """Have the image of mkfs.erofs be the whole layer."""
        fault = layer_file.superblock_fault(image)
        if fault is not None:
            raise mkfs_erofs.ConversionFailed(self._name, fault)
        grafting.graft(image, bulk)

    def _spool(self, draft: pathlib.Path) -> spool.Spool:
        # mkfs.erofs writes what it does not compress at once, and keeps nothing of it.
        stays = self._compression == "none"
        diverted = detours.Detours.none() if stays else detours.Detours(self._name)
        path = draft.with_suffix(".bulk.erofs")
        return spool.Spool(path, diverted, threads=_COMPRESSING)

    async def _unpack(
        self,
        run: mkfs_erofs.Run,
        wanted: unpack.Layer,
        *,
        bulk: spool.Spool,
        on_bytes: Callable[[int], None],
        on_write: Callable[[int], None],
    ) -> unpack.Unpacked:
        async with contextlib.aclosing(self._blobs()) as chunks:
            try:
                with self._explained():
                    return await unpack.unpack(
                        chunks, run.pipe, wanted, bulk=bulk, on_bytes=on_bytes, on_write=on_write
                    )
            except (unpack.ReaderGone, threads.Closed):
                await run.wait()
                raise

    async def _blobs(self) -> AsyncGenerator[bytes, None]:
        """The bytes of all blobs, one after another."""
        for blob in self._layer.blobs:
            self._fetched = blob.digest
            served = self._tools.registry.blob(self._reference, blob.digest, blob.size)
            async with contextlib.aclosing(served) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _workplace(self, draft: pathlib.Path) -> pathlib.Path:
        """Where mkfs.erofs works: it writes the layer's files to its output first, uncompressed.

        Far behind what will be the image, and reads them back: nothing to do over
        NFS. On the store's own file system it may as well work in the store.
        """
        scratch = self._tools.scratch.folder
        if draft.parent.stat().st_dev == scratch.stat().st_dev:
            return draft
        return scratch / f"{SCRATCH_PREFIX}{draft.name}"

    def _describe(
        self,
        work: pathlib.Path,
        draft: pathlib.Path,
        unpacked: unpack.Unpacked | unpack.Identified,
    ) -> records.LayerRecord:
        """Bring the finished file with its hash tree into the store's tmp/, and say what it is."""
        chosen = hash_tree.Parameters.of(self._name)
        with writer.translated(draft):
            sealed = hash_tree.seal(work, draft, chosen, scratch=work.parent)
        implied: tuple[bytes, ...] = ()
        has_whiteouts = False
        toolchain = native_image.TOOLCHAIN
        if isinstance(unpacked, unpack.Unpacked):
            toolchain = self._tools.mkfs.toolchain(self._compression)
            if not self._position:
                implied, has_whiteouts = unpacked.implied, unpacked.has_whiteouts
        return records.LayerRecord(
            diff_id=self._name,
            size=draft.stat().st_size,
            tar_size=unpacked.tar_size,
            sha256=sealed.digest,
            blobs=[self._layer.blob.digest],
            mkfs=toolchain,
            implied=inheritance.encode(implied),
            has_whiteouts=has_whiteouts,
            sources=[self._reference.name],
            verity=sealed.verity,
        )

    def _report(self, stage: Stage) -> None:
        layer = self._layer
        self._tools.on_progress(
            Progress(str(self._reference), layer.blob.digest, stage, self._done, layer.blob.size)
        )
