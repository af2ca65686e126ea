"""Requests about an image: with authorization, through redirects, retried.

Invariant: credentials for an image go to the origin of its registry (scheme, host and port) and
to the token endpoint that this origin names, and nowhere else. A mirror is an origin of its own: it
gets what is there for its own host and repository, and the headers that are written for it. A
redirect that leaves the origin leaves the credentials behind for the rest of its way; a challenge
there is answered without any (the class of CVE-2020-15157). A redirect to plain HTTP is
followed only where that host, or the registry itself, is listed as plain; token requests are not
redirected at all.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self

import aiohttp
import yarl

from agent import errors
from agent.clients.registry import challenges, connections, credentials, failures
from agent.clients.registry.mirrors import mirror_folder, registry_host
from agent.kits.aio import backoff, threads
from agent.model import images

logger = logging.getLogger(__name__)

TOKEN_LIMIT = 1 << 20
"""Bytes that the answer of a token endpoint may have."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTED = frozenset({"GET", "HEAD"})
_MAX_REDIRECTS = 8
_HOSTS_SECONDS = 60.0
"""How long the files with the hosts of a registry are not read again."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """A response that is no redirect, and the authorization that was sent.

    `is_open` says that no credentials were used, nor on a redirect's way to it.
    """

    response: aiohttp.ClientResponse
    authorizer: challenges.Authorizer
    ticket: challenges.Ticket
    is_open: bool

    @property
    def refused(self) -> bool:
        """Whether other authorization may help."""
        status = self.response.status
        return status == 401 or (status == 403 and bool(self.ticket.headers))


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of a host about an image, and of those that it redirects to.

    `elsewhere` are the authorizers of other origins: without credentials, for this request only.
    """

    endpoint: registry_host.Endpoint
    method: str
    url: yarl.URL
    headers: Mapping[str, str]
    body: Callable[[], Any] | None
    elsewhere: dict[yarl.URL, challenges.Authorizer] = dataclasses.field(default_factory=dict)


