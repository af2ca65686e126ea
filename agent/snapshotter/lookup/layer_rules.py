"""What must hold for a layer to be served: the same for the store and for this node's own copies.

A mirrored record says no more than the store's: it is decoded as strictly, verified by the same
keys, and its layer is for the same repositories.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator

from agent import errors
from agent.kits import machine
from agent.metrics import shared_metrics, snapshotter_metrics
from agent.model import records, reports
from agent.mounts import layer_mounts, verification
from agent.mounts.devices import device_mapper
from agent.store import decoding, layout, signatures, trusted_keys
from agent.store.lookup import layer_permissions

logger = logging.getLogger(__name__)


class UnsignedError(errors.PermanentError):
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


class Rules:
    """The conditions, as records of one place meet them: the store, or the node's own folder."""

    def __init__(
        self,
        where: layout.Layout,
        conditions: Conditions,
        permissions: layer_permissions.Permissions,
    ) -> None:
        self._layout = where
        self.verified = conditions.verified
        self._keys = conditions.keys
        self._announcement = conditions.announcement
        self._permissions = permissions
        self._complaint = ""

    def obstacle(self, data: bytes) -> snapshotter_metrics.LayerReason | None:
        """Why nothing may be served by the records beside a `store.json`; None where it may.

        Raises RecordError.
        """
        with counted("store"):
            record = records.decode(data, records.StoreRecord, str(self._layout.store_record))
        if record.format != records.FORMAT:
            logger.warning(
                "the store has a format that this version cannot read; upgrade uimgacc",
                extra={"format": record.format, "readable": records.FORMAT},
            )
            return "store_format"
        problem = self._announcement.problem(record)
        if problem and problem != self._complaint:
            logger.warning("nothing of the store is served", extra={"reason": problem})
        self._complaint = problem
        return "not_announced" if problem else None

    def records_of(
        self, chain_id: str, chain_data: bytes, layer_data: bytes, size: int
    ) -> tuple[records.ChainRecord, records.LayerRecord]:
        """The records of a chain and its layer. Raises RecordError, UnsignedError."""
        chain = chain_of(chain_data, chain_id)
        record = checked_layer(layer_data, chain.diff_id, size)
        statement_of = functools.partial(signatures.of_chain, chain_id)
        if not (self._keys.accept(chain, statement_of) and self._is_signed(record)):
            raise UnsignedError(chain_id)
        return chain, record

    async def refusal(
        self,
        chain: records.ChainRecord,
        record: records.LayerRecord,
        requester: layer_permissions.Requester,
    ) -> snapshotter_metrics.LayerReason | None:
        """Why a layer is not served; None where it may be."""
        diff_id = chain.variant_of or chain.diff_id
        if not await self._permissions.allow(record, requester, diff_id=diff_id):
            return "not_from_here"
        if self.verified and record.verity is None:
            return "not_verifiable"
        if self.verified and self.verified.is_corrupt(chain.diff_id):
            return "corrupt_layer"
        return None

    def tree(self, record: records.LayerRecord) -> device_mapper.Tree | None:
        """What a layer is verified by; None where none is verified, or it cannot be."""
        if self.verified is None or (verity := record.verity) is None:
            return None
        file = "" if verity.offset else str(self._layout.layer_tree(record.diff_id))
        return verity.root_hash, verity.salt, verity.data_blocks, verity.offset, file

    def tree_of(self, data: bytes, diff_id: str, size: int) -> device_mapper.Tree:
        """The same from the bytes of a record. Raises RecordError, NotVerifiableError."""
        record = checked_layer(data, diff_id, size)
        tree = self.tree(record)
        if tree is None or not self._is_signed(record):
            raise layer_mounts.NotVerifiableError(diff_id)
        return tree

    def _is_signed(self, record: records.LayerRecord) -> bool:
        return self._keys.accept(record, signatures.of_layer)


def chain_of(data: bytes, chain_id: str) -> records.ChainRecord:
    """The record of a chain; raises RecordError, which is counted."""
    with counted("chain"):
        return decoding.chain(data, chain_id)


def checked_layer(data: bytes, diff_id: str, size: int) -> records.LayerRecord:
    """The record of a layer that may be served and has a file of `size` bytes; or RecordError."""
    with counted("layer"):
        layer = decoding.sound_layer(data, diff_id)
        if layer.size != size:
            reason = f"says {layer.size} bytes, its file has {size}"
            raise records.RecordError(f"of layer {diff_id}", reason)
    return layer


def damage_in(data: bytes, diff_id: str) -> str:
    """What the record of a layer says is wrong with its file; "" for nothing."""
    try:
        return decoding.layer(data, diff_id).damaged
    except records.RecordError:
        return ""


def log_refused(
    chain_id: str, chain: records.ChainRecord, requester: layer_permissions.Requester
) -> None:
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
            "diff_id": chain.variant_of or chain.diff_id,
            "chain_id": chain_id,
            "reason": reason,
        },
    )


@contextlib.contextmanager
def counted(kind: records.RecordKind) -> Iterator[None]:
    """Count a record that turns out to be damaged."""
    try:
        yield
    except records.RecordError:
        shared_metrics.record_damaged(kind)
        raise
