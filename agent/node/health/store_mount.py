"""Keeping the store's NFS export mounted on this node.

Mounts at the start, with growing pauses until the server answers; adopts an existing
mount; replaces a mount whose export was replaced; unmounts the old one when nothing uses
it any more. Nothing is unmounted when the agent ends: containers on the store continue.

One hard mount serves look-ups and data. A soft one for look-ups would not be
quicker to give up: measured against a stopped server, one with timeo=10,retrans=1
took 3 s to fail one call, and 9 s where a look-up needs three, while a worker that
waits on the hard mount is killed at its deadline within 3 ms; and look-ups on a
mount of their own would not warm the caches of the one that layers are read through.
"""

import asyncio
import contextlib
import dataclasses
import errno
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent import errors
from agent.kits.aio import backoff
from agent.kits.processes import workers
from agent.mounts import mountinfo, nfs

logger = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 5.0, 10.0)
_TIDY_SECONDS = 60.0
_SETTLE_SECONDS = 10.0
"""After which a new mount is looked at again: a rule of udev (nfsrahead of nfs-utils) may have set
another read-ahead just after the agent."""
_ANSWER_SECONDS = 5.0
_FIRST_SECONDS = 5.0
"""For each of several addresses of a server at first: one that works takes much less."""


class NotMounted(errors.TemporaryError):
    """The store is not mounted on this node; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signals:
    """What the mount of the store and the prober of the store let each other know.

    `mounted` is set when the store is mounted after it was not, `silent` each time that
    the store does not answer as it should.
    """

    mounted: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    silent: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Mounting:
    """Keeps one export mounted.

    `pool` runs agent.mounts.nfs_worker.OPERATIONS. `deadline` is how long the server may
    take for one mount at one of its addresses, in seconds; `read_ahead` are the KiB that the
    kernel reads ahead on the agent's mounts, 0 for its own choice.
    """

    def __init__(
        self,
        wanted: nfs.Wanted,
        pool: workers.Caller,
        signals: Signals,
        *,
        deadline: float,
        read_ahead: int = 0,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        self._wanted = wanted
        self._pool = pool
        self._signals = signals
        self._deadline = deadline
        self._read_ahead = read_ahead
        self._has_settled = False
        self._unset = ""
        """A mount on which it could not be set: that is said once."""
        self._pauses = pauses
        self._stale: set[str] = set()
        self.problem = f"{wanted.export.source} is not mounted yet"
        """Why the store is not mounted, and what to do; "" while it is mounted."""

    @property
    def source(self) -> str:
        """The export, as the mount table names it."""
        return self._wanted.export.source

    async def run(self) -> None:
        """Keep it mounted for ever."""
        pauses = backoff.Backoff(self._pauses)
        while True:
            self._signals.silent.clear()
            try:
                left = await self._look()
            except (errors.AgentError, OSError) as error:
                self._report(explain(self._wanted.export, error))
                await pauses.wait()
            else:
                self._report("")
                pauses.reset()
                pause = _TIDY_SECONDS if left else None
                if self._read_ahead and not self._has_settled:
                    pause, self._has_settled = _SETTLE_SECONDS, True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._signals.silent.wait()

    async def _look(self) -> int:
        """Mount and link what should be; return how many old mounts are still in use."""
        seen = await self._survey()
        self._stale &= {entry.target for entry in seen.mounts}
        plan = nfs.plan(self._wanted, seen, self._stale)
        while not plan.mount and await self._is_stale(str(plan.path)):
            self._stale.add(str(plan.path))
            logger.warning("the store's export was replaced", extra={"path": str(plan.path)})
            plan = nfs.plan(self._wanted, seen, self._stale)
        if plan.mount:
            used = await self._mount(plan.mount)
            self._has_settled = False
            logger.info("mounted the store", extra={"path": plan.mount, "options": used})
            if not any(entry.group for entry in mountinfo.read() if entry.target == plan.mount):
                logger.warning(
                    "the mount is not shared with the host: in a pod, the volume with the store's"
                    " place needs mountPropagation Bidirectional",
                    extra={"path": plan.mount},
                )
        await self._set_read_ahead(str(plan.path))
        if plan.link:
            await self._call("link", str(self._wanted.place), plan.link)
            logger.info("the store is mounted", extra={"path": str(plan.path)})
        return len(plan.old) - await self._tidy(plan.unmount)

    async def _set_read_ahead(self, path: str) -> None:
        """Set it on a mount of the agent, before any layer is opened there; failing is no harm."""
        if not self._read_ahead or not nfs.is_agents_mount(path) or path == self._unset:
            return
        try:
            if await self._call("read_ahead", path, self._read_ahead):
                logger.info(
                    "set the read-ahead of the store's mount",
                    extra={"path": path, "kib": self._read_ahead},
                )
        except (errors.AgentError, OSError) as error:
            self._unset = path
            logger.warning(
                "the read-ahead of the store's mount stays as it is",
                extra={"path": path, "reason": str(error)},
            )

    async def _survey(self) -> nfs.Seen:
        place = self._wanted.place
        kind, link, empty = await self._call("survey", str(place))
        table = mountinfo.read()
        return nfs.Seen(kind, link, empty=empty, mounts=table, layers=await self._layers(table))

    async def _layers(self, table: Sequence[mountinfo.Entry]) -> Collection[str]:
        """The files behind mounted layers. Where they are not known, all mounts have some."""
        try:
            files: list[str] = await self._call("used_files")
        except errors.AgentError as error:
            logger.warning("the files behind layers are not known", extra={"reason": str(error)})
            return [f"{entry.target}/" for entry in table]
        return files

    async def _is_stale(self, path: str) -> bool:
        """Whether its export is gone. False too where the server does not answer."""
        try:
            await self._call("check", path)
        except errors.TemporaryError:
            return False
        except OSError as error:
            return error.errno == errno.ESTALE
        return False

    async def _mount(self, path: str) -> str:
        """Mount from the first of the server's addresses that answers; return the options used.

        The name is resolved now, so that a server that has moved is reached. An address that
        drops packets (a dead one of several heads) costs little at first, and gets the whole
        deadline only where no other address works.
        """
        server = self._wanted.export.server
        addresses: list[str] = await self._pool.call("resolve", server, deadline=self._deadline)
        first = [min(_FIRST_SECONDS, self._deadline)] if len(addresses) > 1 else []
        refusal: OSError | None = None
        for deadline in (*first, self._deadline):
            silent = []
            for address in addresses:
                try:
                    return await self._mount_from(address, path, deadline=deadline)
                except workers.DeadlineError:
                    silent.append(address)
                except OSError as error:
                    refusal = error
            addresses = silent
        raise refusal or workers.DeadlineError("mount", self._deadline)

    async def _mount_from(self, address: str, path: str, *, deadline: float) -> str:
        source, attempts = self.source, nfs.attempts(self._wanted.options)
        try:
            used: str = await self._pool.call(
                "mount", source, address, path, attempts, deadline=deadline
            )
        except (errors.TemporaryError, OSError) as error:
            logger.info(
                "not mounted from an address", extra={"address": address, "why": str(error)}
            )
            raise
        return used

    async def _tidy(self, paths: Sequence[str]) -> int:
        """Unmount old mounts that nothing uses; return how many."""
        unmounted = 0
        for path in paths:
            try:
                gone = await self._call("unmount", path)
            except (errors.AgentError, OSError) as error:
                logger.warning("an old mount stays", extra={"path": path, "reason": str(error)})
                continue
            if gone:
                logger.info("unmounted an old mount", extra={"path": path})
                unmounted += 1
        return unmounted

    async def _call(self, operation: str, *arguments: Any) -> Any:
        return await self._pool.call(operation, *arguments, deadline=_ANSWER_SECONDS)

    def _report(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("the store is not mounted", extra={"reason": problem})
        was, self.problem = self.problem, problem
        if was and not problem:
            self._signals.mounted.set()


class Impossible:
    """Stands for a Mounting where the settings name no valid mount; `problem` says why.

    An agent that ended instead would leave its node with the label and without the store,
    and the reason only in its log.
    """

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem

    async def run(self) -> None:
        """Wait for the end: other settings come with another process."""
        logger.error("the store cannot be mounted", extra={"reason": self.problem})
        await asyncio.Event().wait()


class Gate:
    """A pool whose calls fail at once while the store is not mounted.

    The empty mount point would be taken for a store without images.
    """

    def __init__(self, pool: workers.Caller, mounting: Mounting | Impossible) -> None:
        self._pool = pool
        self._mounting = mounting

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """As the pool's; raises NotMounted, too."""
        if self._mounting.problem:
            raise NotMounted(self._mounting.problem)
        return await self._pool.call(operation, *arguments, deadline=deadline)


