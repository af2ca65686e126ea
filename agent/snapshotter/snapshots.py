"""The snapshotter proper: what each request means, apart from how it is sent.

For a chain ID that the store has, Prepare records a committed snapshot, on a parent
of one layer, on none of all the chain's layers, and raises ReadyError; for everything
else this is containerd's overlayfs snapshotter. The invariants:

- A record of a store's layer exists only if the layer has been mounted once.
- A reply with mounts is sent only when every lower folder has just been verified
  to be the mounted layer (or an ordinary folder of ours).
- Commit, Remove, Stat, List and Update touch the database only.
- Nothing is unmounted that a record refers to.
"""

import asyncio
import collections
import concurrent.futures
import logging
import pathlib
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence

from agent import errors, metrics
from agent.kits.processes import workers
from agent.model import keys
from agent.mounts import layer_mounts, overlay
from agent.snapshotter import (
    filters,
    metadata,
    overlay_folders,
    spare_folders,
    state_db,
    store_lookup,
    usage,
)

logger = logging.getLogger(__name__)

_UPDATABLE = "labels"


class ReadyError(errors.PermanentError):
    """The layer asked for is served from the store: there is nothing to unpack.

    `chain_id` names it. containerd takes this (as AlreadyExists) for an answer.
    """

    def __init__(self, chain_id: str) -> None:
        super().__init__(f"{chain_id} is in the store and mounted")
        self.chain_id = chain_id


class UnavailableError(errors.TemporaryError):
    """What the snapshot stands on cannot be had now."""


