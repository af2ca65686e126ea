"""One operation at a time in a whole cluster: a Lease, held while one is decided and begun.

An operation begins with a look at all objects. Two that begin at once, of the APIs of
two controllers or of a person's command line, would each see that nothing is under
way. Only the beginning is held: a long part, a build or a deletion, is visible in the
objects themselves.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator

from agent import errors
from agent.clients.kube import lease
from agent.model import keys

logger = logging.getLogger(__name__)


class Taken(errors.TemporaryError):
    """Another operation is being begun at this moment. `holder` is only for the log."""

    def __init__(self, holder: str) -> None:
        super().__init__("another operation is being begun", delay=1.0)
        self.holder = holder


class OperationLock:
    """The Lease in `namespace`; `lasts` is in seconds.

    A process that ends while it holds the Lease blocks others for that long, by the API
    server's clock. An operation has half of that time.
    """

    def __init__(self, api: lease.Api, *, namespace: str, lasts: float = 60.0) -> None:
        self._leasing = lease.Leasing(api, namespace=namespace, name=keys.OPERATION_LEASE)
        self._lasts = lasts

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Begin an operation within the context; raise Taken, TemporaryError."""
        own = await self._take()
        try:
            async with asyncio.timeout(self._lasts / 2):
                yield
        except TimeoutError as error:
            raise errors.TemporaryError("the operation takes too long to begin") from error
        finally:
            await self._release(own)

    async def _take(self) -> lease.Lease:
        current = await self._leasing.read()
        if current is not None and not self._leasing.is_free(current):
            raise Taken(current.holder)
        try:
            return await self._leasing.take(current, holder=uuid.uuid4().hex, seconds=self._lasts)
        except lease.Raced as error:
            raise Taken("another client that was faster") from error

    async def _release(self, own: lease.Lease) -> None:
        try:
            await self._leasing.release(own)
        except errors.AgentError as error:
            logger.info("the Lease stays until it is over", extra={"reason": str(error)})
