"""Bounds of the connections to a port that others can reach.

aiohttp bounds a request, but not a connection on which none comes, and not their number: each costs
a file descriptor and, with TLS, 100 KiB. A connection without a request is closed after some
seconds. One more than there may be closes the one that has been idle for longest: who waits for an
answer is not affected, and a client that was closed while idle connects again. Connections amid the
TLS handshake are counted apart: those who only begin one cost no client its connection.
"""

import asyncio
import collections
import dataclasses
import ssl
from asyncio import sslproto
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many connections, also amid the TLS handshake, and the seconds for that and for the
    first request."""

    connections: int = 256
    handshakes: int = 64
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
        self._shaking: collections.OrderedDict[asyncio.BaseTransport, None] = (
            collections.OrderedDict()
        )

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

    def protocol(self, inner: asyncio.Protocol, tls: ssl.SSLContext | None) -> asyncio.BaseProtocol:
        """The protocol of a new connection; `inner` is aiohttp's for it."""
        bounded = BoundedProtocol(inner, self)
        if tls is None:
            return bounded
        return _Handshake(bounded, self, tls, self._bounds.handshake)

    def begun(self, transport: asyncio.BaseTransport) -> None:
        """Count a handshake in, at the cost of the oldest one where there are too many."""
        if len(self._shaking) >= self._bounds.handshakes:
            _abort(self._shaking.popitem(last=False)[0])
        self._shaking[transport] = None

    def done(self, transport: asyncio.BaseTransport) -> None:
        """A handshake has ended, well or not."""
        self._shaking.pop(transport, None)

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
        self.below: asyncio.BaseTransport | None = None
        """The transport that TLS is on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """After the handshake, where there is one."""
        self._transport = transport
        if self.below is not None:
            self._connections.done(self.below)
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


class _Handshake(sslproto.SSLProtocol):
    """TLS as asyncio's servers have it, which hand a connection out only after the handshake."""

    def __init__(
        self,
        inner: BoundedProtocol,
        connections: Connections,
        context: ssl.SSLContext,
        seconds: float,
    ) -> None:
        # No one waits for the handshake, and its time may be a float: the stubs know neither.
        more: dict[str, Any] = {"waiter": None, "ssl_handshake_timeout": seconds}
        loop = asyncio.get_running_loop()
        super().__init__(loop, inner, context, server_side=True, **more)
        self._bounded = inner
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Before the handshake."""
        self._bounded.below = transport
        self._connections.begun(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """However it ended."""
        if self._bounded.below is not None:
            self._connections.done(self._bounded.below)
        super().connection_lost(exc)


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