class Snapshotter:
    """All snapshots below one root folder.

    `lookup` is None where there is no store: then this is a plain overlayfs
    snapshotter. `options` are overlay options for every mount (`index=off`).
    """

    def __init__(
        self,
        *,
        database: state_db.Database,
        places: overlay_folders.Folders,
        mounted: layer_mounts.LayerMounts,
        lookup: store_lookup.Lookup | None,
        options: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._folders = places
        self._layers = mounted
        self._lookup = lookup
        self._options = tuple(options)
        self._last_id = max(database.read.last_id(), *places.ids(), 0)
        self._unrecorded: set[int] = set()
        self._wanted = collections.Counter[str]()
        self._cleaning = asyncio.Lock()
        self._untidy = asyncio.Event()
        # For files of the local disk; one thread each, so one at a time, and a long
        # removal does not hold up the counting.
        self._removing = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="removing")
        self._counting = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="counting")
        self._counted: dict[int, tuple[float, int, int]] = {}
        self.stock = spare_folders.Stock(places, self._allocate, discard=self._unrecorded.discard)
        """Its `run` makes folders ahead; without it they are made when they are needed."""

    def close(self) -> None:
        """Stop counting and removing; what is left is removed after the next start."""
        self._folders.stopped.set()
        self.stock.close()
        self._removing.shutdown(wait=False, cancel_futures=True)
        self._counting.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[overlay.Mount]:
        """A writable snapshot on `parent` ("": on nothing).

        Raises ReadyError, ExistsError, NotFoundError, InvalidError, UnavailableError.
        """
        chain_id = labels.get(keys.SNAPSHOT_REF, "")
        if chain_id and self._lookup and await self._serve(self._lookup, chain_id, parent, labels):
            raise ReadyError(chain_id)
        return await self._create(metadata.ACTIVE, key, parent, labels)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[overlay.Mount]:
        """A read-only snapshot of `parent`; errors as in `prepare`, but ReadyError."""
        return await self._create(metadata.VIEW, key, parent, labels)

    async def mounts(self, key: str) -> list[overlay.Mount]:
        """The mounts of an active snapshot or view, made again where they are gone.

        Raises NotFoundError, StateError, UnavailableError.
        """
        snapshot = self._database.read.get(key)
        if snapshot.kind == metadata.COMMITTED:
            raise metadata.StateError(f"snapshot {key} is committed: only others have mounts")
        return self._mounts(snapshot, await self._lowers(snapshot.parent))

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make an active snapshot a parent for others. Counts no files: see `usage`."""
        await self._database.write(lambda change: change.commit(name, key, labels))

    async def remove(self, key: str) -> None:
        """Forget a snapshot; its files go in `cleanup`."""
        snapshot = await self._database.write(lambda change: change.remove(key))
        self._counted.pop(snapshot.id, None)

    def stat(self, key: str) -> metadata.Snapshot:
        """One snapshot; raises NotFoundError."""
        return self._database.read.get(key)

    async def walk(self, texts: Sequence[str]) -> AsyncIterator[list[metadata.Snapshot]]:
        """Pages of the snapshots that match containerd filters; raises InvalidError."""
        try:
            wanted = filters.parse_all(texts)
        except filters.FilterError as error:
            raise metadata.InvalidError(str(error)) from error
        for page in self._database.read.walk(wanted):
            yield page
            await asyncio.sleep(0)

    async def update(
        self, name: str, labels: Mapping[str, str], paths: Sequence[str]
    ) -> metadata.Snapshot:
        """Change labels: all of them, or those that `paths` name (`labels.<key>`)."""
        for path in paths:
            if path != _UPDATABLE and not path.startswith(f"{_UPDATABLE}."):
                raise metadata.InvalidError(f"{path} of a snapshot cannot be changed, only labels")

        def change(transaction: metadata.Transaction) -> metadata.Snapshot:
            merged = dict(transaction.get(name).labels)
            for path in paths or (_UPDATABLE,):
                if path == _UPDATABLE:
                    merged = dict(labels)
                    continue
                key = path.removeprefix(f"{_UPDATABLE}.")
                merged.pop(key, None)
                if key in labels:
                    merged[key] = labels[key]
            return transaction.relabel(name, merged)

        return await self._database.write(change)

    async def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes on the local disk; a store's layer has none here.

        An active snapshot is counted at most every ten times the time it takes.
        """
        snapshot = self._database.read.get(key)
        if snapshot.diff_id is not None:
            return 0, 0
        if snapshot.size is not None:
            return snapshot.size, snapshot.inodes or 0
        loop = asyncio.get_running_loop()
        fresh_until, size, inodes = self._counted.get(snapshot.id, (0.0, 0, 0))
        if loop.time() >= fresh_until:
            started = loop.time()
            upper = self._folders.upper(snapshot.id)
            stopped = self._folders.stopped
            size, inodes = await loop.run_in_executor(self._counting, usage.count, upper, stopped)
            if stopped.is_set():
                raise UnavailableError("the snapshotter is stopping")
            ended = loop.time()
            self._counted[snapshot.id] = (ended + 10 * (ended - started), size, inodes)
        if snapshot.kind == metadata.COMMITTED:
            self._counted.pop(snapshot.id, None)
            await self._database.write(lambda change: change.set_usage(snapshot.id, size, inodes))
        return size, inodes

    async def cleanup(self) -> None:
        """Remove the files of forgotten snapshots and unmount layers that none refers to."""
        async with self._cleaning:
            loop = asyncio.get_running_loop()
            present = await loop.run_in_executor(self._removing, self._folders.ids)
            await self._database.wait_written()
            present -= self._database.read.ids() | self._unrecorded
            if present:
                present -= await loop.run_in_executor(self._removing, self._folders.mounted_ids)
            for id_ in present:
                try:
                    await loop.run_in_executor(self._removing, self._folders.remove, id_)
                except OSError as error:
                    logger.warning(
                        "files of a removed snapshot stay", extra={"id": id_, "reason": str(error)}
                    )
            tidy = await self._layers.drop_all_but(
                self._database.read.diff_ids(), is_wanted=self._is_wanted
            )
            if not tidy:
                self._untidy.set()

    async def keep_tidy(self, pause: float) -> None:
        """Clean up after the start, and as often again as idle layers had to stay mounted.

        containerd calls Cleanup only after it has removed snapshots: a layer that a
        container still used then would stay for ever. Where nothing stays, nothing runs.
        """
        while True:
            self._untidy.clear()
            await self.cleanup()
            await self._untidy.wait()
            await asyncio.sleep(pause)

    async def _is_wanted(self, diff_id: str) -> bool:
        """Whether a record refers to a layer, or one is to come."""
        await self._database.wait_written()
        return self._database.read.has_layer(diff_id) or diff_id in self._wanted

    async def _serve(
        self, lookup: store_lookup.Lookup, chain_id: str, parent: str, labels: Mapping[str, str]
    ) -> bool:
        """Record the store's layers for a chain ID on `parent`, mounted; False if it cannot be.

        On no parent a chain ID means all its layers: one snapshot then has the whole image.
        A bottom layer's own chain is the same as that.
        """
        found: store_lookup.Found | store_lookup.Miss
        existing = self._database.read.remote(chain_id, parent)
        if existing:
            found = self._recorded(lookup, chain_id, existing)
        else:
            try:
                found = await lookup.find(chain_id, whole=not parent)
            except asyncio.CancelledError:
                self._untidy.set()
                raise
        if isinstance(found, store_lookup.Miss):
            if found.mounted:
                self._untidy.set()
            metrics.layer_left(found.reason)
            return False
        self._want(found, 1)
        served = False
        try:
            if missed := await self._have_mounted(lookup, found):
                metrics.layer_left(missed.reason)
                return False
            if not existing:
                await self._record(chain_id, parent, labels, found)
            served = True
        except layer_mounts.MountError as error:
            logger.warning("pulled as ever", extra={"chain_id": chain_id, "reason": str(error)})
            metrics.layer_left("mount_failed")
            if isinstance(error.__cause__, workers.DeadlineError | workers.StuckError):
                lookup.rest_after(error.__cause__)
        finally:
            self._want(found, -1)
            if not served:
                # Some of its layers may be mounted, for nobody.
                self._untidy.set()
        return served

    def _recorded(
        self, lookup: store_lookup.Lookup, chain_id: str, existing: metadata.Snapshot
    ) -> store_lookup.Found | store_lookup.Miss:
        """What a recorded snapshot is served from."""
        assert existing.diff_id is not None
        own = metadata.Lower(chain_id, existing.diff_id, existing.layer_size or 0)
        found = [
            store_lookup.Layer(
                layer.chain_id, layer.diff_id, lookup.path(layer.diff_id), layer.layer_size
            )
            for layer in (own, *self._database.read.lower(existing.id))
        ]
        if lookup.is_resting and self._layers.missing(each.diff_id for each in found):
            return store_lookup.Miss("store_unhealthy")
        return store_lookup.Found(tuple(found))

    async def _have_mounted(
        self, lookup: store_lookup.Lookup, found: store_lookup.Found
    ) -> store_lookup.Miss | None:
        """Mount all layers; say why not where one was taken out of the store before it was."""
        for layer in found.layers:
            if layer.device is not None:
                self._layers.note_mounted(layer.diff_id, layer.device, confirmed=layer.confirmed)
            await self._layers.ensure(layer.diff_id, layer.path, layer.size)
        new = [each for each in found.layers if not self._layers.is_confirmed(each.diff_id)]
        missed = await lookup.confirm(new) if new else None
        if missed is not None:
            return missed
        for layer in new:
            self._layers.confirm(layer.diff_id)
        return None

    async def _record(
        self, chain_id: str, parent: str, labels: Mapping[str, str], found: store_lookup.Found
    ) -> None:
        id_ = self._next_id()
        own, *below = found.layers
        lower = [metadata.Lower(each.chain_id, each.diff_id, each.size) for each in below]
        try:
            await self._database.write(
                lambda change: change.add(
                    f"uimgacc/{id_}/{chain_id}",
                    id_=id_,
                    parent=parent,
                    kind=metadata.COMMITTED,
                    labels=labels,
                    diff_id=own.diff_id,
                    layer_size=own.size,
                    lower=lower,
                )
            )
        except metadata.ExistsError:
            # Somebody else recorded the same chain on the same parent meanwhile: as good.
            if self._database.read.remote(chain_id, parent) is None:
                raise

    def _want(self, found: store_lookup.Found, number: int) -> None:
        """Keep layers from being dropped between their mount and their record."""
        self._wanted.update({layer.diff_id: number for layer in found.layers})
        for layer in found.layers:
            if not self._wanted[layer.diff_id]:
                del self._wanted[layer.diff_id]

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _allocate(self) -> int:
        """An id whose folders `cleanup` leaves alone until it is taken out of `_unrecorded`."""
        id_ = self._next_id()
        self._unrecorded.add(id_)
        return id_

    async def _create(
        self, kind: int, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[overlay.Mount]:
        if self._database.read.has(key):
            raise metadata.ExistsError(key)
        lowers = await self._lowers(parent)
        id_ = await self.stock.take()
        try:
            if lowers:
                self._folders.set_owner(id_, lowers[0])
            snapshot = await self._database.write(
                lambda change: change.add(key, id_=id_, parent=parent, kind=kind, labels=labels)
            )
        except (errors.AgentError, sqlite3.Error, OSError):
            self._folders.remove(id_)
            raise
        finally:
            self._unrecorded.discard(id_)
        return self._mounts(snapshot, lowers)

    def _mounts(self, snapshot: metadata.Snapshot, lowers: Sequence[str]) -> list[overlay.Mount]:
        upper = self._folders.upper(snapshot.id)
        if snapshot.kind == metadata.VIEW:
            return [overlay.view(upper, lowers, extra=self._options)]
        work = self._folders.work(snapshot.id)
        return [overlay.active(upper, work, lowers, extra=self._options)]

    async def _lowers(self, parent: str) -> list[str]:
        """The folders below a snapshot on `parent`, topmost first, each verified.

        Raises NotFoundError, UnavailableError.
        """
        if not parent:
            return []
        chain = self._database.read.chain(parent)
        if not chain:
            raise metadata.NotFoundError(parent)
        stored = {link.diff_id: link.layer_size or 0 for link in chain if link.diff_id is not None}
        missing = self._layers.missing(stored)
        for diff_id in missing:
            await self._restore(diff_id, stored[diff_id])
        # While that was awaited, what was there may have gone.
        if missing and self._layers.missing(stored):
            raise UnavailableError("a layer was unmounted by somebody else just now; try again")
        return [
            self._folders.upper(link.id)
            if link.diff_id is None
            else self._layers.path(link.diff_id)
            for link in chain
        ]

    async def _restore(self, diff_id: str, size: int) -> None:
        """Mount a layer again, after a reboot for instance."""
        if self._lookup is None:
            raise UnavailableError(
                f"layer {diff_id} is in a store, but this snapshotter runs without --store"
            )
        path: pathlib.Path = self._lookup.path(diff_id)
        try:
            await self._layers.ensure(diff_id, path, size)
        except layer_mounts.MountError as error:
            raise UnavailableError(str(error)) from error
