"""A proxy before an API server, kmock's or a real one, that fails in all the ways servers do."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import email.utils
import pathlib
import shutil
import ssl
import subprocess
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web

from agent.clients.kube import connection
from tests.kube import threads

_PASSED = ("Accept", "Content-Type", "User-Agent")


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request that came: `watch` tells watches, `path` is without the query."""

    method: str
    path: str
    query: Mapping[str, str]
    user_agent: str

    @property
    def watch(self) -> bool:
        return self.query.get("watch") == "true"


Which = Callable[[Seen], bool]


@dataclasses.dataclass
class Fault:
    """What happens to the requests that it is for, `times` times (None: until it is removed)."""

    which: Which
    answer: Callable[[], web.Response] | None
    times: int | None


class Proxy:
    """Passes requests on as the administrator, unless told otherwise.

    All methods may be called from any thread. `seen` is every request that came. With
    a `certificate` (a folder, see certificate) it speaks TLS, as servers in clusters do.
    """

    def __init__(
        self,
        upstream: connection.Access,
        loop: threads.Loop,
        *,
        certificate: pathlib.Path | None = None,
    ) -> None:
        self.port = 0
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self.seen: list[Seen] = []
        self.tokens: set[str] | None = None
        self.cut_after: int | None = None
        self.clock = datetime.timedelta()
        """How far the server's clock is ahead of this machine's."""
        self._faults: collections.deque[Fault] = collections.deque()
        self._upstream = upstream
        self._loop = loop
        self._stack = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._watches: set[asyncio.Task[None]] = set()
        self._frozen = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def watching(self) -> bool:
        """Whether a watch has begun and is passed on."""
        return bool(self._watches)

    def start(self) -> None:
        """Accept connections, on the same port each time."""
        self._loop.run(self._start())

    def stop(self) -> None:
        """Be down: connections are refused, those that are there break."""
        self._loop.run(self._stop())

    def fail(
        self,
        status: int,
        *,
        reason: str = "",
        times: int | None = None,
        which: Which = lambda seen: True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer so many requests (None: all) with a status of failure."""
        body = {"kind": "Status", "code": status, "reason": reason, "message": "as the test wants"}

        def answer() -> web.Response:
            return web.json_response(body, status=status, headers=headers)

        self._faults.append(Fault(which, answer, times))

    def hang(self, *, times: int | None = None, which: Which = lambda seen: True) -> None:
        """Take so many requests (None: all) and never answer."""
        self._faults.append(Fault(which, None, times))

    def heal(self) -> None:
        """No faults any more."""
        self._faults.clear()
        self.tokens = None
        self.cut_after = None
        self._loop.loop.call_soon_threadsafe(self._frozen.clear)

    def freeze(self) -> None:
        """Watches stay open and nothing more comes: a connection that is dead without a word."""
        self._loop.loop.call_soon_threadsafe(self._frozen.set)

    def end_watches(self) -> None:
        """Break all watches that there are."""

        async def cancel() -> None:
            for task in list(self._watches):
                task.cancel()

        self._loop.run(cancel())

    def requests(self, *, watch: bool) -> list[Seen]:
        """The requests that came so far: the watches, or all others."""
        return [seen for seen in self.seen if seen.watch is watch]

    async def _start(self) -> None:
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        )
        serving = threads.listening(web.Server(self._serve), port=self.port, tls=self._tls)
        self.port = await self._stack.enter_async_context(serving)

    async def _stop(self) -> None:
        for task in list(self._watches):
            task.cancel()
        await self._stack.aclose()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(
            request.method,
            request.path,
            dict(request.query),
            request.headers.get("User-Agent", ""),
        )
        self.seen.append(seen)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if fault := self._fault(seen):
            if fault.answer is None:
                await asyncio.Event().wait()
            else:
                return fault.answer()
        return await self._pass(request, seen)

    def _fault(self, seen: Seen) -> Fault | None:
        for fault in self._faults:
            if fault.which(seen) and (fault.times is None or fault.times > 0):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    async def _pass(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        assert self._session is not None
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        if self._upstream.authorization:
            headers["Authorization"] = self._upstream.authorization
        headers["Accept-Encoding"] = "identity"
        async with self._session.request(
            request.method,
            f"{self._upstream.server}{request.path_qs}",
            data=await request.read() or None,
            headers=headers,
            ssl=self._upstream.tls or True,
        ) as answer:
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            now = datetime.datetime.now(datetime.UTC) + self.clock
            kept["Date"] = email.utils.format_datetime(now, usegmt=True)
            if not seen.watch or answer.status != 200:
                body = await answer.read()
                return web.Response(status=answer.status, body=body, headers=kept)
            response = web.StreamResponse(headers=kept)
            response.enable_chunked_encoding()
            await response.prepare(request)
            await self._pass_watch(request, response, answer)
            return response

    async def _pass_watch(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            with contextlib.suppress(ConnectionError):  # a client may go whenever it likes
                await self._copy(request, response, answer)
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._watches.discard(task)

    async def _copy(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
    ) -> None:
        async for chunk in answer.content.iter_any():
            while self._frozen.is_set():
                await asyncio.sleep(0.01)
            if self.cut_after is not None and b"BOOKMARK" not in chunk:
                await response.write(chunk[: self.cut_after])
                self.cut_after = None
                assert request.transport is not None
                # What was written is sent before the connection is closed.
                request.transport.close()
                return
            await response.write(chunk)
        await response.write_eof()


def certificate(folder: pathlib.Path) -> pathlib.Path:
    """Make a folder with a certificate for the loopback interface, which is its own authority."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@dataclasses.dataclass(frozen=True)
class Account:
    """What a pod has to reach the proxy: a service account's folder, and its environment."""

    folder: pathlib.Path
    environment: Mapping[str, str]


def account(folder: pathlib.Path, certified: pathlib.Path, proxy: Proxy) -> Account:
    """A service account, as the kubelet puts it into a pod."""
    folder.mkdir(parents=True)
    (folder / "token").write_text("token")
    shutil.copy(certified / "cert.pem", folder / "ca.crt")
    environment = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(proxy.port),
    }
    return Account(folder, environment)
