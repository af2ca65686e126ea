"""A registry that speaks the OCI distribution protocol (v1.1) or Docker's (v2).

Nothing that a registry says is believed: manifests are checked against the digest
that was asked for, or against the one that the registry names; blobs are checked
by the reader of the stream (`agent.build.unpack`), which alone
sees all the bytes. Connections that drop, stall, answer 429 or 5xx are tried
again with growing delays until a deadline; a blob goes on where it stopped.
"""

import contextlib
import dataclasses
import email.utils
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Self

import aiohttp
import yarl

from agent import errors
from agent.clients.registry import challenges, credentials
from agent.kits.aio import backoff
from agent.kits.web import tls
from agent.model import digests, images, oci, times

logger = logging.getLogger(__name__)

MANIFEST_LIMIT = 4 << 20
"""No manifest or index is larger, in bytes (distribution-spec: registries need accept no more)."""

CONFIG_LIMIT = 64 << 20
"""No image config is larger, in bytes; it is read into memory."""

_HOSTS = {"docker.io": "registry-1.docker.io"}
_GOOD = frozenset({200, 201, 202, 204, 206})
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 8


class RegistryUnreachable(errors.TemporaryError):
    """A registry gave no usable answer until the deadline.

    `url` is what was asked for, `reason` the last failure.
    """

    def __init__(self, url: str, reason: str, *, delay: float | None = None) -> None:
        super().__init__(f"no usable answer from {url}: {reason}", delay=delay)
        self.url = url
        self.reason = reason


class ImageUnknown(errors.PermanentError):
    """The registry does not have an image, or a blob of it. `reference` is the image."""

    def __init__(self, reference: str, what: str) -> None:
        super().__init__(
            f"the registry does not have {what} of {reference}:"
            " check the spelling of repository and tag"
        )
        self.reference = reference


class AccessDenied(errors.PermanentError):
    """The registry refuses; `tried` are the sources of the credentials that were tried."""

    def __init__(self, reference: str, status: int, tried: list[str]) -> None:
        means = f"with credentials of {', '.join(tried)}" if tried else "without credentials"
        super().__init__(
            f"the registry refuses {reference} ({status}) {means}:"
            " the image does not exist, or other credentials are needed"
            " (a docker config JSON with an entry for this registry)"
        )
        self.reference = reference
        self.tried = tried


class RequestRefused(errors.PermanentError):
    """The registry answers with a status that another try would give again."""


