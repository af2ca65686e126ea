"""The snapshotter: what each request of containerd does. agent.snapshotter.service has the gRPC.

If Prepare asks for a chain ID that the store has, the layer is served from there
(agent.snapshotter.store_layers) and Prepare raises ReadyError. All else works as in containerd's
overlayfs snapshotter. The invariants:

- A reply with mounts is sent only when every lower folder has just been verified
  to be the mounted layer, or is the folder of an ordinary snapshot.
- Commit, Remove, Stat, List and Update touch the database only.
- Nothing is unmounted that a record refers to.
- No layer that the store has marked as damaged is mounted for a container.
- In a user namespace, the lower folders show that namespace's owners, and the upper folder belongs
  to its root. If containerd has made a copy of the image with these owners, the copy is used as it
  is.
"""

import asyncio
import concurrent.futures
import logging
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from agent import errors
from agent.model import keys
from agent.mounts import layer_mounts, overlay
from agent.mounts.idmaps import id_ranges
from agent.snapshotter import (
    filters,
    mapped_lowers,
    metadata,
    overlay_folders,
    spare_folders,
    state_db,
    store_layers,
    tables,
)

logger = logging.getLogger(__name__)

_UPDATABLE = "labels"
_UNMAPPED = 65534
"""The owner that the kernel shows for a file whose real owner has no place in the map."""


class ReadyError(errors.PermanentError):
    """The layer asked for is served from the store: there is nothing to unpack.

    `chain_id` names it. As AlreadyExists, this is the answer that containerd expects.
    """

    def __init__(self, chain_id: str) -> None:
        super().__init__(f"{chain_id} is in the store and mounted")
        self.chain_id = chain_id


