"""Layers of the store as committed snapshots: what makes a pull find nothing left to download.

For a chain ID that the store has, a committed snapshot is recorded: on a parent of that
layer alone, on none of all the chain's layers. The invariants:

- A record of a store's layer exists only if the layer has been mounted once.
- After each new mount the store is asked again whether it has the chain: the collector,
  which takes chains away before it asks nodes for their mounts, or this second look, one
  of them sees the other. A layer that was found damaged meanwhile is not served either. What is
  mounted from the node's own copy needs no second look: no deletion waits for that.
- A layer is not unmounted between its mount and its record (`_wanted`).
- What is not for those who ask is not served, also where it is recorded and mounted for others.
"""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

from agent import errors
from agent.kits.processes import workers
from agent.metrics import snapshotter_metrics
from agent.mounts import layer_mounts
from agent.mounts.devices import device_mapper
from agent.snapshotter import (
    damaged_layers,
    metadata,
    overlay_folders,
    state_db,
)
from agent.snapshotter.lookup import answers
from agent.store.lookup import layer_permissions, layer_requests

logger = logging.getLogger(__name__)


class UnavailableError(errors.TemporaryError):
    """What a snapshot stands on is not there at the moment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The store, as the snapshotter asks it: how layers are found, and who may have them."""

    lookup: answers.Lookup
    requesters: layer_requests.Requesters