class WrongContent(errors.PermanentError):
    """A registry sent other bytes than it should have. `what` they are, `actual` their digest."""

    def __init__(self, what: str, *, expected: str, actual: str) -> None:
        super().__init__(
            f"the registry sent wrong bytes for {what}: expected {expected}, got {actual};"
            " the image is damaged there, or something in between changes it"
        )
        self.what = what
        self.expected = expected
        self.actual = actual


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to talk to registries."""

    plain_http: frozenset[str] = frozenset()
    """Hosts (with port, as in references) spoken to without TLS. Never chosen by itself."""

    insecure: frozenset[str] = frozenset()
    """Hosts whose certificate is not verified."""

    ca_file: str = ""
    """A PEM file of certificate authorities, trusted besides the system's."""

    read_timeout: float = 30.0
    """Seconds without a byte after which a connection counts as stalled; then another try."""

    connect_timeout: float = 15.0
    """Seconds until a connection stands."""

    deadline: float = 300.0
    """Seconds without progress after which an operation is given up."""

    delays: tuple[float, ...] = backoff.DELAYS
    """Seconds between tries; the last one repeats."""

    on_retry: Callable[[str], None] = lambda _: None
    """Called with the reason before each pause between two tries; it must not block."""


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index, byte for byte, verified."""

    digest: str
    media_type: str
    data: bytes


class Again(Exception):  # noqa: N818 - not an error: a turn of the retry loop
    """Try once more; `delay` is what the registry asked for. It stays within the clients."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class Client:
    """Reads images from registries. Use as an async context."""

    def __init__(self, provider: credentials.CredentialProvider, options: Options) -> None:
        self._provider = provider
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._auth: challenges.Authorizer | None = None
        self._tls: dict[bool, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        for verified in (True, False):
            context = tls.client_context()
            if self._options.ca_file:
                try:
                    context.load_verify_locations(self._options.ca_file)
                except OSError as error:
                    raise RequestRefused(
                        f"{self._options.ca_file} is not a PEM file of certificates: {error}"
                    ) from error
            if not verified:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._tls[verified] = context
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._options.connect_timeout,
                sock_read=self._options.read_timeout,
            ),
            auto_decompress=False,
            read_bufsize=1 << 20,
            headers={"User-Agent": "uimgacc"},
            trust_env=True,
        )
        self._auth = challenges.Authorizer(self._provider, self._get_token)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def manifest(self, reference: images.Reference, digest: str = "") -> Manifest:
        """The manifest or index of a reference, or of a digest in its repository."""
        wanted = digest or reference.version
        url = self._url(reference, f"manifests/{wanted}")
        what = f"manifest {wanted}"
        data, headers = await self._read(
            reference, url, what=what, limit=MANIFEST_LIMIT, headers={"Accept": oci.ACCEPT}
        )
        actual = digests.sha256(data)
        expected = wanted if digests.is_digest(wanted) else ""
        expected = expected or headers.get("Docker-Content-Digest", "")
        if digests.is_digest(expected) and expected != actual:
            raise WrongContent(f"{what} of {reference}", expected=expected, actual=actual)
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()
        return Manifest(actual, media_type, data)

    async def small_blob(self, reference: images.Reference, digest: str) -> bytes:
        """A blob that fits in memory (a config), verified."""
        what = f"blob {digest}"
        url = self._url(reference, f"blobs/{digest}")
        data, _ = await self._read(reference, url, what=what, limit=CONFIG_LIMIT, headers={})
        if (actual := digests.sha256(data)) != digest:
            raise WrongContent(f"{what} of {reference}", expected=digest, actual=actual)
        return data

    async def blob(
        self, reference: images.Reference, digest: str, size: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob in order, as they come; the caller verifies them.

        A dropped or stalled connection is resumed by a Range request; a registry that
        ignores the range is read again from the start, without handing out twice what
        was handed out. Raises RegistryUnreachable, ImageUnknown, AccessDenied,
        RequestRefused, WrongContent (more or fewer bytes than `size`).
        """
        url = self._url(reference, f"blobs/{digest}")
        done = 0
        waits = self._waits()
        while done < size:
            before = done
            try:
                async with contextlib.aclosing(
                    self._blob_from(reference, url, digest=digest, start=done)
                ) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        if done > size:
                            self._raise_longer(reference, digest, size)
                        yield chunk
                if done < size:
                    raise Again(f"the connection ended after {done} of {size} bytes")  # noqa: TRY301
            except Again as again:
                if done > before:
                    waits = self._waits()
                logger.info(
                    "resuming a blob", extra={"url": url, "offset": done, "reason": str(again)}
                )
                await self._pause(waits, url, again)

    @staticmethod
    def _raise_longer(reference: images.Reference, digest: str, size: int) -> None:
        raise WrongContent(
            f"blob {digest} of {reference}",
            expected=f"{size} bytes",
            actual="more bytes",
        )

    async def _blob_from(
        self, reference: images.Reference, url: str, *, digest: str, start: int
    ) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._request(
            reference, url, what=f"blob {digest}", headers=headers
        ) as response:
            skip = start
            if start and response.status == 206:
                said = response.headers.get("Content-Range", "")
                if not said.startswith(f"bytes {start}-"):
                    raise RequestRefused(f"{url} answers another range than asked for: {said!r}")
                skip = 0
            with _translated(url):
                async for chunk in response.content.iter_any():
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:] if skip else chunk
                    skip = 0

    async def _read(
        self,
        reference: images.Reference,
        url: str,
        *,
        what: str,
        limit: int,
        headers: Mapping[str, str],
    ) -> tuple[bytes, Mapping[str, str]]:
        waits = self._waits()
        while True:
            try:
                async with self._request(reference, url, what=what, headers=headers) as response:
                    with _translated(url):
                        data = await _read_limited(response, limit)
                    return data, response.headers
            except Again as again:
                logger.info("asking again", extra={"url": url, "reason": str(again)})
                await self._pause(waits, url, again)

    @contextlib.asynccontextmanager
    async def _request(
        self,
        reference: images.Reference,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: Callable[[], Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request with authorization; yields a response that is no refusal.

        `body` makes the content anew for each attempt. Only a GET is redirected.
        """
        assert self._auth is not None
        for _ in range(challenges.MAX_ATTEMPTS):
            ticket = await self._auth.ticket(reference)
            sent = {**headers, **ticket.headers}
            async with self._follow(url, sent, method=method, body=body) as response:
                if response.status == 401 or (response.status == 403 and ticket.headers):
                    challenge = response.headers.get("WWW-Authenticate", "")
                    if await self._auth.renew(reference, ticket, challenge):
                        continue
                    raise AccessDenied(str(reference), response.status, ticket.tried)
                _check_status(response, reference, what=what, tried=ticket.tried)
                yield response
                return
        raise AccessDenied(str(reference), 401, ["every source"])

    @contextlib.asynccontextmanager
    async def _follow(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        body: Callable[[], Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, following redirects; Authorization goes to the registry itself only."""
        asked, headers = url, dict(headers)
        for _ in range(_MAX_REDIRECTS):
            async with contextlib.AsyncExitStack() as stack:
                with _translated(asked):
                    sent = self._send(method, url, headers, data=body() if body else None)
                    response = await stack.enter_async_context(sent)
                location = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not location or method != "GET":
                    yield response
                    return
                target = response.url.join(yarl.URL(location))
                if target.origin() != response.url.origin():
                    headers.pop("Authorization", None)
                url = str(target)
        raise RequestRefused(f"{asked} redirects more than {_MAX_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str], *, data: Any) -> Any:
        assert self._session is not None
        target = yarl.URL(url, encoded=True)
        host = target.raw_authority.rpartition("@")[2]
        secure = host not in self._options.insecure
        return self._session.request(
            method,
            target,
            headers=headers,
            data=data,
            allow_redirects=False,
            ssl=self._tls[secure],
        )

    async def _get_token(
        self, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        """One request to a token endpoint: (status, body)."""
        assert self._session is not None
        target = yarl.URL(url, encoded=True)
        secure = target.raw_authority not in self._options.insecure
        waits = self._waits()
        while True:
            try:
                with _translated(url):
                    async with self._session.request(
                        "POST" if form else "GET",
                        target,
                        headers=headers,
                        data=form,
                        ssl=self._tls[secure],
                    ) as response:
                        if response.status in _RETRIED:
                            raise Again(  # noqa: TRY301 - the loop's own signal
                                f"status {response.status}", _retry_after(response)
                            )
                        return response.status, await _read_limited(response, 1 << 20)
            except Again as again:
                await self._pause(waits, url, again)

    def _waits(self) -> backoff.Backoff:
        """The pauses between the tries of one request."""
        return backoff.Backoff(self._options.delays, deadline=self._options.deadline)

    async def _pause(self, waits: backoff.Backoff, url: str, again: Again) -> None:
        """Wait before the next try; raise RegistryUnreachable when the deadline would pass."""
        self._options.on_retry(f"{url}: {again}")
        if not await waits.wait(again.delay):
            raise RegistryUnreachable(url, str(again), delay=again.delay) from again

    def _url(self, reference: images.Reference, rest: str) -> str:
        scheme = "http" if reference.registry in self._options.plain_http else "https"
        host = _HOSTS.get(reference.registry, reference.registry)
        return f"{scheme}://{host}/v2/{reference.repository}/{rest}"


async def _read_limited(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts = bytearray()
    async for chunk in response.content.iter_any():
        parts += chunk
        if len(parts) > limit:
            raise RequestRefused(f"{response.url} is larger than {limit} bytes")
    return bytes(parts)


@contextlib.contextmanager
def _translated(url: str) -> Any:
    """Turn what the network does into Again, and what stays so into RequestRefused."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise RequestRefused(
            f"the certificate of {url} is not trusted ({error.certificate_error}):"
            " name its authority's file, or allow this registry as insecure"
        ) from error
    except aiohttp.ClientSSLError as error:
        problem = getattr(error.os_error, "reason", None) or error.os_error
        raise RequestRefused(
            f"{url} does not speak TLS ({problem}): allow plain HTTP for this registry if meant"
            " (an ImageCache's annotation uimgacc.io/plain-http-registry, a command's --plain-http)"
        ) from error
    except aiohttp.InvalidURL as error:
        raise RequestRefused(f"not a URL: {error}") from error
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise Again(str(error) or type(error).__name__) from error


def _check_status(
    response: aiohttp.ClientResponse, reference: images.Reference, *, what: str, tried: list[str]
) -> None:
    status = response.status
    if status in _GOOD:
        return
    if status in _RETRIED:
        raise Again(f"status {status}", _retry_after(response))
    if status == 404:
        raise ImageUnknown(str(reference), what)
    if status == 403:
        raise AccessDenied(str(reference), status, tried)
    raise RequestRefused(f"{response.url} answers {status} {response.reason}")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The seconds that a Retry-After asks for: a number, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when - times.now()).total_seconds())
    return None
