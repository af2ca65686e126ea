"""HTTP with the Kubernetes API server: who we are, deadlines, errors with a meaning.

Nothing is retried here, apart from one more try with the token read anew after a
401: when to try again is the caller's to know.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import email.utils
import socket
import types
from collections.abc import AsyncGenerator, Iterator, Mapping

import aiohttp

from agent import metrics
from agent.clients.kube import connection, refusals

_ANSWER_LIMIT = 64 << 20
_LINE_LIMIT = 8 << 20
# A peer that is gone without a word (a node of the load balancer, a firewall's forgotten
# connection) is noticed after 30 + 3 * 10 s, as client-go does with its HTTP/2 pings.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is asked. `verb` is its name in the metric, where watches are told apart."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    data: bytes = b""
    content_type: str = "application/json"
    accept: str = "application/json"

    @property
    def verb(self) -> str:
        return "WATCH" if self.query and "watch" in self.query else self.method

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """Requests to the API server; a context manager.

    `deadline` is for one request in seconds, a stream's lines apart. `requests`
    counts what was sent.
    """

    def __init__(
        self, credentials: connection.Credentials, *, deadline: float, user_agent: str
    ) -> None:
        self.requests = 0
        self._credentials = credentials
        self._deadline = deadline
        self._user_agent = user_agent
        self._access: connection.Access | None = None
        self._fresh_until = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._date: tuple[str, float] = ("", 0.0)

    def now(self) -> datetime.datetime:
        """The time by the API server's clock, to the second; by ours before its first answer.

        For what is written for others to compare: this machine's clock may not have been
        set yet, or wrongly.
        """
        text, seen = self._date
        try:
            told = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return datetime.datetime.now(datetime.UTC)
        told = told if told.tzinfo else told.replace(tzinfo=datetime.UTC)
        return told + datetime.timedelta(seconds=asyncio.get_running_loop().time() - seen)

    async def __aenter__(self) -> "Transport":
        connector = aiohttp.TCPConnector(limit=16, socket_factory=_socket)
        self._session = aiohttp.ClientSession(
            connector=connector, headers={"User-Agent": self._user_agent}
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        data: bytes = b"",
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        """One request with its answer's body, within the deadline."""
        request = _Request(
            method=method,
            path=path,
            query=query,
            data=data,
            content_type=content_type,
            accept=accept,
        )
        with _translated(str(request)):
            async with asyncio.timeout(self._deadline) as deadline:
                response = await self._open(request, deadline)
                async with response:
                    return await _read(response)

    async def lines(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AsyncGenerator[bytes]:
        """The lines of an answer that does not end soon; "" first, when it begins."""
        request = _Request(method="GET", path=path, query=query)
        with _translated(f"watch of {path}"):
            async with asyncio.timeout(self._deadline) as deadline:
                response = await self._open(request, deadline)
            async with response:
                yield b""
                buffer = bytearray()
                while chunk := await _chunk(response, silence):
                    buffer += chunk
                    if b"\n" in chunk:
                        *lines, rest = bytes(buffer).split(b"\n")
                        buffer = bytearray(rest)
                        for line in filter(None, lines):
                            yield line
                    elif len(buffer) > _LINE_LIMIT:
                        raise refusals.Unavailable(f"watch of {path}: a line has no end")
                if buffer:
                    raise refusals.Unavailable(f"watch of {path}: it was cut within a line")

    async def _open(self, request: _Request, deadline: asyncio.Timeout) -> aiohttp.ClientResponse:
        """Send a request, with the token read anew if it is refused; answer 2xx or raise."""
        for last in (False, True):
            access = await self._current_access()
            response = await self._send(request, access, deadline)
            _count(request, str(response.status))
            if date := response.headers.get("Date"):
                self._date = date, asyncio.get_running_loop().time()
            if response.ok:
                return response
            async with response:
                if response.status == 401 and not last:
                    self._access = None
                    continue
                body = await _read(response)
                raise refusals.error_of(str(request), response.status, body, response.headers)
        raise AssertionError("the last try returns or raises")

    async def _send(
        self, request: _Request, access: connection.Access, deadline: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the client is used as a context manager")
        headers = {"Accept": request.accept}
        if access.authorization:
            headers["Authorization"] = access.authorization
        if request.data:
            headers["Content-Type"] = request.content_type
        self.requests += 1
        try:
            return await self._session.request(
                request.method,
                f"{access.server}{request.path}",
                params=request.query,
                data=request.data or None,
                headers=headers,
                ssl=access.tls or True,
                server_hostname=access.tls_name,
                proxy=access.proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        except (aiohttp.ClientError, OSError):
            # The authority may have been replaced, the server moved: look again next time.
            self._access = None
            _count(request, "none")
            raise
        except asyncio.CancelledError:
            # By the deadline, else nobody wants the answer any more.
            if (deadline.when() or 0.0) <= asyncio.get_running_loop().time():
                self._access = None
                _count(request, "deadline")
            raise

    async def _current_access(self) -> connection.Access:
        now = asyncio.get_running_loop().time()
        if self._access is None or now >= self._fresh_until:
            self._access = await self._credentials.read()
            self._fresh_until = now + self._credentials.seconds
        return self._access


def _count(request: _Request, code: str) -> None:
    metrics.API_REQUEST.labels(request.verb, code).inc()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket that notices a peer that is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


@contextlib.contextmanager
def _translated(request: str) -> Iterator[None]:
    """What the HTTP library raises becomes Unavailable."""
    try:
        yield
    except TimeoutError as error:
        raise refusals.Unavailable(f"{request}: no answer in time") from error
    except aiohttp.ClientConnectorError as error:
        # Its own words have our objects in them, as Python prints those.
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause: Exception = error.certificate_error
        else:
            cause = error.os_error
        reason = f"cannot connect to {error.host}:{error.port}: {cause}"
        raise refusals.Unavailable(f"{request}: {reason}") from error
    except (aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise refusals.Unavailable(f"{request}: {reason}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _ANSWER_LIMIT:
            raise refusals.Unavailable(
                f"{response.url.path}: an answer of more than {_ANSWER_LIMIT >> 20} MiB"
            )
    return bytes(body)


async def _chunk(response: aiohttp.ClientResponse, silence: float) -> bytes:
    async with asyncio.timeout(silence):
        return await response.content.readany()
