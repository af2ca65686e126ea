"""Having the store's NFS export mounted on this node, for as long as the node lives.

Mounts at the start, with growing pauses until the server answers; takes what is
mounted already; puts a new mount in the place of one whose export was replaced;
unmounts the old one when nobody uses it any more, and nothing ever at the end: what
runs on the store goes on without us.

One hard mount serves look-ups and data. A soft one for look-ups would not be
quicker to give up: measured against a stopped server, one with timeo=10,retrans=1
took 3 s to fail one call, and 9 s where a look-up needs three, while a worker that
waits on the hard mount is killed at its deadline within 3 ms; and look-ups on a
mount of their own would not warm the caches of the one that layers are read through.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.kits.processes import workers
from agent.mounts import mountinfo, nfs

logger = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 5.0, 10.0)
_TIDY_SECONDS = 60.0
_ANSWER_SECONDS = 5.0
_FIRST_SECONDS = 5.0
"""For each of several addresses of a server at first: one that works takes much less."""


class NotMounted(errors.TemporaryError):
    """The store is not mounted on this node; the message says why and what to do."""


class Pool(Protocol):
    """Killable workers (agent.kits.processes.workers.Pool); a failed call leaves them usable."""

    async def call(self, operation: str, *arguments: Any, deadline: float) -> Any:
        """Run an operation; raise TemporaryError when it does not end, OSError as it did."""


class Mounting:
    """Keeps one export mounted.

    `pool` runs agent.mounts.nfs_worker.OPERATIONS. `deadline` is how long the server may
    take for one mount at one of its addresses, in seconds.
    """

    def __init__(
        self,
        wanted: nfs.Wanted,
        pool: Pool,
        *,
        deadline: float,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        self._wanted = wanted
        self._pool = pool
        self._deadline = deadline
        self._pauses = pauses
        self._stale: set[str] = set()
        self._wakened = asyncio.Event()
        self.problem = f"{wanted.export.source} is not mounted yet"
        """Why the store is not to be had, and what to do; "" while it is mounted."""
        self.on_mounted: Callable[[], None] = lambda: None
        """Called when the store is there after it was not."""

    @property
    def source(self) -> str:
        """The export, as the mount table names it."""
        return self._wanted.export.source

    async def run(self) -> None:
        """Look after the mount for ever."""
        pauses = backoff.Backoff(self._pauses)
        while True:
            self._wakened.clear()
            try:
                left = await self._look()
            except (errors.AgentError, OSError) as error:
                self._tell(explain(self._wanted.export, error))
                await pauses.wait()
            else:
                self._tell("")
                pauses.reset()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TIDY_SECONDS if left else None):
                        await self._wakened.wait()

    def wake(self) -> None:
        """Look now: the store did not answer as it should."""
        self._wakened.set()

    async def _look(self) -> int:
        """Bring it in order; return how many old mounts are left, as they are in use."""
        seen = await self._survey()
        self._stale &= {entry.target for entry in seen.mounts}
        plan = nfs.plan(self._wanted, seen, self._stale)
        while not plan.mount and await self._is_stale(str(plan.path)):
            self._stale.add(str(plan.path))
            logger.warning("the store's export was replaced", extra={"path": str(plan.path)})
            plan = nfs.plan(self._wanted, seen, self._stale)
        if plan.mount:
            took = await self._mount(plan.mount)
            logger.info("mounted the store", extra={"path": plan.mount, "options": took})
            if not any(entry.group for entry in mountinfo.read() if entry.target == plan.mount):
                logger.warning(
                    "the mount is not shared with the host: in a pod, the volume with the store's"
                    " place needs mountPropagation Bidirectional",
                    extra={"path": plan.mount},
                )
        if plan.link:
            await self._call("link", str(self._wanted.place), plan.link)
            logger.info("the store is there", extra={"path": str(plan.path)})
        return len(plan.old) - await self._tidy(plan.unmount)

    async def _survey(self) -> nfs.Seen:
        place = self._wanted.place
        kind, link, empty = await self._call("survey", str(place))
        table = mountinfo.read()
        layers = {mountinfo.backing_file(entry.source) for entry in table if entry.kind == "erofs"}
        return nfs.Seen(kind, link, empty=empty, mounts=table, layers=layers)

    async def _is_stale(self, path: str) -> bool:
        """Whether its export is gone. A server that does not answer leaves that open."""
        try:
            await self._call("check", path)
        except errors.TemporaryError:
            return False
        except OSError as error:
            return error.errno == errno.ESTALE
        return False

    async def _mount(self, path: str) -> str:
        """Mount at the first of the server's addresses that answers; the options it took.

        The name is resolved now, so that a server that has moved is found. An address that
        drops what is sent to it (a dead one of several heads) costs little at first, and
        has its whole time only where no other works.
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
            took: str = await self._pool.call(
                "mount", source, address, path, attempts, deadline=deadline
            )
        except (errors.TemporaryError, OSError) as error:
            logger.info(
                "not mounted from an address", extra={"address": address, "why": str(error)}
            )
            raise
        return took

    async def _tidy(self, paths: Sequence[str]) -> int:
        """Unmount old mounts that nobody uses; how many went."""
        went = 0
        for path in paths:
            try:
                gone = await self._call("unmount", path)
            except (errors.AgentError, OSError) as error:
                logger.warning("an old mount stays", extra={"path": path, "reason": str(error)})
                continue
            if gone:
                logger.info("unmounted what nobody uses", extra={"path": path})
                went += 1
        return went

    async def _call(self, operation: str, *arguments: Any) -> Any:
        return await self._pool.call(operation, *arguments, deadline=_ANSWER_SECONDS)

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("the store is not mounted", extra={"reason": problem})
        was, self.problem = self.problem, problem
        if was and not problem:
            self.on_mounted()


class Impossible:
    """In the place of a Mounting where what the operator wrote names no mount; `problem` says so.

    An agent that ended instead would leave its node with the label and without the store,
    and the reason in nothing but its log.
    """

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        self.on_mounted: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Wait for the end: another setting comes with another process."""
        logger.error("the store cannot be mounted", extra={"reason": self.problem})
        await asyncio.Event().wait()

    def wake(self) -> None:
        """See Mounting; there is nothing to look at."""


class Gate:
    """A pool in front of which calls fail at once while the store is not mounted.

    Else its empty place would be taken for a store without images.
    """

    def __init__(self, pool: Pool, mounting: Mounting | Impossible) -> None:
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
    errno.EBUSY: "something holds the place: the store must lie inside a volume, not be one",
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
