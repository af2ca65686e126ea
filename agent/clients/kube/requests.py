"""One request to the Kubernetes API by kubernetes_asyncio: deadline, count, typed errors.

Nothing is retried here, except once after a 401, with the token read again: the
caller decides when to try again.

The library's `watch` is not used. It opens a client of its own for each watch, takes a
line that was cut for an event, hides 410 and connects again without a pause; and it
has no limit on silence. The lines of a watch are read here, and decoded in rest_client.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import email.utils
import urllib.parse
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

import aiohttp
import msgspec

from agent.clients.kube import connection, http_session, library, refusals
from agent.metrics import shared_metrics
from agent.model import times

_ANSWER_LIMIT = 64 << 20
_LINE_LIMIT = 8 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent. `verb` is its name in the metric, which counts watches separately."""

    method: str
    path: str
    query: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    body: object = None
    content_type: str = "application/json"
    accept: str = "application/json"

    @property
    def verb(self) -> str:
        return "WATCH" if "watch" in self.query else self.method

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Requests:
    """Requests to the API server; a context manager.

    `deadline` is for one request in seconds; the lines of a watch have a limit of their
    own. `sent` counts the requests.
    """

    def __init__(
        self, credentials: connection.Credentials, *, deadline: float, user_agent: str
    ) -> None:
        self.sent = 0
        self._credentials = credentials
        self._deadline = deadline
        self._user_agent = user_agent
        self._api: library.ApiClient | None = None
        self._session: http_session.Session | None = None
        self._reading = asyncio.Lock()
        self._fresh_until = 0.0
        self._date: tuple[str, float] = ("", 0.0)

    def now(self) -> datetime.datetime:
        """The time by the API server's clock, to the second; by this machine's before an answer.

        For stamps that others compare: this machine's clock may not have been set yet,
        or wrongly.
        """
        text, received = self._date
        try:
            date = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return times.now()
        return times.in_utc(date) + datetime.timedelta(
            seconds=asyncio.get_running_loop().time() - received
        )

    async def __aenter__(self) -> "Requests":
        self._session = http_session.Session()
        self._api = await http_session.api_client(self._session, user_agent=self._user_agent)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._api is not None:
            await self._api.close()

    async def send(self, request: Request) -> bytes:
        """The body of the answer, within the deadline."""
        with _translated(str(request)):
            async with asyncio.timeout(self._deadline) as deadline:
                response = await self._open(request, deadline)
                async with response:
                    return await _read(response)

    async def lines(self, request: Request, *, silence: float) -> AsyncGenerator[bytes]:
        """The lines of a watch; first "", when it begins."""
        name = f"watch of {request.path}"
        with _translated(name):
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
                        raise refusals.Unavailable(f"{name}: a line has no end")
                if buffer:
                    raise refusals.Unavailable(f"{name}: it was cut within a line")

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], *, protocol: str
    ) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket, as the API server has them for commands in containers.

        The whole of its use is within the deadline. A refusal raises what `send` raises.
        """
        name = f"GET {path}"
        with _translated(name):
            async with asyncio.timeout(self._deadline):
                await self._current_api()
                self.sent += 1
                if self._session is None:
                    raise RuntimeError("the client is used as a context manager")
                try:
                    opened = await self._session.websocket(
                        f"{path}?{urllib.parse.urlencode(query)}",
                        protocol=protocol,
                        user_agent=self._user_agent,
                    )
                except aiohttp.WSServerHandshakeError as error:
                    # The library has closed the connection: the reason in its body is gone.
                    raise refusals.error_of(name, error.status, b"", {}) from error
                async with opened:
                    yield opened

    async def _open(self, request: Request, deadline: asyncio.Timeout) -> aiohttp.ClientResponse:
        """The answer, if it is 2xx; the token is read again once if it is refused."""
        for last in (False, True):
            response = await self._send(request, deadline)
            _count(request, str(response.status))
            if date := response.headers.get("Date"):
                self._date = date, asyncio.get_running_loop().time()
            if response.ok and response.status < 300:
                return response
            async with response:
                if response.status == 401 and not last:
                    self._expire_access()
                    continue
                body = await _read(response)
                raise refusals.error_of(str(request), response.status, body, response.headers)
        raise AssertionError("the last try returns or raises")

    async def _send(self, request: Request, deadline: asyncio.Timeout) -> aiohttp.ClientResponse:
        api = await self._current_api()
        self.sent += 1
        try:
            response: aiohttp.ClientResponse = await api.call_api(
                request.path,
                request.method,
                query_params=list(request.query.items()),
                header_params={"Accept": request.accept, "Content-Type": request.content_type},
                body=msgspec.to_builtins(request.body),
                auth_settings=["BearerToken"],
                _preload_content=False,
            )
        except (aiohttp.ClientError, OSError):
            # The authority may have been replaced, the server moved: read the access again.
            self._expire_access()
            _count(request, "none")
            raise
        except asyncio.CancelledError:
            # By the deadline; or else by a caller who does not need the answer.
            if (deadline.when() or 0.0) <= asyncio.get_running_loop().time():
                self._expire_access()
                _count(request, "deadline")
            raise
        return response

    def _expire_access(self) -> None:
        self._fresh_until = 0.0

    async def _current_api(self) -> library.ApiClient:
        if self._api is None or self._session is None:
            raise RuntimeError("the client is used as a context manager")
        # Requests at the same time read once: a kubeconfig's plug-in may ask a cloud.
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now >= self._fresh_until:
                access = await self._credentials.read()
                http_session.use(self._api, self._session, access)
                self._fresh_until = now + self._credentials.seconds
        return self._api


def _count(request: Request, code: str) -> None:
    shared_metrics.API_REQUEST.labels(request.verb, code).inc()


@contextlib.contextmanager
def _translated(request: str) -> Iterator[None]:
    """What the HTTP library raises becomes Unavailable."""
    try:
        yield
    except TimeoutError as error:
        raise refusals.Unavailable(f"{request}: no answer in time") from error
    except aiohttp.ClientConnectorError as error:
        # Its own text prints Python objects.
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
