"""One leader among the controllers: a Lease, written only as it was read.

The leader renews it every few seconds. If it cannot renew it in time, it stops before
another one may begin: the time runs from before the request, because a reply that is
slow says nothing of when the server has written. A controller that waits compares no
clocks: for it a Lease is over when it saw it unchanged for as long as it lasts. In a
moment of overlap two leaders would write the same names, and each object once.
"""

import asyncio
import dataclasses
import logging

from agent import errors
from agent.clients.kube import lease

logger = logging.getLogger(__name__)


class LeadershipLost(errors.TemporaryError):
    """Another controller leads, or may by now: this one ends."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """In seconds; `lasts` is how long a Lease lasts that is not renewed."""

    lasts: float = 15.0

    @property
    def deadline(self) -> float:
        """The time after a renewal by which the next must be done."""
        return self.lasts * 2 / 3

    @property
    def every(self) -> float:
        """Between two renewals, and between two looks of a controller that waits."""
        return self.lasts / 5

    @property
    def patience(self) -> float:
        """With one try to renew: a second one, on another connection, still fits in, as with
        client-go. A connection that died silently answers no request.
        """
        return self.deadline / 2

    @property
    def again(self) -> float:
        """Between a try that has failed and the next one."""
        return self.lasts / 15


class Election:
    """The election by a Lease; `identity` is this controller's, and its next container's."""

    def __init__(
        self, leasing: lease.Leasing, *, identity: str, times: Times | None = None
    ) -> None:
        self._leasing = leasing
        self._identity = identity
        self._times = times or Times()
        self._observed: tuple[str, float] = ("", 0.0)
        self._renewed = 0.0
        self._held: lease.Lease | None = None
        self.leading = False
        self.leader = ""
        self.problem = ""
        """Why a controller that waits could not take over: the Lease cannot be read."""

    async def win(self) -> None:
        """Return when this controller leads."""
        while True:
            try:
                # A reply that came too late is a Lease that may be over: it is renewed first.
                self.leading = await self._try() and self._left() > 0
                self.problem = ""
                if self.leading:
                    logger.info("leading", extra={"identity": self._identity})
                    return
            except errors.TemporaryError as error:
                self.problem = f"the leader's Lease cannot be read: {error}"
                logger.warning("no election yet", extra={"reason": str(error)})
            await asyncio.sleep(self._times.every)

    async def keep(self) -> None:
        """Renew for ever; raise LeadershipLost."""
        pause = self._times.every
        while (left := self._left()) > 0:
            await asyncio.sleep(min(pause, left))
            pause = self._times.every if await self._renew() else self._times.again
        self.leading = False
        raise LeadershipLost("the Lease could not be renewed in time")

    async def resign(self) -> None:
        """Leave the Lease to the next leader, at once."""
        if not self.leading:
            return
        self.leading = False
        try:
            current = await self._leasing.read()
            if current is not None and current.holder == self._identity:
                await self._leasing.release(current)
        except errors.AgentError as error:
            logger.info("the Lease is not released", extra={"reason": str(error)})

    def _left(self) -> float:
        """The seconds until the Lease must have been renewed."""
        deadline = self._renewed + self._times.deadline
        return deadline - asyncio.get_running_loop().time()

    async def _renew(self) -> bool:
        """Try it once; raise LeadershipLost if another controller has the Lease."""
        try:
            async with asyncio.timeout(min(self._left(), self._times.patience)):
                held = await self._try()
        except (TimeoutError, errors.AgentError) as error:
            reason = str(error) or "no answer in time"
            logger.warning("the Lease is not renewed", extra={"reason": reason})
            return False
        if not held:
            self.leading = False
            raise LeadershipLost(f"{self.leader or 'another controller'} leads now")
        return True

    async def _try(self) -> bool:
        """Take or renew the Lease; whether this controller holds it now."""
        current = self._held
        if current is None:
            current = await self._leasing.read()
        if current is not None:
            self.leader = current.holder
            if self.leader not in ("", self._identity) and not self._is_over(current):
                return False
        sent, self._held = asyncio.get_running_loop().time(), None
        try:
            taken = await self._leasing.take(
                current, holder=self._identity, seconds=self._times.lasts
            )
        except lease.Raced:
            return False if not self.leading else await self._try()
        self.leader = self._identity
        self._held, self._renewed = taken, sent
        return True

    def _is_over(self, current: lease.Lease) -> bool:
        """Whether the Lease was observed unchanged for as long as it lasts."""
        now = asyncio.get_running_loop().time()
        if self._observed[0] != current.version:
            self._observed = (current.version, now)
        return now - self._observed[1] >= (current.seconds or self._times.lasts)
