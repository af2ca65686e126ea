"""Mirroring the records of images that this node serves, to serve them without the store.

Some seconds after an image was served its records are read from the store, as bytes, and written
to the folder of local copies. At each check for deletions they are compared with the store's: some
in turn, those of images and caches where a cache was added, changed or removed since, and all of
them where the store has a new generation of deletions. So a node in whose store nothing happens
asks little, however many images it has. What the store does not have any more goes here, too; while
it does not answer, nothing changes.
"""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import threads
from agent.local import mirror
from agent.model import images, records
from agent.mounts import mountpoints
from agent.node.health import node_root
from agent.node.images import provide, registration_plan
from agent.store import decoding, layout
from agent.store.index import cache_entries
from agent.store.lookup import catalog

logger = logging.getLogger(__name__)

_CALM_SECONDS = 5.0
"""After an image was served: its first container reads its files now."""
_AGAIN_SECONDS = 300.0
"""After which an image that is served again counts as used again. Its records are read anew where a
cache has changed meanwhile: others may have it now."""
_ALL_SECONDS = 600.0
_AT_ONCE = 16
"""Records of one request to a worker, and those that are compared in turn at one look at most."""
_MOST_PENDING = 1000
_MOST_CACHES = 16
"""Of one image: by these, pods may have it during an outage."""


class Store(Protocol):
    """What of the store is read: agent.store.lookup.catalog.Catalog. Raises AgentError."""

    @property
    def layout(self) -> layout.Layout:
        """Where its records are."""

    async def bytes_of(self, paths: Sequence[pathlib.Path]) -> list[bytes | None]:
        """The bytes of some records; None for each that is not there."""

    async def caches_for(self, wanted: cache_entries.Wanted) -> catalog.CachesFound:
        """The Ready caches that have what is wanted."""

    async def caches_time(self) -> int:
        """When a cache was added, changed or removed last."""

    async def generation(self) -> int:
        """The newest generation of deletions."""