class Snapshotter:
    """All snapshots below one root folder.

    `store` is None where there is none: then this is a plain overlayfs snapshotter. `options` are
    overlay options for every mount (`index=off`).
    """

    def __init__(
        self,
        *,
        database: state_db.Database,
        places: overlay_folders.Folders,
        mounted: layer_mounts.LayerMounts,
        store: store_layers.Store | None,
        mapped: mapped_lowers.MappedLowers,
        options: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._mapped = mapped
        self._folders = places
        self._layers = mounted
        self._options = tuple(options)
        # Also the numbers of folders without a record: a mapped folder of such a number would show
        # the owners of another namespace.
        used = places.ids() | mapped.ids()
        self._ids = overlay_folders.Ids(max(database.read.last_id(), *used, 0))
        self._store = (
            store_layers.StoreLayers(store, database=database, mounted=mounted, ids=self._ids)
            if store is not None
            else None
        )
        self._cleaning = asyncio.Lock()
        # Both work on files of the local disk. Each has one thread of its own, so that a long
        # removal does not delay the counting.
        self._removing = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="removing")
        self._counting = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="counting")
        self._counted: dict[int, tuple[float, int, int]] = {}
        self.stock = spare_folders.Stock(places, self._ids)
        """Its `run` makes folders ahead; without it they are made when they are needed."""

    def close(self) -> None:
        """Stop counting and removing; files that are left are removed after the next start."""
        self._folders.stopped.set()
        self.stock.close()
        self._removing.shutdown(wait=False, cancel_futures=True)
        self._counting.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[overlay.Mount]:
        """Create a writable snapshot on `parent` ("" for none), and return its mounts.

        Raises ReadyError, ExistsError, NotFoundError, InvalidError, UnavailableError.
        """
        chain_id = labels.get(keys.SNAPSHOT_REF, "")
        if chain_id and self._store and await self._store.serve(chain_id, parent, labels):
            raise ReadyError(chain_id)
        return await self._create(metadata.ACTIVE, key, parent, labels)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[overlay.Mount]:
        """Create a read-only snapshot of `parent`. Raises as `prepare`, except for ReadyError."""
        return await self._create(metadata.VIEW, key, parent, labels)

    async def mounts(self, key: str) -> list[overlay.Mount]:
        """The mounts of an active snapshot or view, made again where they are gone.

        Raises NotFoundError, StateError, UnavailableError.
        """
        snapshot = self._database.read.get(key)
        if snapshot.kind == metadata.COMMITTED:
            raise metadata.StateError(f"snapshot {key} is committed: only others have mounts")
        text = self._database.read.id_maps(snapshot.id)
        maps = id_ranges.parse(text) if text else None
        lowers = await self._shown(snapshot.id, await self._lowers(snapshot.parent), maps)
        return self._mounts(snapshot, lowers)

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make an active snapshot a parent for others. Its files are counted later, by `usage`."""
        await self._database.write(lambda change: change.commit(name, key, labels))

    async def remove(self, key: str) -> None:
        """Delete the record of a snapshot; `cleanup` deletes its files."""
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

        def change(transaction: tables.Transaction) -> metadata.Snapshot:
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
        """Bytes and inodes on the local disk; a layer of the store has none there.

        After an active snapshot was counted, the result is used for ten times as long as the
        counting took.
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
            size, inodes = await loop.run_in_executor(
                self._counting, overlay_folders.count, upper, stopped
            )
            if stopped.is_set():
                raise store_layers.UnavailableError("the snapshotter is stopping")
            ended = loop.time()
            self._counted[snapshot.id] = (ended + 10 * (ended - started), size, inodes)
        if snapshot.kind == metadata.COMMITTED:
            self._counted.pop(snapshot.id, None)
            await self._database.write(lambda change: change.set_usage(snapshot.id, size, inodes))
        return size, inodes

    async def give_up(self, diff_id: str) -> None:
        """Give up all snapshots on a layer whose bytes are not those that were built."""
        if self._store is not None:
            await self._store.give_up(diff_id)

    async def cleanup(self) -> None:
        """Delete the files of removed snapshots, and unmount layers that no snapshot refers to."""
        async with self._cleaning:
            loop = asyncio.get_running_loop()
            present = await loop.run_in_executor(self._removing, self._folders.ids)
            await self._database.wait_written()
            known = self._database.read.ids() | self._ids.reserved
            await self._hide_all_but(known)
            present -= known
            if present:
                present -= await loop.run_in_executor(self._removing, self._folders.mounted_ids)
            for id_ in present:
                try:
                    await loop.run_in_executor(self._removing, self._folders.remove, id_)
                except OSError as error:
                    logger.warning(
                        "files of a removed snapshot stay", extra={"id": id_, "reason": str(error)}
                    )
            await self._layers.drop_all_but(
                self._database.read.diff_ids(), is_wanted=self._is_wanted
            )

    async def keep_tidy(self, pause: float) -> None:
        """Clean up after the start, and again whenever unused layers had to stay mounted.

        containerd calls Cleanup only after it has removed snapshots: a layer that a container
        still used at that moment would stay mounted for ever. Where none stays, nothing runs.
        """
        while True:
            self._layers.untidy.clear()
            await self.cleanup()
            await self._layers.untidy.wait()
            await asyncio.sleep(pause)

    async def keep_checking(self, seconds: float) -> None:
        """Look for damaged layers, about every `seconds`, for ever; 0: never."""
        if self._store is not None and seconds:
            await self._store.damaged.run(seconds)
        await asyncio.Event().wait()

    async def _is_wanted(self, diff_id: str) -> bool:
        if self._store is not None:
            return await self._store.is_wanted(diff_id)
        await self._database.wait_written()
        return self._database.read.has_layer(diff_id)

    async def _create(
        self, kind: int, key: str, parent: str, labels: Mapping[str, str]
    ) -> list[overlay.Mount]:
        if self._database.read.has(key):
            raise metadata.ExistsError(key)
        chain = await self._lowers(parent)
        maps = self._wanted_maps(labels, chain)
        id_ = await self.stock.take()
        try:
            lowers = await self._shown(id_, chain, maps)
            self._set_owner(id_, lowers, maps)
            text = maps.text if maps else None
            snapshot = await self._database.write(
                lambda change: change.add(
                    key, id_=id_, parent=parent, kind=kind, labels=labels, id_maps=text
                )
            )
        except (errors.AgentError, sqlite3.Error, OSError):
            self._folders.remove(id_)
            self._layers.untidy.set()
            raise
        finally:
            self._ids.release(id_)
        return self._mounts(snapshot, lowers)

    def _wanted_maps(
        self, labels: Mapping[str, str], chain: Sequence["_Lower"]
    ) -> id_ranges.IdMaps | None:
        """The ID maps for the files below a new snapshot; None for no map. Raises InvalidError.

        A containerd that does not know the capability `remap-ids` makes a copy of the image with
        the owners of the user namespace, and then asks for a snapshot on the copy, with the same
        labels. A copy is recognised by its root folder, which belongs to the namespace's root.
        """
        try:
            maps = id_ranges.of_labels(labels)
        except id_ranges.IdMapError as error:
            raise metadata.InvalidError(str(error)) from error
        if maps is None or not chain:
            return maps
        top = chain[0].link
        is_copy = (
            top.diff_id is None
            and top.id_maps is None
            and maps.root == self._folders.owner(top.id) != (0, 0)
        )
        return None if is_copy else maps

    async def _shown(
        self, id_: int, chain: Sequence["_Lower"], maps: id_ranges.IdMaps | None
    ) -> list[str]:
        """The folders below a snapshot as its container sees them; raises UnavailableError."""
        lowers = []
        for path, link in chain:
            stored = id_ranges.parse(link.id_maps) if link.id_maps else None
            lowers.append((path, id_ranges.between(stored, maps)))
        try:
            return await self._mapped.show(id_, lowers)
        except mapped_lowers.MapError as error:
            raise store_layers.UnavailableError(str(error)) from error

    def _set_owner(self, id_: int, lowers: Sequence[str], maps: id_ranges.IdMaps | None) -> None:
        """Give the root of a new snapshot the owner that the image's root has in the namespace."""
        if lowers:
            self._folders.set_owner(id_, lowers[0])
        # The owner of the image's root may have no place in the namespace.
        if maps and (not lowers or _UNMAPPED in self._folders.owner(id_)):
            self._folders.give(id_, maps.root)

    async def _hide_all_but(self, ids: set[int]) -> None:
        try:
            await self._mapped.hide_all_but(ids)
        except (OSError, errors.AgentError) as error:
            logger.warning("folders stay shown to user namespaces", extra={"reason": str(error)})

    def _mounts(self, snapshot: metadata.Snapshot, lowers: Sequence[str]) -> list[overlay.Mount]:
        upper = self._folders.upper(snapshot.id)
        if snapshot.kind == metadata.VIEW:
            return [overlay.view(upper, lowers, extra=self._options)]
        work = self._folders.work(snapshot.id)
        return [overlay.active(upper, work, lowers, extra=self._options)]

    async def _lowers(self, parent: str) -> list["_Lower"]:
        """The folders below a snapshot on `parent`, topmost first, each verified.

        Raises NotFoundError, UnavailableError.
        """
        if not parent:
            return []
        chain = await self._sound_chain(parent)
        stored = _stored(chain)
        for diff_id in (missing := self._layers.missing(stored)):
            await self._restore(diff_id, stored[diff_id])
        # While that was awaited, another layer may have been unmounted.
        if missing and self._layers.missing(stored):
            raise store_layers.UnavailableError("a layer was unmounted just now; try again")
        return [
            _Lower(
                self._folders.upper(link.id)
                if link.diff_id is None
                else self._layers.path(link.diff_id),
                link,
            )
            for link in chain
        ]

    async def _sound_chain(self, parent: str) -> Sequence[metadata.Link]:
        """The chain below a snapshot, topmost first; layers to mount are checked for damage."""
        chain = self._chain(parent)
        missing = self._layers.missing(_stored(chain)) if self._store is not None else []
        if not missing or self._store is None:
            return chain
        await self._store.damaged.look(missing)
        if not self._database.read.has(parent):
            raise store_layers.UnavailableError(
                f"a layer of {parent} is damaged in the store: the agent has the image pulled, or"
                " served again once its cache was created again"
            )
        return self._chain(parent)

    def _chain(self, parent: str) -> Sequence[metadata.Link]:
        chain = self._database.read.chain(parent)
        if not chain:
            raise metadata.NotFoundError(parent)
        return chain

    async def _restore(self, diff_id: str, size: int) -> None:
        if self._store is None:
            raise store_layers.UnavailableError(
                f"layer {diff_id} is in a store, but this snapshotter runs without --store"
            )
        await self._store.restore(diff_id, size)


class _Lower(NamedTuple):
    """A folder of a chain, and its record."""

    path: str
    link: metadata.Link


def _stored(chain: Sequence[metadata.Link]) -> dict[str, int]:
    """The sizes of a chain's layers that are from the store, by diff ID."""
    return {link.diff_id: link.layer_size or 0 for link in chain if link.diff_id is not None}
