"""Putting copies behind running mounts, and the store's files back before a copy goes.

What runs on a mount notices neither. A mount that cannot be switched (one of an earlier version,
without a loop device) stays with the store until its containers have ended.
"""

import errno
import logging

from agent import errors
from agent.kits.processes import workers
from agent.local import copy_paths
from agent.metrics import copy_metrics
from agent.node.near import copy_records, copy_view, pauses
from agent.store import layout

logger = logging.getLogger(__name__)

_SECONDS = 20.0
_UNSWITCHABLE_SECONDS = 3600.0
"""After which a mount without a loop device is tried again: it may be another one by then."""


class Switcher:
    """Switches mounts; `pool` has the operations of agent.local.copy_worker."""

    def __init__(
        self, pool: workers.Caller, store: layout.Layout, known: copy_records.Records
    ) -> None:
        self._pool = pool
        self._store = store
        self._known = known
        self._pauses = pauses.Pauses()

    @property
    def next_try(self) -> float:
        """When the next mount that could not be switched is due, by the monotonic clock."""
        return self._pauses.next_end

    async def to_copies(self, where: copy_paths.CopyPaths, view: copy_view.View) -> int:
        """Switch what reads the store although there is a copy; how many mounts."""
        done = 0
        for target, name in {each.target: each.name for each in view.unswitched}.items():
            if not self._pauses.holds(target) and await self._switch(
                where, target, name, where.layer(name), to="local"
            ):
                done += 1
        return done

    async def to_store(self, where: copy_paths.CopyPaths, view: copy_view.View, name: str) -> bool:
        """Have nothing read the copy of a layer any more; whether that is so now."""
        source = str(self._store.layer(f"sha256:{name}"))
        for target in {each.target for each in view.from_copy(name)}:
            if self._pauses.holds(target) or not await self._switch(
                where, target, name, source, to="store"
            ):
                return False
        return True

    async def back_to_copy(
        self, where: copy_paths.CopyPaths, view: copy_view.View, name: str
    ) -> None:
        """Undo `to_store`."""
        for target in {each.target for each in view.from_copy(name)}:
            await self._switch(where, target, name, where.layer(name), to="local")

    async def _switch(
        self,
        where: copy_paths.CopyPaths,
        target: str,
        name: str,
        source: str,
        *,
        to: copy_metrics.Side,
    ) -> bool:
        """Switch one mount; whether it reads that file now. The failure is counted and logged."""
        try:
            record = await self._known.same(where, name)
            if record is None:
                # The store has another layer of this name, or none.
                self._pauses.hold(target)
                return False
            arguments = (target, source, record.size)
            await self._pool.call("switch_layer", *arguments, deadline=_SECONDS)
        except (OSError, errors.AgentError) as error:
            extra = {"layer": f"sha256:{name}", "file": source, "reason": str(error)}
            if isinstance(error, OSError) and error.errno == errno.ENOTBLK:
                self._pauses.hold(target, _UNSWITCHABLE_SECONDS)
                logger.info("a layer is read from its copy from the next mount on", extra=extra)
                return False
            self._pauses.hold(target)
            copy_metrics.copy_failed("not_switched")
            logger.warning("a mounted layer is not switched to another file", extra=extra)
            return False
        self._pauses.end(target)
        copy_metrics.switched(to)
        return True
