"""The making of one layer: fetch, verify, unpack, convert, publish."""

import contextlib
import logging
import pathlib
from collections.abc import AsyncGenerator, Callable, Iterator

import msgspec

from agent.build import layer_build, limits, mkfs_erofs, unpack
from agent.build.artifacts import assembly
from agent.build.bulk import grafting, spool
from agent.build.native import native_image
from agent.build.tar import corrections, detours, inheritance
from agent.clients.registry import failures
from agent.kits.aio import threads
from agent.model import images, oci, records
from agent.model.artifacts import artifact_files
from agent.store import hash_tree, layer_file
from agent.store.publish import layer_writer, writer

logger = logging.getLogger(__name__)

_COMPRESSING = 2
"""Threads that compress the large files of a layer: faster than one can decompress its blob."""


class LayerWork:
    """The making of one layer that is not in the store."""

    def __init__(
        self,
        tools: layer_build.Tools,
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

    async def run(
        self, tally: layer_build.Tally, budget: layer_build.Budget
    ) -> records.LayerRecord:
        """Fetch, convert, verify, publish; what is wrong once is fetched once more.

        It is as long as a host is left that has not given it wrongly.
        """
        tries = 0
        while True:
            try:
                return await self._try(tally, budget)
            except (layer_build.LayerMismatch, failures.WrongContent) as error:
                tries += 1
                wrong, once_more = self._fetched, False
                if isinstance(error, layer_build.LayerMismatch):
                    wrong, once_more = error.blob, tries == 1
                has_others = self._tools.registry.distrust(self._reference, wrong)
                if not (has_others or once_more):
                    raise
                logger.warning(
                    "fetching a layer again",
                    extra={"image": str(self._reference), "reason": str(error)},
                )

    async def _try(
        self, tally: layer_build.Tally, budget: layer_build.Budget
    ) -> records.LayerRecord:
        store, layer = self._tools.store, self._layer
        draft = await threads.run("draft", layer_writer.draft_of, store, self._name)
        work = await threads.run("place", self._workplace, draft)
        try:
            bounds = self._limits(budget)
            unpacked = await self._made(work, tally, bounds)
            self._report(layer_build.Stage.PUBLISHING)
            # Before it is copied: what does not fit must not fill the store.
            budget.add(self._name, work.stat().st_size)
            record = await threads.run("describe", self._describe, work, draft, unpacked)
            is_public = await layer_build.public(
                self._tools.registry, self._reference, layer, ask=True
            )
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
        self._report(layer_build.Stage.DONE)
        return record

    async def _made(
        self, work: pathlib.Path, tally: layer_build.Tally, bounds: limits.Limits
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
        self, work: pathlib.Path, tally: layer_build.Tally, bounds: limits.Limits
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
            layer_build.verify(taken, layer, self._reference)
        self._report(layer_build.Stage.CONVERTING)
        try:
            await native_image.check(work, self._tools.mkfs.command)
        except native_image.NotUsable as error:
            what = f"layer {layer.blob.digest} of {self._reference}"
            raise layer_build.LayerUnusable(what, error) from error
        return taken

    def _counting(self, tally: layer_build.Tally) -> Callable[[int], None]:
        def on_bytes(count: int) -> None:
            self._done += count
            tally.fetched += count
            self._report(layer_build.Stage.FETCHING)

        return on_bytes

    def _limits(self, budget: layer_build.Budget) -> limits.Limits:
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
            raise layer_build.LayerUnusable(f"a file of {self._reference}", error) from error
        except assembly.WrongBlob as error:
            raise layer_build.wrong_blob(self._reference, error.expected, error.actual) from error
        except limits.NoRoom as error:
            raise layer_build.LayerTooLarge(what, error) from error
        except limits.TooMuch as error:
            raise layer_build.LayerUnusable(what, error) from error

    async def _convert(
        self,
        draft: pathlib.Path,
        tally: layer_build.Tally,
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
                layer_build.verify(
                    unpacked, layer, self._reference, has_whiteouts=unpacked.has_whiteouts
                )
                self._report(layer_build.Stage.CONVERTING)
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
        return scratch / f"{layer_build.SCRATCH_PREFIX}{draft.name}"

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

    def _report(self, stage: layer_build.Stage) -> None:
        layer = self._layer
        self._tools.on_progress(
            layer_build.Progress(
                str(self._reference), layer.blob.digest, stage, self._done, layer.blob.size
            )
        )


def _read(layer: oci.Layer, bounds: limits.Limits) -> unpack.Read:
    """What makes the tar of a layer from its blobs."""
    if isinstance(layer, artifact_files.Layer):
        return assembly.Assembly(layer, bounds).pieces
    return unpack.read_blob(compressed=oci.is_compressed(layer.blob.media_type))
