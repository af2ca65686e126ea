"""Keeping local copies of the layers that this node's containers run on.

One step: look at mounts and copies, put copies behind the mounts that do not read theirs yet,
decide (agent.local.budget), remove what goes, and copy one layer for some seconds. So a pod that
starts, or a disk that fills up, is noticed within seconds, and a large layer takes many steps.

Nothing waits for a copy. The store is asked here for records only; all that touches its layer
files or the folder of copies runs in a worker that can be killed.
"""

import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from agent import errors
from agent.kits import units
from agent.kits.processes import workers
from agent.local import budget, copy_paths, disk
from agent.metrics import copy_metrics
from agent.model import caches, digests
from agent.node.health import node_root
from agent.node.near import copy_records, copy_view, layer_copy, pauses, starts, switches

logger = logging.getLogger(__name__)

NONE_WANTED = "Nothing is copied here: UIMGACC_LOCAL is off."

_STEP_SECONDS = 10.0
"""For which a layer is copied before everything is looked at again."""
_LOOK_SECONDS = 300.0
"""After which everything is looked at where nothing seems to have changed."""
_STUCK_SECONDS = 60.0
"""The same where layers are to be copied and cannot be."""
_SWITCHED_SECONDS = 1.0
"""The same after mounts were switched: what was seen is of before."""
_TOUCH_SECONDS = 60.0
_SHORT_SECONDS = 600.0
"""For which nothing is copied after the disk was nearly full."""
_WRONG_SECONDS = 3600.0
_WAITING = "Copying waits until no pod is starting."
_DISK, _STORE, _SHORT, _LOOK = "disk", "store", "short", "look"
"""Names of pauses, beside those of layers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings of local copies; `taken` and `free` are bytes or percentages of the disk."""

    mode: caches.LocalMode
    taken: str
    free: str
    interval: float = 10.0

    def room(self, free: int, whole: int) -> budget.Room:
        """What they mean on a disk of so many bytes."""
        return budget.Room(
            budget=units.share(self.taken, whole),
            floor=units.share(self.free, whole),
            free=free,
            whole=whole,
        )


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of local copies; sizes in bytes.

    `used_local` and `used_store` are those of the layers that containers stand on, by where these
    are read from; `containers_local` are the containers of which all layers are local,
    `containers_store` the others. `budget` is what copies may take now: less than the setting
    says where the disk has too little free.
    """

    copies: int = 0
    size: int = 0
    budget: int = 0
    used_local: int = 0
    used_store: int = 0
    containers_local: int = 0
    containers_store: int = 0
    sentence: str = "not looked at yet"


class Keeper:
    """Keeps the copies of one node; `pool` has the operations of agent.local.copy_worker."""

    def __init__(
        self,
        node: node_root.Rooted,
        pool: workers.Caller,
        copier: layer_copy.Copier,
        known: copy_records.Records,
        needs: starts.Needs,
        limits: Limits,
    ) -> None:
        self._node = node
        self._pool = pool
        self._copier = copier
        self._known = known
        self._starts, self._wishes = needs.starts, needs.wishes
        self._limits = limits
        self._switcher = switches.Switcher(pool, copier.store, known)
        self._lock: int | None = None
        self._pauses = pauses.Pauses()
        self._look_at = -math.inf
        self._seen_modes: dict[str, caches.LocalMode] = {}
        self._variants: dict[str, list[str]] = {}
        self._is_pending = False
        self._dependent_since: float | None = None
        self.has_more = False
        """Whether there is more to do at once, after a step."""
        self.devices: Mapping[str, bool] = {}
        """The loop devices of mounted layers, and whether each reads a copy, at the last look."""
        self.state = State()

    async def run(self) -> None:
        """Keep copies for ever."""
        said = ""
        try:
            while True:
                sentence = await self.step()
                if _without_numbers(sentence) != said:
                    said = _without_numbers(sentence)
                    logger.info("looked at local copies", extra={"outcome": sentence})
                self.state.sentence = sentence
                if not self.has_more:
                    busy = self._starts.is_preparing or self._copier.current
                    await self._starts.wait(1.0 if busy else self._limits.interval)
        finally:
            self.close()

    def close(self) -> None:
        """Let another agent keep the copies."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def look_now(self) -> None:
        """Have the next step look at everything."""
        self._look_at = -math.inf

    async def step(self) -> str:
        """Do what is to be done now; one sentence about it."""
        self.has_more = False
        if not self._node.root:
            return "The snapshotter is not known yet."
        where = copy_paths.of(self._node.root)
        if self._pauses.holds(_DISK) or self._pauses.holds(_LOOK):
            return self.state.sentence
        try:
            if self._lock is None:
                await self._call("prepare", where.folder)
                self._lock = _locked(where.lock)
                if self._lock is None:
                    return "Another agent of this node keeps the local copies."
                await self._call("sweep", where.folder)
            if not self._is_due(where):
                return self.state.sentence if self._starts.are_calm else _WAITING
            sentence = await self._look(where)
        except layer_copy.CopyError as error:
            copy_metrics.copy_failed(error.reason)
            self._pauses.hold(_DISK if error.is_of_disk else _STORE)
            if error.is_of_disk:
                await self._give_way(where)
            return f"Nothing is copied for now: {error}"
        except (OSError, errors.AgentError) as error:
            copy_metrics.copy_failed("disk_error")
            self._pauses.hold(_LOOK)
            # What this look was for is still to be done.
            self.look_now()
            # Somebody may have removed the folder: it is made again.
            self.close()
            return f"There are no local copies: {error}"
        self._pauses.end(_LOOK)
        return sentence

    def _is_due(self, where: copy_paths.CopyPaths) -> bool:
        """Whether anything may have to be done; looks at what is cheap to look at.

        To look at everything starts a process. While pods start, that is put off, unless layers
        are to be copied beside their starts.
        """
        modes = self._modes()
        is_new = self._starts.look() or modes != self._seen_modes
        self._is_pending = self._is_pending or is_new
        self._seen_modes = modes
        free, whole = disk.room(where.folder)
        if self._limits.room(free, whole).is_short and self.state.copies > 0:
            return True
        is_urgent = "before-start" in (self._limits.mode, *modes.values())
        may_wait = not self._starts.are_calm and not is_urgent
        return (self._is_pending and not may_wait) or time.monotonic() >= self._look_at

    async def _look(self, where: copy_paths.CopyPaths) -> str:
        self._is_pending = False
        mounted, look = await self._call("survey", self._node.root)
        view = copy_view.View.of(mounted, look)
        self._note(view)
        await self._touch(where, view)
        switched = await self._switcher.to_copies(where, view)
        self.has_more = switched > 0
        if any(mode != "after-start" for mode in self._modes().values()):
            self._variants = await self._call("variants", where.folder)
        wanted = await self._wanted(view)
        room = self._limits.room(view.free, view.whole)
        gone = await self._known.deleted(where, view.copies)
        gone = gone.union(await self._call("outliving", where.folder))
        plan = budget.plan(wanted, view.budgeted(), room, now=time.time(), deleted=gone)
        for name, reason in plan.evict:
            await self._evict(where, view, name, reason)
        if room.is_short:
            self._pauses.hold(_SHORT, _SHORT_SECONDS)
            await self._give_way(where)
        if plan.copy is not None:
            self._is_pending = True
            return await self._copy(where, view, plan.copy)
        is_waiting = bool(self.state.used_store) and not self._starts.are_calm
        pause = _STUCK_SECONDS if self.state.used_store else _LOOK_SECONDS
        pause = _SWITCHED_SECONDS if switched else pause
        # What was left alone after a failure is tried again as soon as it may be.
        due = min(self._pauses.next_end, self._switcher.next_try)
        self._look_at = min(time.monotonic() + pause, due)
        self._is_pending = is_waiting
        return plan.sentence or _rest(self.state, is_waiting=is_waiting)

    def _note(self, view: copy_view.View) -> None:
        state = self.state
        state.copies, state.size = len(view.copies), view.copied_bytes
        room = self._limits.room(view.free, view.whole)
        state.budget = max(0, min(room.budget, state.size + room.free - room.floor))
        state.used_local = view.used_bytes(local=True)
        state.used_store = view.used_bytes(local=False)
        state.containers_local = view.containers(local=True)
        state.containers_store = view.containers(local=False)
        self.devices = {name: each.is_local for each in view.mounts for name in each.devices}
        copy_metrics.LOCAL_COPIES.set(state.copies)
        copy_metrics.LOCAL_BYTES.set(state.size)
        copy_metrics.LOCAL_BUDGET_BYTES.set(state.budget)
        copy_metrics.containers_run(local=state.containers_local, store=state.containers_store)
        copy_metrics.layers_used(local=state.used_local, store=state.used_store)
        depends = any(not each.is_local for each in view.used)
        if depends and self._dependent_since is None:
            self._dependent_since = self._starts.changed_at
        elif not depends and self._dependent_since is not None:
            if view.used:
                seconds = time.monotonic() - self._dependent_since
                copy_metrics.LOCAL_INDEPENDENT.observe(seconds)
                logger.info("all layers in use have local copies", extra={"seconds": seconds})
            self._dependent_since = None

    async def _touch(self, where: copy_paths.CopyPaths, view: copy_view.View) -> None:
        """Note in their files' times that copies are used."""
        old = time.time() - _TOUCH_SECONDS
        used = {each.name for each in view.used}
        due = [name for name, _, at in view.copies.values() if name in used and at < old]
        if due:
            await self._call("touch", where.folder, due)

    async def _wanted(self, view: copy_view.View) -> list[budget.Wanted]:
        """The layers that are to be copied now and whose records are known and sound."""
        if self._limits.mode == "off" or self._pauses.holds(_SHORT) or self._pauses.holds(_STORE):
            return []
        users: dict[str, int] = {}
        for each in view.used:
            users[each.name] = users.get(each.name, 0) + len(each.users)
        modes = self._modes()
        calm = self._starts.are_calm
        wanted = []
        for name in dict.fromkeys((*users, *modes)):
            mode = modes.get(name, self._limits.mode)
            is_due = mode == "before-start" or (mode == "after-start" and name in users and calm)
            if not is_due or name in view.copies or self._pauses.holds(name):
                continue
            try:
                record = await self._known.of_store(name)
            except errors.AgentError:
                # The agent's probe says that the store is away; here it is asked again later.
                self._pauses.hold(_STORE)
                return []
            if record is not None:
                begun = self._copier.position if self._copier.current == name else 0
                wanted.append(
                    budget.Wanted(
                        name=name, size=record.size, users=users.get(name, 0), begun=begun
                    )
                )
        return wanted

    async def _copy(self, where: copy_paths.CopyPaths, view: copy_view.View, name: str) -> str:
        """Copy one layer for some seconds."""
        record = self._known.read(name)
        if record is None:
            return "The store has no record of a layer in use."
        until = time.monotonic() + _STEP_SECONDS
        floor = self._limits.room(view.free, view.whole).floor

        def go_on(free: int) -> bool:
            self._starts.look()
            self.state.sentence = _progress(name, self._copier.position, record.size)
            # Asked again: the layers of warm images give way to pods that have come meanwhile.
            may_start = self._modes().get(name, self._limits.mode) == "before-start"
            goes = may_start or self._starts.are_calm
            return goes and free >= floor and time.monotonic() < until

        try:
            is_done = await self._copier.advance(where, record, view.devices, go_on)
        except layer_copy.CopyError as error:
            if error.is_of_disk or error.reason == "store_deadline":
                raise
            copy_metrics.copy_failed(error.reason)
            self.has_more = True
            self._pauses.hold(name, _WRONG_SECONDS if error.reason == "wrong_bytes" else None)
            return f"A layer is not copied for now: {error}"
        self._pauses.end(_DISK, _STORE, name)
        self.has_more = True
        if is_done:
            logger.debug("copied a layer", extra={"layer": record.diff_id, "bytes": record.size})
        return _progress(name, record.size if is_done else self._copier.position, record.size)

    async def _evict(
        self,
        where: copy_paths.CopyPaths,
        view: copy_view.View,
        name: str,
        reason: copy_metrics.Eviction,
    ) -> None:
        """Remove a copy, unless something reads it that cannot be switched back to the store."""
        if reason != "deleted":
            if not await self._switcher.to_store(where, view, name):
                return
            if name in await self._call("outliving", where.folder):
                # Meanwhile the node has said that it does not need the store's file.
                await self._switcher.back_to_copy(where, view, name)
                return
        await self._call("remove", where.folder, name)
        copy_metrics.evicted(reason)
        self.has_more = True
        logger.info("removed a local copy", extra={"layer": f"sha256:{name}", "reason": reason})

    async def _give_way(self, where: copy_paths.CopyPaths) -> None:
        """Give back what an unfinished copy takes of the disk."""
        self._copier.stop()
        with contextlib.suppress(OSError, errors.AgentError):
            await self._call("clear_drafts", where.folder)

    async def _call(self, operation: str, *arguments: object) -> Any:
        return await self._pool.call(operation, *arguments, deadline=layer_copy.DISK_SECONDS)

    def _modes(self) -> dict[str, caches.LocalMode]:
        """What is wished, by the names of the layers' files."""
        modes: dict[str, caches.LocalMode] = {}
        for wishes in self._wishes:
            for diff_id, mode in wishes.layers().items():
                layer = digests.hex_of(diff_id)
                for name in self._variants.get(layer, (layer,)):
                    modes[name] = caches.strongest((modes.get(name), mode)) or mode
        return modes


def _rest(state: State, *, is_waiting: bool) -> str:
    """What there is to say where nothing is done."""
    if is_waiting:
        return _WAITING
    if state.used_store:
        return "Some layers in use are read from the store."
    return "All layers in use have local copies." if state.used_local else "No layer is in use."


def _without_numbers(sentence: str) -> str:
    """What makes a sentence worth a line in the log."""
    return re.sub(r"[0-9.]+ [KMGT]?i?B", "", sentence)


def _progress(name: str, position: int, size: int) -> str:
    return f"Copying layer {name[:12]}: {units.size(position)} of {units.size(size)}."


def _locked(path: str) -> int | None:
    """A descriptor that keeps other agents out until it is closed; None where one was first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
