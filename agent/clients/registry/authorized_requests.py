"""Requests about an image: with authorization, through redirects, retried.

Invariant: credentials for an image go to the origin of its registry (scheme, host and port) and
to the token endpoint that this origin names, and nowhere else. A redirect that leaves the origin
leaves the credentials behind for the rest of its way; a challenge there is answered without any
(the class of CVE-2020-15157). A redirect to plain HTTP is followed only where that host, or the
registry itself, is listed as plain; token requests are not redirected at all.
"""

import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import aiohttp
import yarl

from agent import errors
from agent.clients.registry import challenges, connections, credentials, failures
from agent.kits.aio import backoff
from agent.model import images

logger = logging.getLogger(__name__)

TOKEN_LIMIT = 1 << 20
"""Bytes that the answer of a token endpoint may have."""

_HOSTS = {"docker.io": "registry-1.docker.io"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTED = frozenset({"GET", "HEAD"})
_MAX_REDIRECTS = 8


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
    """What is asked of the registry of an image, and of those that it redirects to.

    `elsewhere` are the authorizers of other origins: without credentials, for this request only.
    """

    reference: images.Reference
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
        self._authorizer = challenges.Authorizer(provider, self._get_token)
        self._open: dict[str, bool] = {}
        """By the URL of what was given, whether it was always given without credentials."""

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._connections.__aexit__(*exc)

    def url(self, reference: images.Reference, rest: str) -> str:
        """The URL of something in the repository of an image."""
        scheme = "http" if reference.registry in self._options.plain_http else "https"
        host = _HOSTS.get(reference.registry, reference.registry)
        return f"{scheme}://{host}/v2/{reference.repository}/{rest}"

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
        reference: images.Reference,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str],
        method: str = "GET",
        body: Callable[[], Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try, with authorization; yields a response that is no refusal, or raises Again.

        `url` may be of another origin, as the place of an upload is. `body` makes the
        content anew for each attempt. Only what reads is redirected.
        """
        request = _Request(reference, method, url_of(url), headers, body)
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
                    raise self._refusal(reference, answer)
        raise failures.AccessDenied(str(reference), 401, ["every source"])

    def _refusal(self, reference: images.Reference, answer: _Answer) -> errors.AgentError:
        response = answer.response
        if answer.authorizer is self._authorizer:
            return failures.AccessDenied(str(reference), response.status, answer.ticket.tried)
        return failures.RequestRefused(
            f"the registry of {reference} refers to {response.url.origin()}, which answers"
            f" {response.status}: the credentials of a registry are not sent to another host"
        )

    @contextlib.asynccontextmanager
    async def _follow(self, request: _Request) -> AsyncIterator[_Answer]:
        """Ask, following redirects."""
        url, home = request.url, url_of(self.url(request.reference, "")).origin()
        at_home = is_open = True
        for _ in range(_MAX_REDIRECTS):
            at_home = at_home and url.origin() == home
            self._check_scheme(request, url, home=home)
            authorizer = self._authorizer if at_home else self._anonymous(request, url.origin())
            ticket = await authorizer.ticket(request.reference)
            is_open = is_open and ticket.current is None
            async with contextlib.AsyncExitStack() as stack:
                with failures.translated(str(request.url)):
                    sent = self._connections.request(
                        request.method,
                        url,
                        headers={**request.headers, **ticket.headers},
                        data=request.body() if request.body else None,
                    )
                    response = await stack.enter_async_context(sent)
                location = response.headers.get("Location", "")
                redirected = response.status in _REDIRECTS and location
                if not redirected or request.method not in _REDIRECTED:
                    yield _Answer(response, authorizer, ticket, is_open)
                    return
                url = url_of(location, base=response.url)
        raise failures.RequestRefused(f"{request.url} redirects more than {_MAX_REDIRECTS} times")

    def _anonymous(self, request: _Request, origin: yarl.URL) -> challenges.Authorizer:
        return request.elsewhere.setdefault(
            origin, challenges.Authorizer(credentials.Chain(()), self._get_token)
        )

    def _check_scheme(self, request: _Request, url: yarl.URL, *, home: yarl.URL) -> None:
        """Raise RequestRefused for a way from TLS to plain HTTP that the options do not list."""
        plain = home.scheme == "http" or connections.authority(url) in self._options.plain_http
        if url.scheme != "https" and not plain:
            raise failures.RequestRefused(
                f"{request.url} leads to {url.origin()}, without TLS:"
                " list that host as plain HTTP if it is meant"
            )

    async def _get_token(
        self, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        """One question to a token endpoint, retried: (status, body)."""
        target = url_of(url)
        waits = self.waits()
        while True:
            try:
                with failures.translated(url):
                    async with self._connections.request(
                        "POST" if form else "GET", target, headers=headers, data=form
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
