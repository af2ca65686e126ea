"""Authorization at a registry: what to send, and what to do when it is refused.

The first request to a repository goes without; the registry's challenge
(WWW-Authenticate) says whether it wants the password itself (Basic) or a token
from an endpoint (Bearer). What works is kept per repository; when it stops working
(tokens live for minutes, blobs take longer) it is made anew. Credentials are tried
in the order of their providers; a request without any is the last try.

A token endpoint may be on any host, as Docker Hub's is (the registry could ask for the password
itself); but what is asked for over TLS is answered over TLS only.
"""

import asyncio
import base64
import dataclasses
import re
from collections.abc import Mapping
from typing import Protocol
from urllib import parse as urls

import msgspec

from agent import errors
from agent.clients.registry import credentials
from agent.model import images

MAX_ATTEMPTS = 12
"""More refusals than this in one request mean that nothing will be accepted."""

LASTED = 5.0
"""Seconds after which a refusal means that a token has expired, not that it was no good."""

_CHALLENGE = re.compile(r'([a-zA-Z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


class RealmRefused(errors.PermanentError):
    """A registry names a token endpoint that is not asked. `realm` is its URL."""

    def __init__(self, realm: str) -> None:
        super().__init__(
            f"the registry wants a token from {realm!r}, which is not an https:// URL:"
            " credentials are sent there only for a registry that is itself listed as plain HTTP"
        )
        self.realm = realm


@dataclasses.dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks for: `scheme` ("bearer", "basic") and its fields.

    `secure` says that it was asked for over TLS.
    """

    scheme: str
    fields: Mapping[str, str]
    secure: bool

    @property
    def realm(self) -> str:
        """The token endpoint that it names, "" for none; raises RealmRefused."""
        realm = self.fields.get("realm", "")
        schemes = ("https://",) if self.secure else ("https://", "http://")
        if self.scheme != "bearer" or not realm:
            return ""
        if not realm.lower().startswith(schemes):
            raise RealmRefused(realm)
        return realm


class GetToken(Protocol):
    """Asks a token endpoint: GET, or POST where there is a form; returns (status, body)."""

    async def __call__(
        self, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        """Raise TemporaryError when there is no answer."""


@dataclasses.dataclass(slots=True)
class Ticket:
    """What to send to one repository, and how it was come by.

    `scope` is what the token was asked for, `untried` are the credentials left,
    `tried` the sources used so far, for messages.
    """

    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    current: credentials.Credential | None = None
    untried: list[credentials.Credential | None] | None = None
    tried: list[str] = dataclasses.field(default_factory=list)
    renewed_at: float = 0.0
    scope: str = ""


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float = 60.0


class Authorizer:
    """The tickets of all repositories."""

    def __init__(self, provider: credentials.CredentialProvider, get_token: GetToken) -> None:
        self._provider = provider
        self._get_token = get_token
        self._tickets: dict[str, Ticket] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ticket(self, reference: images.Reference) -> Ticket:
        """What to send now; empty before the first challenge."""
        return self._tickets.setdefault(reference.name, Ticket())

    async def renew(
        self, reference: images.Reference, refused: Ticket, challenge: Challenge
    ) -> bool:
        """After a refusal: make a new ticket; False when there is nothing left to try.

        Raises RealmRefused, and what the token endpoint does.
        """
        lock = self._locks.setdefault(reference.name, asyncio.Lock())
        async with lock:
            if self._tickets.get(reference.name) is not refused:
                return True  # Another request was refused at the same time and has renewed it.
            fresh = await self._next(reference, refused, challenge)
            if fresh is None:
                del self._tickets[reference.name]
                return False
            self._tickets[reference.name] = fresh
            return True

    async def _next(
        self, reference: images.Reference, refused: Ticket, challenge: Challenge
    ) -> Ticket | None:
        now = asyncio.get_running_loop().time()
        untried = refused.untried
        scope = challenge.fields.get("scope", "")
        if untried is not None and refused.headers and scope not in ("", refused.scope):
            # It was good for less: these credentials may allow pushing as well as pulling.
            untried = [refused.current, *untried]
        elif untried is None:
            untried = [*await self._provider.credentials(reference), None]
        elif refused.headers and now - refused.renewed_at >= LASTED:
            # It was good for a while and has expired: the token, or what it was made with. Who
            # gave that is asked again (a cloud's password lives for an hour), and tried first.
            current = refused.current.source if refused.current else ""
            untried = [*await self._provider.credentials(reference), None]
            untried.sort(key=lambda each: (each.source if each else "") != current)
        tried = list(refused.tried)
        while untried:
            credential, *untried = untried
            if credential is not None and credential.source not in tried:
                tried.append(credential.source)
            headers = await self._headers(reference, credential, challenge)
            if headers is not None:
                return Ticket(headers, credential, untried, tried, now, scope)
        refused.tried = tried
        return None

    async def _headers(
        self,
        reference: images.Reference,
        credential: credentials.Credential | None,
        challenge: Challenge,
    ) -> dict[str, str] | None:
        if credential is not None and credential.empty:
            return None
        if challenge.realm:
            token = await self._token(reference, credential, challenge)
            return {"Authorization": f"Bearer {token}"} if token else None
        if credential is not None and credential.username:
            return {"Authorization": _basic(credential)}
        return None

    async def _token(
        self,
        reference: images.Reference,
        credential: credentials.Credential | None,
        challenge: Challenge,
    ) -> str | None:
        fields, realm = challenge.fields, challenge.realm
        scope = fields.get("scope") or f"repository:{reference.repository}:pull"
        query = {"service": fields.get("service", ""), "scope": scope}
        query = {key: value for key, value in query.items() if value}
        if credential is not None and credential.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": "uimgacc",
            }
            status, body = await self._get_token(realm, headers={}, form=form)
        else:
            headers = {"Authorization": _basic(credential)} if credential is not None else {}
            joint = "&" if "?" in realm else "?"
            url = realm + joint + urls.urlencode(query, safe=":/,")
            status, body = await self._get_token(url, headers=headers, form=None)
        if status != 200:
            return None
        try:
            answer = msgspec.json.decode(body, type=_Token)
        except (msgspec.DecodeError, RecursionError):
            return None
        token = answer.token or answer.access_token
        # Anything else cannot be sent in a header.
        return token if token and token.isascii() and token.isprintable() else None


def parse(text: str, *, secure: bool) -> Challenge:
    """The challenge of a header: `Bearer realm="...",service="..."`."""
    scheme, _, rest = text.strip().partition(" ")
    fields = {
        match[1].lower(): match[2] if match[2] is not None else match[3]
        for match in _CHALLENGE.finditer(rest)
    }
    return Challenge(scheme.lower(), fields, secure)


def _basic(credential: credentials.Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()
