"""Making one local copy, a while at a time, and what its failures mean.

A copy is verified by its layer's record, on the way from the store. Where bytes are wrong it is
never used, and the layer is marked, for the snapshotter not to serve it on this node.
"""

import errno
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent import errors
from agent.kits.processes import workers
from agent.local import copy_paths, copying
from agent.metrics import copy_metrics
from agent.model import digests, records
from agent.store import decoding, layout

logger = logging.getLogger(__name__)

_SLICE_SECONDS = 0.5
"""After which the worker asks whether to go on."""
_HANG_SECONDS = 20.0
"""For which the store, or the disk, may be silent in one slice."""
DISK_SECONDS = 10.0
"""What one operation on the folder of copies may take."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CopyError(errors.TemporaryError):
    """A layer could not be copied; `reason` is the label of uimgacc_local_failures_total."""

    def __init__(self, reason: copy_metrics.CopyFailure, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    @property
    def is_of_disk(self) -> bool:
        """Whether the node's disk is at fault, and so no layer can be copied."""
        return self.reason in ("disk_error", "disk_full")


class _Part(NamedTuple):
    """A file to copy, by its paths."""

    source: pathlib.Path
    draft: str
    target: str
    size: int
    sha256: str


class Copier:
    """Copies one layer at a time; `pool` has the operations of agent.local.copy_worker.

    `rate` is in bytes a second, 0: no bound.
    """

    def __init__(self, pool: workers.Caller, store: layout.Layout, *, rate: int) -> None:
        self._pool = pool
        self.store = store
        self._rate = rate
        self._current = ""
        self._parts: list[_Part] = []
        self._begun = False
        self._resumed = False
        self._spoilt = ""
        self.position = 0
        """Bytes of the current layer that are on the disk."""

    @property
    def current(self) -> str:
        """The layer (64 hex digits) that is being copied, "" for none."""
        return self._current

    async def advance(
        self,
        where: copy_paths.CopyPaths,
        record: records.LayerRecord,
        devices: Sequence[str],
        go_on: Callable[[int], bool],
    ) -> bool:
        """Copy on until `go_on`, called with the free bytes of the disk, says no.

        True once the copy is at its place. Raises CopyError; the draft stays, and the next call
        goes on with it.
        """
        name = digests.hex_of(record.diff_id)
        try:
            if self._current != name:
                await self._choose(where, record)
            while self._parts:
                if await self._advance_part(self._parts[0], devices, go_on):
                    self._parts.pop(0)
                elif self._begun:
                    return False
            self._current, self._spoilt = "", ""
        except (OSError, errors.AgentError) as error:
            self._current = ""
            if isinstance(error, OSError) and error.errno == errno.ESTALE and error.filename:
                # The worker had no work for long and was ended: another one goes on.
                return False
            failure = _failure(error, where)
            if failure.reason == "wrong_bytes":
                await self._mark(where, name, str(failure))
            raise failure from error
        return True

    def stop(self) -> None:
        """Forget the current layer; its draft may have been removed."""
        self._current = ""

    async def _choose(self, where: copy_paths.CopyPaths, record: records.LayerRecord) -> None:
        """Turn to another layer. There is only one draft at a time."""
        name = digests.hex_of(record.diff_id)
        await self._pool.call("clear_drafts", where.folder, name, deadline=DISK_SECONDS)
        here = await self._pool.call("read_record", where.folder, name, deadline=DISK_SECONDS)
        if not _is_same(here, record):
            data = records.encode(record)
            await self._pool.call("write_record", where.folder, name, data, deadline=DISK_SECONDS)
        self._parts = _parts(self.store, where, record)
        self._current, self._begun, self.position = name, False, 0

    async def _advance_part(
        self, part: _Part, devices: Sequence[str], go_on: Callable[[int], bool]
    ) -> bool:
        """Copy on with one file; whether it is at its place."""
        if not self._begun:
            arguments = (str(part.source), part.draft, part.size, self._spoilt == part.draft)
            self._resumed = await self._pool.call("begin", *arguments, deadline=_HANG_SECONDS)
            self._begun = True
        while True:
            progress: copying.Progress = await self._pool.call(
                *("more", part.draft, _SLICE_SECONDS, self._rate, list(devices)),
                deadline=_SLICE_SECONDS + _HANG_SECONDS,
            )
            self.position, read, free = progress
            copy_metrics.LOCAL_COPIED_BYTES.inc(read)
            if self.position == part.size:
                return await self._finish(part)
            if not go_on(free):
                return False

    async def _finish(self, part: _Part) -> bool:
        arguments = (part.draft, part.target, part.sha256)
        is_right = await self._pool.call("finish", *arguments, deadline=_HANG_SECONDS)
        self._begun = False
        if not is_right and not self._resumed:
            raise CopyError(
                "wrong_bytes",
                f"the bytes of {part.source} are not those of its record ({part.sha256})",
            )
        # Not the store need be at fault, but what the disk has kept of an earlier draft.
        self._spoilt = "" if is_right else part.draft
        return bool(is_right)

    async def _mark(self, where: copy_paths.CopyPaths, name: str, text: str) -> None:
        logger.error(
            "bytes of a layer are not what was built: its images are pulled;"
            " run `uimgacc store check`",
            extra={"layer": f"sha256:{name}", "reason": text},
        )
        try:
            await self._pool.call("mark", where.folder, name, text, deadline=DISK_SECONDS)
        except (OSError, errors.AgentError) as error:
            logger.warning(
                "a layer with wrong bytes cannot be marked on this node",
                extra={"layer": f"sha256:{name}", "reason": str(error)},
            )


def _is_same(here: bytes, record: records.LayerRecord) -> bool:
    """Whether a record that is here says the same of the layer's files. It stays: a mirrored one
    has what `record` lacks, and its signatures cover that."""
    try:
        own = decoding.layer(here, record.diff_id)
    except records.RecordError:
        return False
    return (own.size, own.sha256, own.verity) == (record.size, record.sha256, record.verity)


def _parts(
    store: layout.Layout, where: copy_paths.CopyPaths, record: records.LayerRecord
) -> list[_Part]:
    """What there is to copy of a layer: its hash tree where that is a file of its own, then it."""
    name = digests.hex_of(record.diff_id)
    layer = _Part(
        store.layer(record.diff_id),
        where.draft(name),
        where.layer(name),
        record.size,
        record.sha256,
    )
    verity = record.verity
    if verity is None or verity.offset:
        return [layer]
    tree = _Part(
        store.layer_tree(record.diff_id),
        where.tree_draft(name),
        where.tree(name),
        verity.tree_size,
        verity.sha256,
    )
    return [tree, layer]


def _failure(error: OSError | errors.AgentError, where: copy_paths.CopyPaths) -> CopyError:
    """What it means that an operation failed."""
    if isinstance(error, CopyError):
        return error
    if isinstance(error, workers.DeadlineError | workers.StuckError):
        return CopyError("store_deadline", str(error))
    is_of_disk = isinstance(error, OSError) and str(error.filename).startswith(where.folder)
    if not is_of_disk:
        return CopyError("store_error", str(error))
    is_full = isinstance(error, OSError) and error.errno in _FULL
    return CopyError("disk_full" if is_full else "disk_error", str(error))
