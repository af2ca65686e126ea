"""Bounds of the connections to a port that others can reach.

aiohttp bounds a request, but not a connection on which none comes, and not their number: each costs
a file descriptor and, with TLS, 100 KiB. A connection without a request is closed after some
seconds. One more than there may be closes the one that has been idle for longest: who waits for an
answer is not affected, and a client that was closed while idle connects again.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable

from aiohttp import web


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many connections, and the seconds for the TLS handshake and for the first request."""

    connections: int = 256
    handshake: float = 5.0
    first_request: float = 10.0


class Connections:
    """The open connections of one port; makes a protocol for each. `bound` first."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # By when they were last busy: the one that is idle for longest comes first.
        self._idle: collections.OrderedDict[asyncio.BaseTransport, None] = collections.OrderedDict()
        self._busy: collections.Counter[asyncio.BaseTransport] = collections.Counter()
        self._waiting: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def watch(self, app: web.Application) -> None:
        """Notice the requests of an application; before it starts."""

        @web.middleware
        async def noticed(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                return await handler(request)
            self._begin(transport)
            try:
                return await handler(request)
            finally:
                self._end(transport)

        app.middlewares.insert(0, noticed)

    def opened(self, transport: asyncio.BaseTransport) -> None:
        """Count one in, at another's cost where there are too many."""
        if len(self._idle) + len(self._busy) >= self._bounds.connections:
            self._make_room(transport)
        self._idle[transport] = None
        loop = asyncio.get_running_loop()
        self._waiting[transport] = loop.call_later(self._bounds.first_request, _abort, transport)

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """It is gone."""
        self._idle.pop(transport, None)
        self._busy.pop(transport, None)
        if timer := self._waiting.pop(transport, None):
            timer.cancel()

    def _make_room(self, newest: asyncio.BaseTransport) -> None:
        oldest = next(iter(self._idle), newest)
        self._idle.pop(oldest, None)
        _abort(oldest)

    def _begin(self, transport: asyncio.BaseTransport) -> None:
        if timer := self._waiting.pop(transport, None):
            timer.cancel()
        self._idle.pop(transport, None)
        self._busy[transport] += 1

    def _end(self, transport: asyncio.BaseTransport) -> None:
        if transport not in self._busy:
            return  # it was closed meanwhile
        self._busy[transport] -= 1
        if not self._busy[transport]:
            del self._busy[transport]
            self._idle[transport] = None


class BoundedProtocol(asyncio.Protocol):
    """A connection: passes everything on to aiohttp's protocol for it."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """After the handshake, where there is one."""
        self._transport = transport
        self._inner.connection_made(transport)
        self._connections.opened(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """However it ended."""
        if self._transport is not None:
            self._connections.closed(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """To aiohttp."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """To aiohttp."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """To aiohttp."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """To aiohttp."""
        self._inner.resume_writing()


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
