"""Connections to registries, to the storage that they redirect to, and to token endpoints.

Invariant: nothing connects to an address of a denied network, whether a pod's image named the
host, a redirect or a challenge. The check is made where the socket is, so that the address which
is checked is the one which is connected to, whatever a second look-up of the name would say.
Two things are not checked: hosts that the operator allows, and what a proxy connects to (it looks
up names itself; addresses in URLs are checked all the same).

One request is one request here: redirects and challenges are for
agent.clients.registry.authorized_requests.
"""

import contextlib
import dataclasses
import errno
import pathlib
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self

import aiohttp
import aiohttp.abc
import yarl

from agent.clients.registry import credentials, failures
from agent.clients.registry.mirrors import registry_host
from agent.kits import networks
from agent.kits.aio import backoff
from agent.kits.web import tls

_NO_TLS = ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL says where a server answers a TLS greeting in plain HTTP."""

_Stamp = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to talk to registries."""

    plain_http: frozenset[str] = frozenset()
    """Hosts (with port, as in references) spoken to without TLS. Never chosen by itself."""

    insecure: frozenset[str] = frozenset()
    """Hosts whose certificate is not verified."""

    ca_file: str = ""
    """A PEM file of certificate authorities, trusted besides the system's."""

    denied: tuple[networks.Network, ...] = ()
    """Networks in which nothing is connected to. The roles read them from their settings ..."""

    allowed: frozenset[str] = frozenset()
    """... and these hosts (as the keys of a docker config have them) may be there all the same."""

    read_timeout: float = 30.0
    """Seconds without a byte after which a connection counts as stalled; then another try."""

    connect_timeout: float = 15.0
    """Seconds until a connection stands."""

    mirrors: tuple[pathlib.Path, ...] = ()
    """Folders that say which hosts have the images of a registry (mirrors.mirror_folder); where
    none says something of it, the registry itself is asked."""

    host_timeout: float = 30.0
    """Seconds until one of several hosts must have begun to answer: then the next one is asked."""

    deadline: float = 300.0
    """Seconds without progress after which an operation is given up."""

    delays: tuple[float, ...] = backoff.DELAYS
    """Seconds between tries; the last one repeats."""

    on_retry: Callable[[str], None] = lambda _: None
    """Called with the reason before each pause between two tries; it must not block."""


