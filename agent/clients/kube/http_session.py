"""The HTTP session under kubernetes_asyncio's ApiClient, with what the library's own one lacks.

The library puts URL, token, headers and body of each request together, and passes it
to its `rest_client.pool_manager`, an aiohttp session. The session of this module takes
its place, for these reasons:

- a peer that went away silently (a node of the load balancer, a firewall's forgotten
  connection) has to be noticed: TCP keep-alive;
- a certificate authority, a proxy or a server name that was replaced is used for the
  next connection, without a new client and without an end of the watches that run;
- certificate authorities without a key usage are accepted, as client-go accepts them;
- a redirect is an error: the token must not follow it to another server;
- `.netrc` and the proxy variables of the environment are not read: the first would
  replace the token, the second would send a pod's own cluster through a proxy.
"""

import socket
from typing import Any

import aiohttp

from agent.clients.kube import connection, library

# A silent peer is noticed after 30 + 3 * 10 s, as client-go does with its HTTP/2 pings.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_CONNECTIONS = 32
_CLOSING_SECONDS = 1.0


class Session:
    """Sends the library's requests to the server of `access`, which may be replaced."""

    def __init__(self) -> None:
        self.access: connection.Access | None = None
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, socket_factory=_socket)
        self._session = aiohttp.ClientSession(connector=connector)

    async def request(self, **arguments: Any) -> aiohttp.ClientResponse:
        """One request with the library's arguments; its deadline is the caller's."""
        if self.access is None:
            raise RuntimeError("the access comes before the first request")
        return await self._session.request(
            **arguments,
            ssl=self.access.tls or True,
            server_hostname=self.access.tls_name,
            proxy=self.access.proxy,
            allow_redirects=False,
        )

    async def websocket(
        self, path: str, *, protocol: str, user_agent: str
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket of this subprotocol; its deadline is the caller's."""
        if self.access is None:
            raise RuntimeError("the access comes before the first request")
        headers = {"User-Agent": user_agent}
        if self.access.authorization:
            headers["Authorization"] = self.access.authorization
        return await self._session.ws_connect(
            f"{self.access.server}{path}",
            protocols=(protocol,),
            # The other side need not agree to the end.
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSING_SECONDS),
            headers=headers,
            ssl=self.access.tls or True,
            server_hostname=self.access.tls_name,
            proxy=self.access.proxy,
        )

    async def close(self) -> None:
        """Close all connections; the library calls it."""
        await self._session.close()


async def api_client(session: Session, *, user_agent: str) -> library.ApiClient:
    """The library's client on that session. Its owner closes it."""
    made = library.ApiClient(library.Configuration())
    await made.rest_client.pool_manager.close()
    # Of the session the library calls request() and close() only.
    made.rest_client.pool_manager = session  # type: ignore[assignment]
    made.user_agent = user_agent
    return made


def use(made: library.ApiClient, session: Session, access: connection.Access) -> None:
    """Send the next requests with this access."""
    session.access = access
    made.configuration.host = access.server
    token = access.authorization
    made.configuration.api_key = {"BearerToken": token} if token else {}


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket with keep-alive."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        made.setsockopt(level, option, value)
    return made
