"""Is this chain ID in the store? Looked up for every layer of every pull.

The answer comes within a deadline, whatever the store does. After a failure the store
is not asked for a while, and each look-up is a miss at once: a hung server delays one
layer, not each of forty. Then one caller tries again. There is no timer behind it: an
idle snapshotter does nothing.
"""

import asyncio
import errno
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from agent import errors
from agent.kits.aio import backoff
from agent.kits.processes import workers
from agent.metrics import shared_metrics, snapshotter_metrics
from agent.model import digests, records
from agent.mounts import verification
from agent.mounts.devices import device_mapper, layer_mounting
from agent.snapshotter.lookup import answers, layer_rules, store_worker
from agent.store import decoding, layout
from agent.store.lookup import file_reads, layer_permissions

logger = logging.getLogger(__name__)

_AT_ONCE = 4
"""Layers of a whole image in one look-up. The deadline is for all of them: with many more, a store
that is slow because a whole fleet asks it would be taken for a dead one."""

_IDENTIFIED_SECONDS = 30.0
"""For which the folder is taken to be the same store of the same cluster."""


class StoreLookup:
    """Looks chain IDs up in a store, and has their layers mounted in `mounts` on the way.

    `pool` runs the OPERATIONS of the module store_worker; `deadline` is in seconds and bounds
    one look-up, of up to 4 layers; `pauses` are the seconds for which the store is not
    asked after the first, second, ... failure in a row. Where `conditions` ask for more than the
    store's word, the caller mounts the layers, after their records have been verified: the kernel
    does not parse what was not.
    """

    def __init__(
        self,
        where: layout.Layout,
        pool: workers.Pool,
        conditions: layer_rules.Conditions,
        *,
        mounts: layer_mounting.Place,
        deadline: float,
        pauses: Sequence[float] = (1, 2, 5, 10),
    ) -> None:
        self._layout = where
        self._pool = pool
        self._mounts = mounts._replace(folder="") if conditions.verified else mounts
        self._deadline = deadline
        permissions = layer_permissions.Permissions(where, pool, deadline=deadline)
        self._rules = layer_rules.Rules(where, conditions, permissions)
        self._pauses = backoff.Backoff(pauses)
        self._keys = conditions.keys
        self._paused_until = 0.0
        self._identified_until = 0.0

    @property
    def verified(self) -> verification.Verification | None:
        """What verifies each block as it is read; None where nothing does."""
        return self._rules.verified

    def path(self, diff_id: str) -> pathlib.Path:
        """The layer's file in the store."""
        return self._layout.layer(diff_id)

    def is_out_of_reach(self, diff_ids: Iterable[str]) -> bool:
        """Whether the store, which alone has the layers, is not asked at the moment."""
        return self.is_paused and any(True for _ in diff_ids)

    @property
    def _is_identified(self) -> bool:
        return asyncio.get_running_loop().time() < self._identified_until

    @property
    def is_paused(self) -> bool:
        """Whether the store is not asked at the moment."""
        return asyncio.get_running_loop().time() < self._paused_until

    async def find(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> answers.Hit | answers.Miss:
        """Look a chain ID up; `whole`: with all that it stands on, for there is nothing below it.

        A Miss where one of the layers is not for the requester. Raises nothing: doubt is a Miss.
        """
        if self.is_paused:
            return answers.Miss("store_unhealthy")
        if self._pauses.failures:
            self._paused_until = asyncio.get_running_loop().time() + self._deadline
        try:
            answer = await self._ask(chain_id, requester, whole=whole)
        except (errors.TemporaryError, OSError) as error:
            self.pause_after(error)
            return answers.Miss(_reason_of(error), mounted=True)
        except layer_rules.UnsignedError:
            answer = answers.Miss("unsigned", mounted=True)
        except records.RecordError as error:
            logger.warning(
                "a record of the store is damaged; run `uimgacc store check`",
                extra={"chain_id": chain_id, "reason": str(error)},
            )
            return answers.Miss("damaged_record", mounted=True)
        except errors.PermanentError as error:
            logger.warning(
                "a look-up in the store failed", extra={"chain_id": chain_id, "reason": str(error)}
            )
            return answers.Miss("store_error", mounted=True)
        self._pauses.reset()
        self._paused_until = 0.0
        return answer

    async def confirm(self, layers: Sequence[answers.Layer]) -> answers.Miss | None:
        """Look again whether chains are in the store, and their layers sound, after the mount.

        The collector first removes the chain from the store, and then each node says what
        it has mounted. So a layer that was mounted before this second look is either not
        served, or seen by the collector. Raises nothing: doubt is a Miss.
        """
        names = [digests.hex_of(layer.chain_id) for layer in layers]
        try:
            replies = await self._pool.call(
                "confirm_chains", str(self._layout.root), names, deadline=self._deadline
            )
            for layer, reply in zip(layers, replies, strict=True):
                if reply is None or not _is_of(layer, reply[0]):
                    return answers.Miss("not_in_store")
                if reply[1] is None:
                    return answers.Miss("damaged_record")
                with layer_rules.counted("layer"):
                    decoding.sound_layer(reply[1], layer.diff_id)
        except (errors.TemporaryError, OSError) as error:
            self.pause_after(error)
            return answers.Miss(_reason_of(error))
        except records.RecordError:
            return answers.Miss("damaged_record")
        except errors.PermanentError:
            return answers.Miss("store_error")
        return None

    async def damaged(self, diff_ids: Sequence[str]) -> Mapping[str, str] | None:
        """Which layers are damaged, and why; None where the store does not answer now.

        A record that is missing or unreadable says nothing about the layer's file.
        """
        if self.is_paused:
            return None
        names = [digests.hex_of(diff_id) for diff_id in diff_ids]
        try:
            found = await self._pool.call(
                "layer_records", str(self._layout.root), names, deadline=self._deadline
            )
        except (errors.AgentError, OSError) as error:
            self.pause_after(error)
            return None
        return {
            diff_id: reason
            for diff_id, data in zip(diff_ids, found, strict=True)
            if data is not None and (reason := layer_rules.damage_in(data, diff_id))
        }

    async def _ask(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> answers.Hit | answers.Miss:
        if not self._is_identified and (reason := await self._identify()) is not None:
            return answers.Miss(reason)
        layers: list[answers.Layer] = []
        wanted: str | None = chain_id
        while wanted is not None and (whole or not layers):
            most = _AT_ONCE if whole else 1
            served = await self._serve(wanted, requester.repository, most=most)
            if served is None:
                self._identified_until = 0.0  # an unmounted store is an empty folder: look again
                return answers.Miss("not_in_store", mounted=bool(layers))
            for data, layer_data, size, device, confirmed in served:
                assert wanted is not None
                chain, record = self._rules.records_of(wanted, data, layer_data, size)
                reason = await self._rules.refusal(chain, record, requester)
                if reason is not None:
                    if reason == "not_from_here":
                        layer_rules.log_refused(wanted, chain, requester)
                    mounted = bool(layers) or any(each[3] for each in served)
                    return answers.Miss(reason, mounted=mounted)
                path, tree = self.path(chain.diff_id), self._rules.tree(record)
                layers.append(
                    answers.Layer(wanted, chain.diff_id, path, size, device, confirmed, tree)
                )
                wanted = chain.parent
        return answers.Hit(tuple(layers))

    async def _serve(
        self, chain_id: str, repository: str | None, *, most: int
    ) -> Sequence[store_worker.Answer] | None:
        folder = "" if self._keys.policy.refuses else self._mounts.folder
        name, place = digests.hex_of(chain_id), tuple(self._mounts._replace(folder=folder))
        arguments = (str(self._layout.root), name, place, most, repository)
        try:
            served: Sequence[store_worker.Answer] | None = await self._pool.call(
                "serve_chain", *arguments, deadline=self._deadline
            )
        except OSError as error:
            if error.errno in (errno.EUCLEAN, errno.EFBIG):
                shared_metrics.record_damaged(_kind_of(error))
                raise records.RecordError(chain_id, str(error)) from error
            raise
        return served

    async def tree(self, diff_id: str, size: int) -> device_mapper.Tree | None:
        """What a layer is verified by that was served before; None where none is verified.

        Raises NotVerifiableError where it must be and cannot, else AgentError and OSError.
        """
        if self.verified is None:
            return None
        path = str(self._layout.layer_record(diff_id))
        data = await self._pool.call("read", path, file_reads.LOOKUP_LIMIT, deadline=self._deadline)
        return self._rules.tree_of(data, diff_id, size)

    async def _identify(self) -> snapshotter_metrics.LayerReason | None:
        """Why the folder is no store that can be read; None when it is one."""
        path = str(self._layout.store_record)
        try:
            data = await self._pool.call(
                "read", path, file_reads.RECORD_LIMIT, deadline=self._deadline
            )
        except FileNotFoundError:
            return "no_store"
        if (reason := self._rules.obstacle(data)) is not None:
            return reason
        self._identified_until = asyncio.get_running_loop().time() + _IDENTIFIED_SECONDS
        return None

    def pause_after(self, error: Exception) -> None:
        """Do not ask the store for a while after it has failed, in a look-up or in a mount."""
        pause = self._pauses.take()
        self._identified_until = 0.0
        self._paused_until = asyncio.get_running_loop().time() + pause
        logger.warning(
            "the store does not answer; images are pulled from their registries",
            extra={"reason": str(error), "asked_again_in_s": pause},
        )


def _is_of(layer: answers.Layer, chain_data: bytes) -> bool:
    return layer_rules.chain_of(chain_data, layer.chain_id).diff_id == layer.diff_id


def _kind_of(error: OSError) -> records.RecordKind:
    """Which kind of record a worker could not read."""
    is_of_layer = str(error.filename).endswith(".erofs") or "/meta/layers/" in str(error.filename)
    return "layer" if is_of_layer else "chain"


def _reason_of(error: Exception) -> snapshotter_metrics.LayerReason:
    return "store_deadline" if isinstance(error, workers.DeadlineError) else "store_error"