class Requests:
    """Asks registries. Use as an async context."""

    def __init__(
        self, provider: credentials.CredentialProvider, options: connections.Options
    ) -> None:
        self._options = options
        self._connections = connections.Connections(options)
        self._provider = provider
        self._authorizers: dict[registry_host.Host, challenges.Authorizer] = {}
        self._hosts: dict[str, tuple[registry_host.Host, ...]] = {}
        self._hosts_until: dict[str, float] = {}
        self._without_tls: set[registry_host.Host] = set()
        self._open: dict[str, bool] = {}
        """By the URL of what was given, whether it was always given without credentials."""

    @property
    def options(self) -> connections.Options:
        """How registries are talked to."""
        return self._options

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._connections.__aexit__(*exc)

    async def endpoints(
        self, reference: images.Reference, capability: registry_host.Capability
    ) -> list[registry_host.Endpoint]:
        """Where to ask about an image, in this order: the hosts that may be asked for it.

        Raises mirror_folder.MirrorsUnusable, and NoHost where no host may be asked.
        """
        now = asyncio.get_running_loop().time()
        if self._hosts_until.get(reference.registry, -math.inf) <= now:
            self._hosts[reference.registry] = await self._chosen(reference.registry)
            self._hosts_until[reference.registry] = now + _HOSTS_SECONDS
        able = self.known_endpoints(reference, capability)
        if not able:
            raise failures.NoHost(reference.registry, str(capability.name).lower())
        return able

    def known_endpoints(
        self, reference: images.Reference, capability: registry_host.Capability
    ) -> list[registry_host.Endpoint]:
        """The same, of an image about which somebody was asked already."""
        hosts = self._hosts.get(reference.registry, ())
        able = [each for each in hosts if capability in each.capabilities]
        return [registry_host.endpoint(host, reference) for host in able]

    async def _chosen(self, registry: str) -> tuple[registry_host.Host, ...]:
        choose = functools.partial(
            mirror_folder.choose,
            self._options.mirrors,
            registry,
            plain_http=registry in self._options.plain_http,
        )
        chosen = await threads.run("mirrors", choose)
        if chosen.hosts == self._hosts.get(registry):
            return chosen.hosts
        for warning in chosen.warnings:
            logger.warning(
                "a part of what is said of a registry's hosts is ignored",
                extra={"registry": registry, "reason": warning},
            )
        if chosen.source:
            logger.info(
                "the hosts of a registry",
                extra={
                    "registry": registry,
                    "file": chosen.source,
                    "hosts": ", ".join(host.authority for host in chosen.hosts),
                },
            )
        return chosen.hosts

    def is_open(self, url: str) -> bool:
        """Whether something was given by a registry, each time without credentials."""
        return self._open.get(url, False)

    def waits(self) -> backoff.Backoff:
        """The pauses between the tries of one request."""
        return backoff.Backoff(self._options.delays, deadline=self._options.deadline)

    async def pause(self, waits: backoff.Backoff, url: str, again: failures.Again) -> None:
        """Wait before the next try; raise RegistryUnreachable when the deadline would pass."""
        self._options.on_retry(f"{url}: {again}")
        if not await waits.wait(again.delay):
            raise failures.RegistryUnreachable(url, str(again), delay=again.delay) from again

    @contextlib.asynccontextmanager
    async def once(
        self,
        endpoint: registry_host.Endpoint,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: Callable[[], Any] | None = None,
        patience: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try, with authorization; yields a response that is no refusal, or raises Again.

        `url` may be of another origin, as the place of an upload is. `body` makes the
        content anew for each attempt. Only what reads is redirected. `patience` are the seconds
        until the answer has begun, with all that is asked for it.
        """
        request = _Request(endpoint, method, url_of(url), headers, body)
        timer = asyncio.timeout(patience)
        try:
            async with timer, self._answered(request, what) as response:
                timer.reschedule(None)
                yield response
        except TimeoutError:
            if not timer.expired():
                raise
            raise failures.Again(f"no answer within {patience:g} s", answered=False) from None

    @contextlib.asynccontextmanager
    async def _answered(
        self, request: _Request, what: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask with one authorization after another, until there is an answer."""
        reference, url = request.endpoint.reference, str(request.url)
        for _ in range(challenges.MAX_ATTEMPTS):
            async with self._follow(request) as answer:
                response, ticket = answer.response, answer.ticket
                if not answer.refused:
                    failures.check_status(response, str(reference), what=what, tried=ticket.tried)
                    self._open[url] = self._open.get(url, True) and answer.is_open
                    yield response
                    return
                challenge = challenges.parse(
                    response.headers.get("WWW-Authenticate", ""),
                    secure=response.url.scheme == "https",
                )
                if not await answer.authorizer.renew(reference, ticket, challenge):
                    raise self._refusal(request, answer)
        raise failures.AccessDenied(str(reference), 401, ["every source"])

    def _refusal(self, request: _Request, answer: _Answer) -> errors.AgentError:
        response, reference = answer.response, request.endpoint.reference
        if answer.authorizer is self._authorizer(request.endpoint.host):
            return failures.AccessDenied(str(reference), response.status, answer.ticket.tried)
        return failures.RequestRefused(
            f"the registry of {reference} refers to {response.url.origin()}, which answers"
            f" {response.status}: the credentials of a registry are not sent to another host"
        )

    @contextlib.asynccontextmanager
    async def _follow(self, request: _Request) -> AsyncIterator[_Answer]:
        """Ask, following redirects."""
        host, reference = request.endpoint.host, request.endpoint.reference
        url, home = request.url, self._with_scheme(host, url_of(request.endpoint.origin))
        at_home, is_open = True, not host.is_known_by_more
        for _ in range(_MAX_REDIRECTS):
            url = self._with_scheme(host, url)
            at_home = at_home and url.origin() == home
            self._check_scheme(request, url, home=home)
            authorizer = (
                self._authorizer(host) if at_home else self._anonymous(request, url.origin())
            )
            ticket = await authorizer.ticket(reference)
            is_open = is_open and ticket.current is None
            own = host.headers if at_home else ()
            async with contextlib.AsyncExitStack() as stack:
                with failures.translated(str(request.url)):
                    sent = self._connections.request(
                        request.method,
                        url,
                        host=host,
                        headers=_merged(own, {**request.headers, **ticket.headers}),
                        data=request.body() if request.body else None,
                    )
                    try:
                        response = await stack.enter_async_context(sent)
                    except aiohttp.ClientConnectorError as error:
                        if not self._goes_without_tls(host, url, error):
                            raise
                        home = self._with_scheme(host, home)
                        continue
                location = response.headers.get("Location", "")
                redirected = response.status in _REDIRECTS and location
                if not redirected or request.method not in _REDIRECTED:
                    yield _Answer(response, authorizer, ticket, is_open)
                    return
                url = url_of(location, base=response.url)
        raise failures.RequestRefused(f"{request.url} redirects more than {_MAX_REDIRECTS} times")

    def _with_scheme(self, host: registry_host.Host, url: yarl.URL) -> yarl.URL:
        """A URL at a host as it is asked: without TLS where it turned out to speak none."""
        if host not in self._without_tls or connections.authority(url) != host.authority:
            return url
        return yarl.URL(str(url).replace("https://", "http://", 1), encoded=True)

    def _goes_without_tls(
        self, host: registry_host.Host, url: yarl.URL, error: aiohttp.ClientConnectorError
    ) -> bool:
        """Whether to ask a host without TLS from now on, after a first try with it.

        Source: containerd core/remotes/docker/resolver.go, NewHTTPFallback.
        """
        if not host.tries_tls or connections.authority(url) != host.authority:
            return False
        if url.scheme != "https" or not connections.speaks_no_tls(url, error):
            return False
        self._without_tls.add(host)
        return True

    def _authorizer(self, host: registry_host.Host) -> challenges.Authorizer:
        """What knows the authorization of a host; each has its own."""
        if host not in self._authorizers:
            own = credentials.Given(host.credential)
            provider = credentials.Chain((self._provider, own))
            self._authorizers[host] = challenges.Authorizer(
                provider, functools.partial(self._get_token, host)
            )
        return self._authorizers[host]

    def _anonymous(self, request: _Request, origin: yarl.URL) -> challenges.Authorizer:
        get_token = functools.partial(self._get_token, request.endpoint.host, is_elsewhere=True)
        return request.elsewhere.setdefault(
            origin, challenges.Authorizer(credentials.Chain(()), get_token)
        )

    def _check_scheme(self, request: _Request, url: yarl.URL, *, home: yarl.URL) -> None:
        """Raise RequestRefused for a way from TLS to plain HTTP that the options do not list."""
        listed = () if request.endpoint.host.is_named else self._options.plain_http
        plain = home.scheme == "http" or connections.authority(url) in listed
        if url.scheme != "https" and not plain:
            raise failures.RequestRefused(
                f"{request.url} leads to {url.origin()}, without TLS:"
                " list that host as plain HTTP if it is meant"
            )

    async def _get_token(
        self,
        host: registry_host.Host,
        url: str,
        *,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
        is_elsewhere: bool = False,
    ) -> tuple[int, bytes]:
        """One question to a token endpoint, retried: (status, body).

        As in containerd it gets the headers that are written for the host that names it.
        """
        target = url_of(url)
        own = () if is_elsewhere else host.headers
        waits = self.waits()
        while True:
            try:
                with failures.translated(url):
                    async with self._connections.request(
                        "POST" if form else "GET",
                        target,
                        host=host,
                        headers=_merged(own, headers),
                        data=form,
                    ) as response:
                        failures.check_passing(response)
                        if response.status in _REDIRECTS:
                            raise failures.RequestRefused(
                                f"{target.with_query(None)}, where tokens are given, redirects:"
                                " credentials do not follow"
                            )
                        return response.status, await failures.read_limited(response, TOKEN_LIMIT)
            except failures.Again as again:
                await self.pause(waits, url, again)


def _merged(
    own: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> Sequence[tuple[str, str]]:
    """The headers that are written for a host, but for those that a request has itself."""
    given = {name.lower() for name in headers}
    return [*(each for each in own if each[0].lower() not in given), *headers.items()]


def url_of(text: str, *, base: yarl.URL | None = None) -> yarl.URL:
    """A URL that a server wrote, kept as it is written; raise RequestRefused for what is none."""
    try:
        # What is escaped in a whole URL stays as it is: it may be signed.
        url = base.join(yarl.URL(text)) if base else yarl.URL(text, encoded=True)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("neither http nor https")  # noqa: TRY301
        if url.raw_user is not None or url.raw_password is not None:
            raise ValueError("a user in it")  # noqa: TRY301
        _ = url.port
    except (ValueError, TypeError) as error:
        raise failures.RequestRefused(
            f"the registry refers to {text[:300]!r}, which cannot be asked: {error}"
        ) from error
    return url
