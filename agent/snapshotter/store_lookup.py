"""Is this chain ID in the store? Looked up for every layer of every pull.

The answer comes within a deadline, whatever the store does. After a failure the store
is not asked for a while, and each look-up is a miss at once: a hung server delays one
layer, not each of forty. Then one caller tries again. There is no timer behind it: an
idle snapshotter does nothing.
"""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from agent import errors, metrics
from agent.kits import machine
from agent.kits.aio import backoff
from agent.kits.processes import workers
from agent.model import digests, records, reports
from agent.mounts import device_mapper, layer_mounts, verification
from agent.snapshotter import store_worker
from agent.store import decoding, layout, signatures, trusted_keys
from agent.store.lookup import file_reads, layer_permissions

logger = logging.getLogger(__name__)

_AT_ONCE = 4
"""Layers of a whole image in one look-up. The deadline is for all of them: with many more, a store
that is slow because a whole fleet asks it would be taken for a dead one."""

_IDENTIFIED_SECONDS = 30.0
"""For which the folder is taken to be the same store of the same cluster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the store on top of a chain: its diff ID, its file and the file's size in bytes.

    `device` is the st_dev of its mount where the look-up has mounted it, `confirmed`
    says that the store had the chain afterwards, too. `tree` is what it is verified by.
    """

    chain_id: str
    diff_id: str
    path: pathlib.Path
    size: int
    device: int | None = None
    confirmed: bool = False
    tree: device_mapper.Tree | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """What one snapshot is served from: the layer of its chain ID first, then those below."""

    layers: tuple[Layer, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Miss:
    """The store cannot serve it; `reason` is the label of uimgacc_fallback_total.

    `mounted` where the look-up may have mounted layers all the same, which no snapshot has.
    """

    reason: metrics.LayerReason
    mounted: bool = False


class _UnsignedError(errors.PermanentError):
    """A chain, or its layer, is not signed by a key that counts. It has been logged."""

    def __init__(self, chain_id: str) -> None:
        super().__init__(f"chain {chain_id} is not signed")


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """Whether deletions wait for this node, by the file that its agent writes.

    `file` is that file, `required` whether it must be there even for a store of no cluster.
    """

    file: pathlib.Path
    required: bool = False

    def problem(self, store: records.StoreRecord) -> str:
        """Why nothing of a store may be served here, "" where it may.

        What was announced before the machine was started again does not count. Reads local files
        of some bytes.
        """
        announced = None
        with contextlib.suppress(FileNotFoundError):
            announced = reports.decode_announced(self.file.read_bytes())
        if announced is None or announced.boot != machine.boot_id():
            if self.required or store.cluster:
                return "the agent has not announced this node yet: is it running?"
            return ""
        if store.cluster in ("", announced.cluster):
            return ""
        here = f"cluster {announced.cluster}" if announced.cluster else "no cluster"
        return f"the store belongs to cluster {store.cluster}, and this node to {here}"


@dataclasses.dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for a layer to be served.

    With `verified` each block is checked as it is read. What `keys` do not accept is a miss.
    """

    announcement: Announcement
    verified: verification.Verification | None = None
    keys: trusted_keys.Keys = dataclasses.field(default_factory=trusted_keys.Keys)


class Lookup:
    """Looks chain IDs up in a store, and has their layers mounted below `mounts` on the way.

    `pool` runs agent.snapshotter.store_worker.OPERATIONS; `deadline` is in seconds and bounds
    one look-up, of up to 4 layers; `pauses` are the seconds for which the store is not
    asked after the first, second, ... failure in a row. Where `conditions` ask for more than the
    store's word, the caller mounts the layers, after their records have been verified: the kernel
    does not parse what was not.
    """

    def __init__(
        self,
        where: layout.Layout,
        pool: workers.Pool,
        conditions: Conditions,
        *,
        mounts: pathlib.Path,
        deadline: float,
        pauses: Sequence[float] = (1, 2, 5, 10),
    ) -> None:
        self.verified = conditions.verified
        self._layout = where
        self._pool = pool
        self._mounts = "" if self.verified else str(mounts)
        self._deadline = deadline
        self._permissions = layer_permissions.Permissions(where, pool, deadline=deadline)
        self._pauses = backoff.Backoff(pauses)
        self._keys = conditions.keys
        self._paused_until = 0.0
        self._announcement = conditions.announcement
        self._identified_until = 0.0
        self._complaint = ""

    def path(self, diff_id: str) -> pathlib.Path:
        """The layer's file in the store."""
        return self._layout.layer(diff_id)

    @property
    def _is_identified(self) -> bool:
        return asyncio.get_running_loop().time() < self._identified_until

    @property
    def is_paused(self) -> bool:
        """Whether the store is not asked at the moment."""
        return asyncio.get_running_loop().time() < self._paused_until

    async def find(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> Hit | Miss:
        """Look a chain ID up; `whole`: with all that it stands on, for there is nothing below it.

        A Miss where one of the layers is not for the requester. Raises nothing: doubt is a Miss.
        """
        if self.is_paused:
            return Miss("store_unhealthy")
        if self._pauses.failures:
            self._paused_until = asyncio.get_running_loop().time() + self._deadline
        try:
            answer = await self._ask(chain_id, requester, whole=whole)
        except (errors.TemporaryError, OSError) as error:
            self.pause_after(error)
            return Miss(_reason_of(error), mounted=True)
        except _UnsignedError:
            answer = Miss("unsigned", mounted=True)
        except records.RecordError as error:
            logger.warning(
                "a record of the store is damaged; run `uimgacc store check`",
                extra={"chain_id": chain_id, "reason": str(error)},
            )
            return Miss("damaged_record", mounted=True)
        except errors.PermanentError as error:
            logger.warning(
                "a look-up in the store failed", extra={"chain_id": chain_id, "reason": str(error)}
            )
            return Miss("store_error", mounted=True)
        self._pauses.reset()
        self._paused_until = 0.0
        return answer

    async def confirm(self, layers: Sequence[Layer]) -> Miss | None:
        """Look again whether chains are in the store, and their layers sound, after the mount.

        The collector first removes the chain from the store, and then each node says what
        it has mounted. So a layer that was mounted before this second look is either not
        served, or seen by the collector. Raises nothing: doubt is a Miss.
        """
        names = [digests.hex_of(layer.chain_id) for layer in layers]
        try:
            answers = await self._pool.call(
                "confirm_chains", str(self._layout.root), names, deadline=self._deadline
            )
            for layer, answer in zip(layers, answers, strict=True):
                if answer is None or _chain(answer[0], layer.chain_id).diff_id != layer.diff_id:
                    return Miss("not_in_store")
                if answer[1] is None:
                    return Miss("damaged_record")
                with _counted("layer"):
                    decoding.sound_layer(answer[1], layer.diff_id)
        except (errors.TemporaryError, OSError) as error:
            self.pause_after(error)
            return Miss(_reason_of(error))
        except records.RecordError:
            return Miss("damaged_record")
        except errors.PermanentError:
            return Miss("store_error")
        return None

    async def damaged(self, diff_ids: Sequence[str]) -> Mapping[str, str] | None:
        """Which layers are damaged, and why; None where the store does not answer now.

        A record that is missing or unreadable says nothing about the layer's file.
        """
        if self.is_paused:
            return None
        names = [digests.hex_of(diff_id) for diff_id in diff_ids]
        try:
            answers = await self._pool.call(
                "layer_records", str(self._layout.root), names, deadline=self._deadline
            )
        except (errors.AgentError, OSError) as error:
            self.pause_after(error)
            return None
        return {
            diff_id: reason
            for diff_id, data in zip(diff_ids, answers, strict=True)
            if data is not None and (reason := _damage_in(data, diff_id))
        }

    async def _ask(
        self, chain_id: str, requester: layer_permissions.Requester, *, whole: bool
    ) -> Hit | Miss:
        if not self._is_identified and (reason := await self._identify()) is not None:
            return Miss(reason)
        layers: list[Layer] = []
        wanted: str | None = chain_id
        while wanted is not None and (whole or not layers):
            most = _AT_ONCE if whole else 1
            answers = await self._serve(wanted, requester.repository, most=most)
            if answers is None:
                self._identified_until = 0.0  # an unmounted store is an empty folder: look again
                return Miss("not_in_store", mounted=bool(layers))
            for data, layer_data, size, device, confirmed in answers:
                assert wanted is not None
                chain, record = self._records_of(wanted, data, layer_data, size)
                if (reason := await self._refusal(wanted, chain, record, requester)) is not None:
                    return Miss(reason, mounted=bool(layers) or any(each[3] for each in answers))
                mounted = (device, confirmed, self._tree(record))
                layers.append(
                    Layer(wanted, chain.diff_id, self.path(chain.diff_id), size, *mounted)
                )
                wanted = chain.parent
        return Hit(tuple(layers))

    async def _serve(
        self, chain_id: str, repository: str | None, *, most: int
    ) -> Sequence[store_worker.Answer] | None:
        mounts = "" if self._keys.policy.refuses else self._mounts
        name = digests.hex_of(chain_id)
        arguments = (str(self._layout.root), name, mounts, most, repository)
        try:
            answers: Sequence[store_worker.Answer] | None = await self._pool.call(
                "serve_chain", *arguments, deadline=self._deadline
            )
        except OSError as error:
            if error.errno in (errno.EUCLEAN, errno.EFBIG):
                metrics.record_damaged(_kind_of(error))
                raise records.RecordError(chain_id, str(error)) from error
            raise
        return answers

    def _records_of(
        self, chain_id: str, chain_data: bytes, layer_data: bytes, size: int
    ) -> tuple[records.ChainRecord, records.LayerRecord]:
        """The records of one answer. Raises RecordError, _UnsignedError."""
        chain = _chain(chain_data, chain_id)
        record = _checked_layer(layer_data, chain.diff_id, size)
        statement_of = functools.partial(signatures.of_chain, chain_id)
        if not (self._keys.accept(chain, statement_of) and self._is_signed(record)):
            raise _UnsignedError(chain_id)
        return chain, record

    async def _refusal(
        self,
        chain_id: str,
        chain: records.ChainRecord,
        record: records.LayerRecord,
        requester: layer_permissions.Requester,
    ) -> metrics.LayerReason | None:
        """Why a layer is not served; None where it may be."""
        diff_id = chain.variant_of or chain.diff_id
        if not await self._permissions.allow(record, requester, diff_id=diff_id):
            _log_refused(chain_id, diff_id, requester)
            return "not_from_here"
        if self.verified and record.verity is None:
            return "not_verifiable"
        if self.verified and self.verified.is_corrupt(chain.diff_id):
            return "corrupt_layer"
        return None

    async def tree(self, diff_id: str, size: int) -> device_mapper.Tree | None:
        """What a layer is verified by that was served before; None where none is verified.

        Raises NotVerifiableError where it must be and cannot, else AgentError and OSError.
        """
        if self.verified is None:
            return None
        path = str(self._layout.layer_record(diff_id))
        data = await self._pool.call("read", path, file_reads.LOOKUP_LIMIT, deadline=self._deadline)
        record = _checked_layer(data, diff_id, size)
        tree = self._tree(record)
        if tree is None or not self._is_signed(record):
            raise layer_mounts.NotVerifiableError(diff_id)
        return tree

    def _is_signed(self, record: records.LayerRecord) -> bool:
        return self._keys.accept(record, signatures.of_layer)

    def _tree(self, record: records.LayerRecord) -> device_mapper.Tree | None:
        if self.verified is None or (verity := record.verity) is None:
            return None
        file = "" if verity.offset else str(self._layout.layer_tree(record.diff_id))
        return verity.root_hash, verity.salt, verity.data_blocks, verity.offset, file

    async def _identify(self) -> metrics.LayerReason | None:
        """Why the folder is no store that can be read; None when it is one."""
        path = str(self._layout.store_record)
        try:
            data = await self._pool.call(
                "read", path, file_reads.RECORD_LIMIT, deadline=self._deadline
            )
        except FileNotFoundError:
            return "no_store"
        with _counted("store"):
            record = records.decode(data, records.StoreRecord, path)
        if record.format != records.FORMAT:
            logger.warning(
                "the store has a format that this version cannot read; upgrade uimgacc",
                extra={"format": record.format, "readable": records.FORMAT},
            )
            return "store_format"
        if problem := self._announcement.problem(record):
            self._complain(problem)
            return "not_announced"
        self._complain("")
        self._identified_until = asyncio.get_running_loop().time() + _IDENTIFIED_SECONDS
        return None

    def _complain(self, problem: str) -> None:
        """Log why nothing is served, once."""
        if problem and problem != self._complaint:
            logger.warning("nothing of the store is served", extra={"reason": problem})
        self._complaint = problem

    def pause_after(self, error: Exception) -> None:
        """Do not ask the store for a while after it has failed, in a look-up or in a mount."""
        pause = self._pauses.take()
        self._identified_until = 0.0
        self._paused_until = asyncio.get_running_loop().time() + pause
        logger.warning(
            "the store does not answer; images are pulled from their registries",
            extra={"reason": str(error), "asked_again_in_s": pause},
        )


def _chain(data: bytes, chain_id: str) -> records.ChainRecord:
    with _counted("chain"):
        return decoding.chain(data, chain_id)


def _checked_layer(data: bytes, diff_id: str, size: int) -> records.LayerRecord:
    """The record of a layer that may be served and has a file of `size` bytes; or RecordError."""
    with _counted("layer"):
        layer = decoding.sound_layer(data, diff_id)
        if layer.size != size:
            reason = f"says {layer.size} bytes, its file has {size}"
            raise records.RecordError(f"of layer {diff_id}", reason)
    return layer


def _damage_in(data: bytes, diff_id: str) -> str:
    try:
        return decoding.layer(data, diff_id).damaged
    except records.RecordError:
        return ""


def _log_refused(chain_id: str, diff_id: str, requester: layer_permissions.Requester) -> None:
    """Say which layer is left to which pull, and what may help where the image is not known."""
    if requester.image is not None:
        reason = "no registry has given this layer to a build for this repository"
    else:
        reason = (
            "the layer is not public, and containerd does not say which image is pulled: by ctr"
            " that is so, for pods run `uimgacc node-setup` again"
        )
    logger.info(
        "a layer is left to the pull",
        extra={
            "image": str(requester.image or ""),
            "diff_id": diff_id,
            "chain_id": chain_id,
            "reason": reason,
        },
    )


@contextlib.contextmanager
def _counted(kind: records.RecordKind) -> Iterator[None]:
    try:
        yield
    except records.RecordError:
        metrics.record_damaged(kind)
        raise


def _kind_of(error: OSError) -> records.RecordKind:
    """Which kind of record a worker could not read."""
    is_of_layer = str(error.filename).endswith(".erofs") or "/meta/layers/" in str(error.filename)
    return "layer" if is_of_layer else "chain"


def _reason_of(error: Exception) -> metrics.LayerReason:
    return "store_deadline" if isinstance(error, workers.DeadlineError) else "store_error"
