"""An event loop in a thread: servers for tests of every kind, and for other processes."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from aiohttp import web

Result = TypeVar("Result")

_SECONDS = 60.0


class Loop:
    """A running event loop; `run` may be called from any other thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_SECONDS)


@contextlib.contextmanager
def running() -> Iterator[Loop]:
    """A loop for the time of the context."""
    made = Loop()
    thread = threading.Thread(target=made.loop.run_forever, name="servers", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.run(_cancel_all())
        made.loop.call_soon_threadsafe(made.loop.stop)
        thread.join(_SECONDS)
        made.loop.close()


async def _cancel_all() -> None:
    """End what is left: requests that a proxy was told never to answer."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Their connections are closed by callbacks, in the loop's next rounds.
    await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def listening(
    server: web.Server, *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve on a port of the loopback interface; leaving closes every connection."""
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True, ssl_context=tls)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
