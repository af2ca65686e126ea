"""Which stored layers a build may use: those that the registry it reads from gives it.

A diff ID is no secret, and an image can name any. So a layer that is in the store, and is not
public, is used only after the registry has given it to this build's credentials, as
agent.store.layer_sources demands: one HEAD where this repository gave this blob before,
else a download, which is verified and not stored again. What was proven is then recorded. The
name of a stored file may be no diff ID (a variant's); the text that it is a hash of is no proof.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable

from agent.build import layer_build, unpack
from agent.kits.aio import threads
from agent.model import images, oci, records
from agent.model.artifacts import artifact_files
from agent.store import layer_sources
from agent.store.lookup import direct_reader
from agent.store.publish import layer_writer

logger = logging.getLogger(__name__)

_TRIES = 2
"""Damage on the way is worth another download."""


class Reuse:
    """What the registries gave to this build; each is asked once for each layer."""

    def __init__(self, tools: layer_build.Tools) -> None:
        self._tools = tools
        self._given: set[tuple[str, str, str]] = set()
        """Repository, blob and diff ID."""
        self._by_registry: set[tuple[str, str, str]] = set()
        """The same with the registry in place of the repository."""
        self._images: dict[str, list[records.ImageRecord]] = {}
        self._unrecorded: dict[str, layer_sources.Origin] = {}
        """Where the layers were given whose records are of an earlier version, by their names."""

    def note_fetched(self, reference: images.Reference, layer: oci.Layer) -> None:
        """This build has downloaded a layer, and verified it."""
        self._given.add(_key(reference, layer))
        self._by_registry.add(_key(reference, layer, reference.registry))

    def note_used(
        self, reference: images.Reference, layer: oci.Layer, record: records.LayerRecord
    ) -> None:
        """An image of this build uses a layer, or its variant, by this record of it."""
        if record.sources is None and _key(reference, layer) in self._given:
            self._unrecorded[record.diff_id] = layer_sources.Origin(
                reference.name, layer.blob.digest, is_public=False
            )

    async def proven(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        record: records.LayerRecord,
        tally: layer_build.Tally,
    ) -> records.LayerRecord | None:
        """The record of a stored layer once this build may use it; None where it went meanwhile.

        Raises what a download of the layer does: AccessDenied, ImageUnknown, LayerMismatch, ...
        """
        proof = layer_sources.Proof.NONE
        if _key(reference, layer) not in self._given:
            proof = await self._proof_needed(reference, layer, record)
            if proof is layer_sources.Proof.NONE:
                return record
            if proof is layer_sources.Proof.HEAD and not await self._is_given(reference, layer):
                # Not every registry answers such requests; the download also says why not.
                proof = layer_sources.Proof.DOWNLOAD
            if proof is layer_sources.Proof.DOWNLOAD:
                await self._download(reference, layer, record, tally)
            self.note_fetched(reference, layer)
        is_public = await layer_build.public(
            self._tools.registry, reference, layer, ask=proof is layer_sources.Proof.DOWNLOAD
        )
        origin = layer_sources.Origin(reference.name, layer.blob.digest, is_public)
        return await threads.run("note", layer_writer.add_origin, self._tools.store, record, origin)

    def look_again(self) -> None:
        """After an image is published: add it where sources were written meanwhile.

        See agent.store.publish.source_migration.
        """
        for name, origin in self._unrecorded.items():
            layer_writer.add_origin_anew(self._tools.store, name, origin)
        self._unrecorded.clear()

    async def _is_given(self, reference: images.Reference, layer: oci.Layer) -> bool:
        """Whether the registry would give all blobs of a layer: one HEAD for each."""
        for blob in layer.blobs:
            if blob.size and not await self._tools.registry.gives(reference, blob.digest):
                return False
        return True

    async def _proof_needed(
        self, reference: images.Reference, layer: oci.Layer, record: records.LayerRecord
    ) -> layer_sources.Proof:
        standing = layer_sources.standing(record, reference.name)
        is_unrecorded = standing is layer_sources.Standing.UNRECORDED
        own = await self._images_of(reference) if is_unrecorded else ()
        is_open = layer_sources.is_open_to(
            record, reference.name, diff_id=layer.diff_id, images=own
        )
        # A registry that gave the layer to this build is believed about its other repositories.
        # Another registry is not: the images of one cache may be of several owners.
        is_open = is_open or _key(reference, layer, reference.registry) in self._by_registry
        return layer_sources.proof_needed(record, is_open=is_open, blob=layer.blob.digest)

    async def _images_of(self, reference: images.Reference) -> list[records.ImageRecord]:
        """The image records of a repository, read once."""
        if reference.name not in self._images:
            reader = direct_reader.Reader(self._tools.store)
            self._images[reference.name] = await threads.run("look up", reader.images_of, reference)
        return self._images[reference.name]

    async def _download(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        record: records.LayerRecord,
        tally: layer_build.Tally,
    ) -> None:
        """Read a layer's blob, and verify that it is this layer."""
        logger.info(
            "a stored layer is read again: this repository has not given it before",
            extra={"image": str(reference), "layer": layer.diff_id},
        )
        tries = 0
        while True:
            try:
                await self._identify(reference, layer, record, tally)
            except layer_build.LayerMismatch as error:
                tries += 1
                has_others = self._tools.registry.distrust(reference, error.blob)
                if not has_others and tries >= _TRIES:
                    raise
                reason = {"image": str(reference), "reason": str(error)}
                logger.warning("fetching a layer again", extra=reason)
            else:
                return

    async def _identify(
        self,
        reference: images.Reference,
        layer: oci.Layer,
        record: records.LayerRecord,
        tally: layer_build.Tally,
    ) -> None:
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            tally.fetched += count
            self._tools.on_progress(
                layer_build.Progress(
                    str(reference),
                    layer.blob.digest,
                    layer_build.Stage.FETCHING,
                    done,
                    layer.blob.size,
                )
            )

        if isinstance(layer, artifact_files.Layer):
            # Its name is a hash over the digests of its blobs: who has these has the layer.
            for blob in layer.blobs:
                given = await self._read(reference, blob, compressed=False, on_bytes=on_bytes)
                if given.blob_digest != blob.digest:
                    raise layer_build.wrong_blob(reference, blob.digest, given.blob_digest)
            return
        identified = await self._read(
            reference,
            layer.blob,
            compressed=oci.is_compressed(layer.blob.media_type),
            on_bytes=on_bytes,
            limit=record.tar_size,
        )
        if (identified.diff_id, identified.tar_size) != (layer.unpacked, record.tar_size):
            # The names of variants and of replaced layers are hashes of a text, which has them as
            # its diff ID when it is pushed as a layer. It has not the length of their tar. And
            # nothing about the stored layer is for the author of this image, also not its size.
            identified = dataclasses.replace(identified, diff_id="another layer")
        layer_build.verify(identified, layer, reference)

    async def _read(
        self,
        reference: images.Reference,
        blob: oci.Descriptor,
        *,
        compressed: bool,
        on_bytes: Callable[[int], None],
        limit: int = 0,
    ) -> unpack.Identified:
        served = self._tools.registry.blob(reference, blob.digest, blob.size)
        async with contextlib.aclosing(served) as chunks:
            return await unpack.identify(
                chunks, compressed=compressed, limit=limit, on_bytes=on_bytes
            )


def _key(reference: images.Reference, layer: oci.Layer, giver: str = "") -> tuple[str, str, str]:
    return giver or reference.name, layer.blob.digest, layer.diff_id
