"""Whether a layer of the store is served to those who ask for it.

A diff ID is no secret: it stands in image configs, so the author of an image may name the
layers of another one. A layer that is not public is served only to the node's agent, which
has matched a pod with a cache, and to pulls of an image of a repository among the layer's
sources: that repository's registry has allowed the pull. In doubt the pull downloads the layer.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
from typing import Any

from agent import errors
from agent.kits.processes import workers
from agent.model import images, records
from agent.store import layer_sources, layout
from agent.store.lookup import file_reads

logger = logging.getLogger(__name__)

_REMEMBERED = 64
"""Repositories whose layers are remembered: a pull asks for each layer in turn."""
_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Requester:
    """The agent, or a pull of `image`; neither where that is not known."""

    is_agent: bool = False
    image: images.Reference | None = None

    @property
    def repository(self) -> str | None:
        """Whose layers may be served beside public ones: "" for none, None for all."""
        if self.is_agent:
            return None
        return self.image.name if self.image is not None else ""


@dataclasses.dataclass(slots=True)
class _Layers:
    """The diff IDs that images of a repository have, as far as their records were read.

    `until` is a time of the loop.
    """

    until: float
    diff_ids: set[str] = dataclasses.field(default_factory=set)
    read: set[pathlib.Path] = dataclasses.field(default_factory=set)


class Permissions:
    """Decides for one store. `deadline` is in seconds and bounds one reading of records."""

    def __init__(self, where: layout.Layout, pool: workers.Caller, *, deadline: float) -> None:
        self._layout = where
        self._pool = pool
        self._deadline = deadline
        self._repositories: dict[str, _Layers] = {}

    async def allow(
        self, record: records.LayerRecord, requester: Requester, *, diff_id: str
    ) -> bool:
        """Whether a layer may be served; `diff_id` is the image's name for it.

        Reads nothing where the record says whose the layer is. Raises nothing: doubt is a no.
        """
        if requester.is_agent:
            return True
        standing = layer_sources.standing(record, requester.repository or "")
        if standing is layer_sources.Standing.UNRECORDED and requester.image is not None:
            return await self._is_proven(requester.image, diff_id)
        return standing in (layer_sources.Standing.PUBLIC, layer_sources.Standing.SOURCE)

    async def _is_proven(self, image: images.Reference, diff_id: str) -> bool:
        """Whether an image record of the repository has the layer.

        The record of the image itself is read first, and nearly always decides.
        """
        layers = self._layers(image.name)
        own = self._layout.image_record(image)
        try:
            if own not in layers.read:
                with contextlib.suppress(FileNotFoundError):
                    self._add(layers, await self._call("read", own), image.name)
                layers.read.add(own)
            if diff_id not in layers.diff_ids and own.parent not in layers.read:
                for _, data, number in await self._call("read_folder", own.parent, ".json"):
                    self._add(layers, b"" if number else data, image.name)
                layers.read.add(own.parent)
        except (errors.TemporaryError, OSError) as error:
            logger.warning(
                "the image records of a repository cannot be read, which would prove that a layer"
                " is of it",
                extra={"repository": image.name, "reason": str(error)},
            )
        return diff_id in layers.diff_ids

    def _layers(self, repository: str) -> _Layers:
        now = asyncio.get_running_loop().time()
        layers = self._repositories.get(repository)
        if layers is None or layers.until < now:
            while len(self._repositories) >= _REMEMBERED:
                del self._repositories[next(iter(self._repositories))]
            layers = self._repositories[repository] = _Layers(now + _SECONDS)
        return layers

    def _add(self, layers: _Layers, data: bytes, repository: str) -> None:
        """Add what one image record has; one that is damaged or of another repository has none."""
        with contextlib.suppress(records.RecordError, images.ImageReferenceError):
            record = records.decode(data, records.ImageRecord, f"of an image of {repository}")
            if images.parse_reference(record.ref).name == repository:
                layers.diff_ids.update(
                    layer.diff_id for made in record.platforms for layer in made.layers
                )

    async def _call(self, operation: str, path: pathlib.Path, *more: str) -> Any:
        arguments = (str(path), *more, file_reads.RECORD_LIMIT)
        return await self._pool.call(operation, *arguments, deadline=self._deadline)
