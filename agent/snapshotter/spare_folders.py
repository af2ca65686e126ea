"""A stock of folders for the next snapshots, made ahead.

When many containers are created at once, their writes keep the disk's journal
busy, and then each mkdir(2) takes milliseconds: on the event loop they would add
up (measured: 2 ms for each Prepare, 100 ms for the median of 100 containers). So a
stock is made while nothing happens, away from the loop; when it is used up,
folders are made in threads, several at a time.
"""

import asyncio
import collections
import concurrent.futures
import logging

from agent.snapshotter import overlay_folders

logger = logging.getLogger(__name__)

_SIZE = 128
_CALM_SECONDS = 1.0
_THREADS = 4


class Stock:
    """Hands out reserved ids whose folders exist."""

    def __init__(
        self,
        places: overlay_folders.Folders,
        ids: overlay_folders.Ids,
        *,
        size: int = _SIZE,
        calm: float = _CALM_SECONDS,
    ) -> None:
        """`calm` are the seconds without a taker after which the stock is filled."""
        self._places = places
        self._ids = ids
        self._size = size
        self._calm = calm
        self._ready: collections.deque[int] = collections.deque()
        self._low = asyncio.Event()
        self._low.set()
        self._taken = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="making")

    def close(self) -> None:
        """Make no more; what is left in stock is removed after the next start."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def take(self) -> int:
        """An id with its folders; the caller owns both from now on. Raises OSError."""
        self._taken += 1
        if len(self._ready) <= self._size // 2:
            self._low.set()
        return self._ready.popleft() if self._ready else await self._make()

    async def run(self) -> None:
        """Fill the stock for ever, whenever it is low and no snapshot is being created."""
        while True:
            await self._low.wait()
            taken = -1
            while taken != self._taken:
                taken = self._taken
                await asyncio.sleep(self._calm)
            self._low.clear()
            try:
                while len(self._ready) < self._size:
                    self._ready.append(await self._make())
            except OSError as error:
                # The next `take` makes its own, and raises the same if that fails.
                logger.warning("no folders are made ahead", extra={"reason": str(error)})

    async def _make(self) -> int:
        id_ = self._ids.reserve()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._places.make, id_)
        except BaseException:
            self._ids.release(id_)
            raise
        return id_