class Connections:
    """Sends single requests. Use as an async context."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack = contextlib.AsyncExitStack()
        self._tls: dict[_Tls, tuple[_Stamp, ssl.SSLContext]] = {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        self._context(_Tls())  # a file that cannot be used is found at once
        for checked in (True, False):
            session = self._session(self._checked_socket if checked else None)
            self._sessions[checked] = await self._stack.enter_async_context(session)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: yarl.URL,
        *,
        host: registry_host.Host,
        headers: Sequence[tuple[str, str]],
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request that is made for a host, to whose redirect the caller sees.

        As in containerd, the settings of the host count also where it redirects to, and at its
        token endpoint. Raises failures.AddressDenied, failures.RequestRefused for files of
        certificates that cannot be used, and aiohttp's exceptions (failures.translated).
        """
        target = authority(url)
        allowed = any(credentials.host_matches(each, target) for each in self._options.allowed)
        # Who runs the cluster names the hosts in such files.
        allowed = allowed or (host.is_named and host.authority == target)
        proxy = proxy_of(url)
        if proxy and not allowed:
            self._check_literal(url.host or "")
        session = self._sessions[not (allowed or proxy)]
        async with session.request(
            method,
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            ssl=self._context(self._tls_of(host, target)),
            proxy=proxy or None,
            timeout=self._timeout(host.dial_timeout or self._options.connect_timeout),
        ) as response:
            yield response

    def _session(
        self, make_socket: Callable[[Sequence[Any]], socket.socket] | None
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=make_socket),
            # What one registry sets is nothing for the next request.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=1 << 20,
            headers={"User-Agent": "uimgacc"},
        )

    def _timeout(self, connect: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=connect, sock_read=self._options.read_timeout
        )

    def _tls_of(self, host: registry_host.Host, target: str) -> "_Tls":
        """How to speak TLS; what an ImageCache says is for hosts that no file names."""
        insecure = not host.is_named and target in self._options.insecure
        return _Tls(host.authorities, host.client, insecure or bool(host.skip_verify))

    def _context(self, wanted: "_Tls") -> ssl.SSLContext:
        """The context of some settings, made anew when a file of them has changed.

        Raises failures.RequestRefused.
        """
        stamp = wanted.stamp()
        known = self._tls.get(wanted)
        if known is None or known[0] != stamp:
            known = self._tls[wanted] = (stamp, self._made(wanted))
        return known[1]

    def _made(self, wanted: "_Tls") -> ssl.SSLContext:
        if wanted.insecure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = tls.client_context()
            own = (self._options.ca_file,) if self._options.ca_file else ()
            for path in (*own, *wanted.authorities):
                _trust(context, path)
        for certificate, key in wanted.client:
            _show(context, certificate, key)
        return context

    def _checked_socket(self, info: Sequence[Any]) -> socket.socket:
        family, kind, protocol, _, address = info
        network = networks.holding(address[0], self._options.denied)
        if network is not None:
            raise failures.DeniedSocketError(address[0], str(network))
        return socket.socket(family=family, type=kind, proto=protocol)

    def _check_literal(self, host: str) -> None:
        """Raise AddressDenied for a host that is itself an address of a denied network."""
        address = networks.literal(host)
        network = networks.holding(address, self._options.denied) if address else None
        if network is not None:
            raise failures.AddressDenied(host, address, str(network))


@dataclasses.dataclass(frozen=True, slots=True)
class _Tls:
    """What a context is made of: files of authorities, and of certificates with their keys."""

    authorities: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    insecure: bool = False

    def stamp(self) -> "_Stamp":
        """What changes with the files; one that is missing is found when it is read."""
        files = (*self.authorities, *(path for pair in self.client for path in pair if path))
        with contextlib.suppress(OSError):
            states = [pathlib.Path(path).stat() for path in files]
            return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in states)
        return ()


def _trust(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise failures.RequestRefused(
            f"{path} is not a PEM file of certificates: {error}"
        ) from error


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key or None, password="")
    except OSError as error:
        raise failures.RequestRefused(
            f"{certificate} and {key or 'the key in it'} are not a certificate and its key: {error}"
        ) from error


def denied(text: str, environment: Mapping[str, str]) -> tuple[networks.Network, ...]:
    """The networks of a setting; with them, where there are any, the API server's address.

    It is that of its Service, which the kubelet puts into each container's environment.
    """
    service = environment.get("KUBERNETES_SERVICE_HOST", "")
    return networks.parse(f"{text},{service}" if text.strip() else "")


def speaks_no_tls(url: yarl.URL, error: aiohttp.ClientConnectorError) -> bool:
    """Whether a connection failed as it does at a server without TLS.

    That is a plain answer to the greeting or, where the URL names no port, that nothing listens at
    the one of TLS. A certificate that is not trusted is no such failure: else who is on the way
    could have credentials sent to him in plain text.
    Source: containerd core/remotes/docker/resolver.go, isTLSError and isPortError.
    """
    if getattr(error.os_error, "reason", None) in _NO_TLS:
        return True
    return url.explicit_port is None and error.os_error.errno == errno.ECONNREFUSED


def authority(url: yarl.URL) -> str:
    """Host and port of a URL as references have them: a port only where it is written."""
    return url.raw_authority.rpartition("@")[2]


def proxy_of(url: yarl.URL) -> str:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY); "" for none."""
    proxy = urllib.request.getproxies().get(url.scheme, "")
    if not proxy or urllib.request.proxy_bypass(url.host or ""):
        return ""
    return proxy