class RecordMirror:
    """Keeps the mirror of one node as the store is; looks every `interval` seconds.

    Of an image it has what the node's `platform` needs.
    """

    def __init__(
        self, store: Store, node: node_root.Rooted, platform: images.Platform, *, interval: float
    ) -> None:
        self._store = store
        self._node = node
        self._platform = platform
        self._interval = interval
        self._pending: dict[str, records.ImageRecord] = {}
        self._done: dict[str, float] = {}
        self._mirrored: dict[str, int] = {}
        """When a cache had changed last when an image's records were read."""
        self._came = asyncio.Event()
        self._generation = self._caches_time = -1
        self._position = 0
        self._names: tuple[Sequence[str], Sequence[str]] | None = None
        self.problem = ""
        """Why records were not mirrored at the last look; "" where they were."""

    def served(self, record: records.ImageRecord) -> None:
        """Note an image that was made ready here; never waits."""
        now = asyncio.get_running_loop().time()
        if self._done.get(record.ref, -_AGAIN_SECONDS) + _AGAIN_SECONDS > now:
            return
        if len(self._pending) < _MOST_PENDING:
            self._pending[record.ref] = record
            self._came.set()

    async def run(self) -> None:
        """Keep it for ever."""
        while True:
            try:
                problem = await self.look()
            except (errors.AgentError, OSError) as error:
                problem = str(error)
            if problem and problem != self.problem:
                logger.warning("records are not mirrored", extra={"reason": problem})
            self.problem = problem
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._came.wait()
                    # Those that come meanwhile are of the same look; what fails waits its time.
                    self._came.clear()
                    await asyncio.sleep(_CALM_SECONDS)

    async def look(self) -> str:
        """Mirror what was served since, and compare what is here; why not, "" where it was done."""
        if not self._node.root:
            return "the snapshotter is not known yet"
        here = mirror.Mirror(pathlib.Path(self._node.root) / mountpoints.COPIES)
        try:
            await self._compare(here)
        except (catalog.StoreOfOthers, decoding.ForeignStore):
            # What is here was served when the store was this cluster's.
            await threads.run("mirror", here.forget)
            self._start_anew()
            raise
        await self._add(here)
        return ""

    def _start_anew(self) -> None:
        self._done.clear()
        self._mirrored.clear()
        self._names = None
        self._generation = self._caches_time = -1

    async def _add(self, here: mirror.Mirror) -> None:
        """Mirror the images that were served."""
        for record in list(self._pending.values()):
            if await self._is_here(here, record):
                self._note_done(record.ref)
        if not self._pending:
            return
        for reference, record in list(self._pending.items()):
            try:
                contents = await self._contents(record)
            except records.RecordError as error:
                # That is one image's matter: the others are mirrored all the same.
                extra = {"image": reference, "reason": str(error)}
                logger.warning("an image's records are not mirrored", extra=extra)
                contents = {}
            if contents:
                await threads.run("mirror", here.put, contents)
                await threads.run("mirror", here.touch, list(contents)[-1])
            self._mirrored[reference] = self._caches_time
            self._note_done(reference)
        await self._sweep(here)

    async def _is_here(self, here: mirror.Mirror, record: records.ImageRecord) -> bool:
        """Whether an image was mirrored since a cache changed last; it is noted as used."""
        if self._mirrored.get(record.ref) != self._caches_time:
            return False
        place = self._store.layout
        for path in place.image_places(images.parse_reference(record.ref)):
            if await threads.run("mirror", here.touch, str(path.relative_to(place.root))):
                return True
        return False

    def _note_done(self, reference: str) -> None:
        now = asyncio.get_running_loop().time()
        self._pending.pop(reference, None)
        self._done = {ref: at for ref, at in self._done.items() if at + _AGAIN_SECONDS > now}
        self._done[reference] = now
        while len(self._mirrored) > _MOST_PENDING:
            del self._mirrored[next(iter(self._mirrored))]

    async def _sweep(self, here: mirror.Mirror) -> None:
        await threads.run("mirror", here.sweep)
        self._names = None

    async def _contents(self, record: records.ImageRecord) -> Mapping[str, bytes]:
        """The records of an image by their paths, what others need first; none if it has gone."""
        place = self._store.layout
        made = registration_plan.for_platform(record, self._platform)
        if made is None:
            return {}
        chains = await self._bytes_of([place.chain_record(each.chain_id) for each in made.layers])
        if len(chains) < len(made.layers):
            return {}
        layers = [
            place.layer_record(decoding.chain(data, each.chain_id).diff_id)
            for each, data in zip(made.layers, chains.values(), strict=True)
        ]
        blobs = [place.blob(digest) for digest in (*made.blobs, record.target)]
        reference = images.parse_reference(record.ref)
        own = (record.ref, record.target)
        found = await self._store.caches_for(cache_entries.Wanted(references=(reference,)))
        having = [
            cache
            for cache in found.caches
            if own in ((each.ref, each.target) for each in cache.images)
        ]
        # Those that serve all first: they are enough for any pod.
        having.sort(key=lambda cache: (cache.namespaces is not None, cache.id))
        serving = [place.cache_record(cache.id) for cache in having[:_MOST_CACHES]]
        image = await self._bytes_of(place.image_places(reference))
        if not image:
            return {}
        rest = await self._bytes_of([*layers, *blobs, *serving])
        return {**chains, **rest, **dict(list(image.items())[:1])}

    async def _bytes_of(self, paths: Sequence[pathlib.Path]) -> dict[str, bytes]:
        """The bytes of records by their paths in the store, without those that are not there."""
        contents: dict[str, bytes] = {}
        unique = list(dict.fromkeys(paths))
        for begin in range(0, len(unique), _AT_ONCE):
            part = unique[begin : begin + _AT_ONCE]
            for path, data in zip(part, await self._store.bytes_of(part), strict=True):
                if data is not None:
                    contents[str(path.relative_to(self._store.layout.root))] = data
        return contents

    async def _compare(self, here: mirror.Mirror) -> None:
        """Change what is here to what the store says: all of it, or a part that is due."""
        (store,) = await self._store.bytes_of([self._store.layout.store_record])
        assert store is not None
        if not await threads.run("mirror", here.belongs_to, store):
            self._start_anew()
        generation = await self._store.generation()
        caches_time = await self._store.caches_time()
        if self._names is None:
            self._names = await threads.run("mirror", here.names)
        often, seldom = self._names
        if generation != self._generation:
            names = [*often, *seldom]
        elif caches_time != self._caches_time:
            names = [*often, *self._turn(seldom)]
        else:
            names = [*self._turn([*often, *seldom])]
        await self._settle(here, names)
        self._generation, self._caches_time = generation, caches_time

    def _turn(self, names: Sequence[str]) -> Sequence[str]:
        """So many that all have had their turn after `_ALL_SECONDS`, unless they are very many."""
        due = int(len(names) * self._interval / _ALL_SECONDS) + 1
        count = min(len(names), due, _AT_ONCE)
        begin = self._position % max(1, len(names))
        self._position = begin + count
        return [*names[begin:], *names][:count]

    async def _settle(self, here: mirror.Mirror, names: Sequence[str]) -> None:
        root = self._store.layout.root
        gone: list[str] = []
        # Not all of them in memory at once.
        for begin in range(0, len(names), _AT_ONCE):
            part = names[begin : begin + _AT_ONCE]
            contents = await self._bytes_of([root / name for name in part])
            gone += (name for name in part if name not in contents)
            await threads.run("mirror", here.put, contents)
        if gone:
            await threads.run("mirror", here.remove, gone)
            await self._sweep(here)


class NotedImages:
    """A provide.Ledger that also has the records of what was made ready mirrored."""

    def __init__(self, ledger: provide.Ledger, mirrored: RecordMirror) -> None:
        self._ledger = ledger
        self._mirrored = mirrored

    async def registered(
        self,
        record: records.ImageRecord,
        done: registration_plan.Registered,
        *,
        seconds: float,
    ) -> None:
        """An image was registered."""
        self._mirrored.served(record)
        await self._ledger.registered(record, done, seconds=seconds)

    def laid_out(
        self, record: records.ImageRecord, done: registration_plan.Registered, *, seconds: float
    ) -> None:
        """An image was laid out."""
        self._mirrored.served(record)
        self._ledger.laid_out(record, done, seconds=seconds)