class StoreLayers:
    """Serves the chain IDs that `lookup` finds."""

    def __init__(
        self,
        store: Store,
        *,
        database: state_db.Database,
        mounted: layer_mounts.LayerMounts,
        ids: overlay_folders.Ids,
    ) -> None:
        self._lookup = store.lookup
        self._requesters = store.requesters
        self._database = database
        self._layers = mounted
        self._ids = ids
        self._wanted = collections.Counter[str]()
        self.damaged = damaged_layers.DamagedLayers(store.lookup, database, self.give_up)
        """Its `run` looks at all recorded layers every so often."""

    async def serve(self, chain_id: str, parent: str, labels: Mapping[str, str]) -> bool:
        """Record and mount the store's layers for a chain ID on `parent`; False if it cannot.

        On no parent a chain ID means all its layers: one snapshot then has the whole image.
        A bottom layer's own chain is the same as that.
        """
        existing = self._database.read.remote(chain_id, parent)
        requester = self._requesters.of(chain_id, labels)
        answer = await self._answer(chain_id, parent, existing, requester)
        if isinstance(answer, answers.Miss):
            snapshotter_metrics.layer_left(answer.reason)
            if existing and answer.reason == "damaged_record":
                below = [layer.diff_id for layer in self._database.read.lower(existing.id)]
                await self.damaged.look([*([existing.diff_id] if existing.diff_id else []), *below])
            return False
        self._want(answer, 1)
        served = False
        try:
            if missed := await self._mount(answer):
                snapshotter_metrics.layer_left(missed.reason)
                if existing:
                    await self.damaged.look([each.diff_id for each in answer.layers])
                return False
            if not existing:
                await self._record(chain_id, parent, labels, answer)
            served = True
        except layer_mounts.MountError as error:
            await self._note_failed(chain_id, error)
        finally:
            self._want(answer, -1)
            if not served:
                # Some of its layers may be mounted, and no snapshot refers to them.
                self._layers.untidy.set()
        return served

    async def is_wanted(self, diff_id: str) -> bool:
        """Whether a record refers to a layer, or one is about to."""
        await self._database.wait_written()
        return self._database.read.has_layer(diff_id) or diff_id in self._wanted

    async def restore(self, diff_id: str, size: int) -> None:
        """Mount a layer again that a record refers to, after a reboot for instance."""
        try:
            await self._ensure(diff_id, size)
        except layer_mounts.MountError as error:
            await self._note_unusable(error)
            raise UnavailableError(str(error)) from error

    async def give_up(self, diff_id: str) -> None:
        """Forget the snapshots that stand on a layer which this node does not serve any more.

        What runs on them runs on. The node agent then finds that their images have lost
        snapshots, and has these images pulled.
        """
        names = await self._database.write(lambda change: change.forget_layer(diff_id))
        if names:
            extra = {"layer": diff_id, "snapshots": len(names)}
            logger.warning("the snapshots on a layer are given up", extra=extra)
            self._layers.untidy.set()

    async def _ensure(
        self, diff_id: str, size: int, *, tree: device_mapper.Tree | None = None
    ) -> None:
        """Mount a layer unless it is mounted, verified by `tree` or by what the store says."""
        if tree is None and self._layers.missing((diff_id,)):
            try:
                tree = await self._lookup.tree(diff_id, size)
            except layer_mounts.MountError:
                raise
            except (OSError, errors.AgentError) as error:
                raise layer_mounts.MountError(diff_id, str(error)) from error
        await self._layers.ensure(diff_id, self._lookup.path(diff_id), size, tree=tree)

    async def _answer(
        self,
        chain_id: str,
        parent: str,
        existing: metadata.Snapshot | None,
        requester: layer_permissions.Requester,
    ) -> answers.Hit | answers.Miss:
        """What a chain ID is served from: a snapshot that exists, else what the store says.

        The store is asked for an existing one, too, unless the agent asks: only its records
        say whether the layers are for this requester. For the agent, a snapshot of a whole image
        has recorded all that each of its lower layers could be served from.
        """
        if requester.is_agent and (layers := self._recorded_layers(chain_id, parent, existing)):
            return self._recorded(layers)
        try:
            answer = await self._lookup.find(chain_id, requester, whole=not parent)
        except asyncio.CancelledError:
            self._layers.untidy.set()
            raise
        if isinstance(answer, answers.Miss):
            if answer.mounted:
                self._layers.untidy.set()
            return answer
        recorded = self._recorded_layers(chain_id, parent, existing) if existing else ()
        return self._recorded(recorded) if recorded else answer

    def _recorded_layers(
        self, chain_id: str, parent: str, existing: metadata.Snapshot | None
    ) -> Sequence[metadata.LowerLayer]:
        """The layers for a chain ID on `parent` by the records of this node, topmost first."""
        if existing is None:
            within = self._database.read.within(chain_id)
            return within[:1] if parent else within
        assert existing.diff_id is not None
        own = metadata.LowerLayer(chain_id, existing.diff_id, existing.layer_size or 0)
        return (own, *self._database.read.lower(existing.id))

    def _recorded(self, recorded: Sequence[metadata.LowerLayer]) -> answers.Hit | answers.Miss:
        """What recorded layers are served from."""
        layers = [
            answers.Layer(
                layer.chain_id, layer.diff_id, self._lookup.path(layer.diff_id), layer.layer_size
            )
            for layer in recorded
        ]
        missing = self._layers.missing(each.diff_id for each in layers)
        if self._lookup.is_out_of_reach(missing):
            return answers.Miss("store_unhealthy")
        return answers.Hit(tuple(layers))

    async def _mount(self, hit: answers.Hit) -> answers.Miss | None:
        """Mount all layers; a Miss where one was taken out of the store before it was mounted."""
        # All of them first: the look-up mounts them in no order, and one that fails ends this.
        for layer in hit.layers:
            if layer.device is not None:
                self._layers.note_mounted(layer.diff_id, layer.device, confirmed=layer.confirmed)
        for layer in hit.layers:
            await self._ensure(layer.diff_id, layer.size, tree=layer.tree)
        new = [each for each in hit.layers if not self._layers.is_confirmed(each.diff_id)]
        copies = await self._layers.copies(each.diff_id for each in new) if new else ()
        of_store = [each for each in new if each.diff_id not in copies]
        missed = await self._lookup.confirm(of_store) if of_store else None
        if missed is not None:
            return missed
        for layer in new:
            self._layers.confirm(layer.diff_id)
        return None

    async def _record(
        self, chain_id: str, parent: str, labels: Mapping[str, str], hit: answers.Hit
    ) -> None:
        id_ = self._ids.next()
        own, *below = hit.layers
        lower = [metadata.LowerLayer(each.chain_id, each.diff_id, each.size) for each in below]
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
            # Another request has recorded the same chain on the same parent meanwhile.
            if self._database.read.remote(chain_id, parent) is None:
                raise

    async def _note_failed(self, chain_id: str, error: layer_mounts.MountError) -> None:
        logger.warning(
            "a layer is left to the pull", extra={"chain_id": chain_id, "reason": str(error)}
        )
        await self._note_unusable(error)
        snapshotter_metrics.layer_left(_reason_of(error))
        if isinstance(error.__cause__, workers.DeadlineError | workers.StuckError):
            self._lookup.pause_after(error.__cause__)

    async def _note_unusable(self, error: layer_mounts.MountError) -> None:
        """Give up a layer that will not be mounted at the next try either."""
        if isinstance(error, layer_mounts.CorruptError) and self._lookup.verified is not None:
            self._lookup.verified.note(error.diff_id)
        if isinstance(error, layer_mounts.CorruptError | layer_mounts.NotVerifiableError):
            await self.give_up(error.diff_id)

    def _want(self, hit: answers.Hit, number: int) -> None:
        """Keep layers from being dropped between their mount and their record."""
        self._wanted.update({layer.diff_id: number for layer in hit.layers})
        for layer in hit.layers:
            if not self._wanted[layer.diff_id]:
                del self._wanted[layer.diff_id]


def _reason_of(error: layer_mounts.MountError) -> snapshotter_metrics.LayerReason:
    match error:
        case layer_mounts.CorruptError():
            return "corrupt_layer"
        case layer_mounts.NotVerifiableError():
            return "not_verifiable"
        case _:
            return "mount_failed"
