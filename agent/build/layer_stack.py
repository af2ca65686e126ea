"""The layers of one build: each is looked up in the store, else made, once for all its images.

A layer is made as it is first. What it must be where it stands in an image (see
`agent.build.tar.inheritance`) is known when those below are there.
"""

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from agent.build import layer_build, layer_reuse, limits
from agent.build.layers import layer_work
from agent.build.tar import headers, inheritance
from agent.kits.aio import tasks, threads
from agent.model import images, oci, records
from agent.store import signatures
from agent.store.lookup import direct_reader
from agent.store.publish import layer_writer

_BOTTOM = inheritance.Position(is_bottom=True)


class CountOn(Protocol):
    """Claims names for this build before it looks for them (`cache_build`)."""

    async def __call__(self, names: Iterable[str], /) -> None:
        """Wait while one of them is being deleted; raise BeingDeleted when that takes too long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """What is built: an image, the compression of its layer files, and what it costs."""

    reference: images.Reference
    compression: str
    tally: layer_build.Tally


class Layers:
    """Gives the layers of images. `new` are the names of those that were not in the store."""

    def __init__(
        self, tools: layer_build.Tools, budget: layer_build.Budget, count_on: CountOn
    ) -> None:
        self.new: set[str] = set()
        self._tools = tools
        self._place = tools.store
        self._budget = budget
        self._count_on = count_on
        self._slots = asyncio.Semaphore(tools.machine.parallel)
        self._locks: dict[str, asyncio.Lock] = {}
        self._reuse = layer_reuse.Reuse(tools)

    async def stack(self, image: Image, planned: Sequence[oci.Layer]) -> list[records.LayerRecord]:
        """The records of an image's layers, bottom first, as each must be where it stands."""
        for layer in planned:
            self._report(image, layer, layer_build.Stage.WAITING)
        # The largest first: else the build ends with one processor at work on that.
        order = sorted(range(len(planned)), key=lambda at: -planned[at].blob.size)
        made = await tasks.together(
            *(self._layer(image, planned[at], is_bottom=at == 0) for at in order)
        )
        by_place = dict(zip(order, made, strict=True))
        used = [by_place[at] for at in range(len(planned))]
        for at, layer in enumerate(planned):
            self._reuse.note_used(image.reference, layer, used[at])
            if used[at].implied or (used[at].has_whiteouts and at == 0):
                used[at] = await self._variant(image, layer, used[: at + 1])
                self._reuse.note_used(image.reference, layer, used[at])
        return used

    def look_again(self) -> None:
        """After an image of these layers is published: see layer_reuse.Reuse.look_again."""
        self._reuse.look_again()

    async def _layer(
        self, image: Image, layer: oci.Layer, *, is_bottom: bool
    ) -> records.LayerRecord:
        async with self._locks.setdefault(layer.diff_id, asyncio.Lock()), self._slots:
            wanted = layer
            record = await self._stored(wanted)
            if record is None and is_bottom:
                wanted = _at_bottom(layer)
                record = await self._stored(wanted)
            if record is not None:
                record = await self._reuse.proven(image.reference, layer, record, image.tally)
            if record is None or not self._tools.witness.has(signatures.of_layer(record)):
                return await self._made(image, layer, is_bottom=is_bottom)
            self._budget.add(wanted.diff_id, record.size)
            self._report(image, layer, layer_build.Stage.REUSED)
            return record

    async def _made(
        self, image: Image, layer: oci.Layer, *, is_bottom: bool
    ) -> records.LayerRecord:
        """Make a layer; one that only the bottom of an image can be, as that."""
        try:
            return await self._made_at(image, layer, layer.diff_id, inheritance.ANYWHERE)
        except layer_build.LayerUnusable as error:
            if not is_bottom or not error.has_whiteouts:
                raise
        variant = _at_bottom(layer).diff_id
        await self._count_on([variant])
        return await self._made_at(image, layer, variant, _BOTTOM)

    async def _variant(
        self, image: Image, layer: oci.Layer, stack: Sequence[records.LayerRecord]
    ) -> records.LayerRecord:
        """The layer as it must be on top of those below it."""
        plain = stack[-1]
        files = [self._place.layer(one.diff_id) for one in stack[:-1]]
        try:
            inherited = await threads.run(
                "look below", inheritance.look_below, plain.implied, files, limits.Account()
            )
        except (headers.LayerTarError, limits.TooMuch) as error:
            what = f"layer {layer.blob.digest} of {image.reference}"
            raise layer_build.LayerUnusable(what, error) from error
        position = inheritance.Position(inherited, plain.has_whiteouts and not files)
        if not position:
            return plain
        names = inheritance.names(layer.diff_id, position)
        await self._count_on(names)
        async with self._locks.setdefault(names[0], asyncio.Lock()), self._slots:
            for name in names:
                record = await self._stored(dataclasses.replace(layer, diff_id=name))
                if record is not None:
                    self._budget.add(name, record.size)
                    break
            else:
                record = await self._made_at(image, layer, names[0], position)
        # Who may have the layer may have its variant.
        return await threads.run("note", layer_writer.add_origins_of, self._place, record, plain)

    async def _made_at(
        self, image: Image, layer: oci.Layer, name: str, position: inheritance.Position
    ) -> records.LayerRecord:
        """Make a layer; where a damaged file has its name, the new one gets another."""
        work = layer_work.LayerWork(
            self._tools,
            image.reference,
            layer,
            compression=image.compression,
            position=position,
        )
        self.new.add(name)
        made = await work.run(image.tally, self._budget)
        self._reuse.note_fetched(image.reference, layer)
        if made.diff_id != name:
            self.new.remove(name)
            self.new.add(made.diff_id)
            await self._count_on([made.diff_id])
        self._tools.witness.add(signatures.of_layer(made))
        return made

    async def _stored(self, layer: oci.Layer) -> records.LayerRecord | None:
        """The layer's record; what replaces a damaged layer is claimed by its own name first."""
        record = await threads.run("look up", self._usable, layer.diff_id)
        if record is not None and record.diff_id != layer.diff_id:
            await self._count_on([record.diff_id])
            record = await threads.run("look up", self._usable, layer.diff_id)
        return record

    def _usable(self, diff_id: str) -> records.LayerRecord | None:
        """The record of a stored layer, unless this build does not believe it."""
        record = direct_reader.Reader(self._place).layer(diff_id)
        if record is None or not self._tools.witness.believes(record):
            return None
        self._tools.witness.add(signatures.of_layer(record))
        return record

    def _report(self, image: Image, layer: oci.Layer, stage: layer_build.Stage) -> None:
        size = layer.blob.size
        done = 0 if stage is layer_build.Stage.WAITING else size
        self._tools.on_progress(
            layer_build.Progress(str(image.reference), layer.blob.digest, stage, done, size)
        )


def _at_bottom(layer: oci.Layer) -> oci.Layer:
    """A layer under the name of its variant for the bottom of an image."""
    return dataclasses.replace(layer, diff_id=inheritance.variant_id(layer.diff_id, _BOTTOM))