_ADVICE: Mapping[int, str] = {
    errno.ECONNREFUSED: "nothing listens on its port 2049: is the NFS service running?",
    errno.ETIMEDOUT: "it does not answer: is it up, and may this node reach its port 2049?",
    errno.EHOSTUNREACH: "it cannot be reached: are its name, the DNS and the route right?",
    errno.ENETUNREACH: "there is no route to it from this node's network",
    errno.EACCES: "it refuses this node: add the node's address to the export's clients",
    errno.EPERM: "mounting is not allowed here: the agent must run privileged",
    errno.ENOENT: "it has no such export, or the folder is not there",
    errno.ENODEV: "this kernel has no NFS client: install its nfs modules",
    errno.EPROTONOSUPPORT: "it speaks none of the versions tried: see --nfs-options vers=",
    errno.EINVAL: "the kernel refuses the options: see --nfs-options",
    errno.EBUSY: "something uses the mount point: the store must lie inside a volume, not be one",
}


def explain(export: nfs.Export, error: Exception) -> str:
    """What keeps an export from being mounted, and what to do about it, for people."""
    if isinstance(error, workers.DeadlineError):
        unknown = error.operation == "resolve"
        reason = _ADVICE[errno.EHOSTUNREACH if unknown else errno.ETIMEDOUT]
    elif isinstance(error, OSError):
        said = error.strerror or str(error)
        reason = f"{_ADVICE.get(error.errno or 0, 'the kernel says')} ({said})"
    else:
        return str(error)
    return f"{export.source} cannot be mounted: {reason}"
