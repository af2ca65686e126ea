"""The controller's page over HTTP: who may see it, and what its forms do.

A person signs in with a pair of keys of the API, by HTTP Basic authentication. A browser
sends that by itself, also for a form on another site's page. So a form is accepted only with
the token that this page gave to this person, and only from this page, as far as the browser
names the origin.
"""

import base64
import datetime
import hashlib
import hmac
import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.page import api_keys, page_data, page_html
from agent.kits.web import forms, html
from agent.model import cache_manifest, caches, manifests, times

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,9}")


class Client(Protocol):
    """The methods of agent.clients.kube.rest_client.Client that the forms use."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object
    ) -> rest_client.Object:
        """Create an object; raise AlreadyExists."""

    async def delete(self, resource: rest_client.Resource, name: str, *, uid: str) -> None:
        """Delete the object with this uid; raise NotFound, Conflict."""


class FormError(errors.PermanentError):
    """What a form asks for cannot be done; the message is for the person who sent it."""


class Pages:
    """The handlers. `read` reads what the page shows."""

    def __init__(
        self,
        client: Client,
        keys: api_keys.Keys,
        read: Callable[[], Awaitable[page_data.View]],
        *,
        clock: times.Clock,
    ) -> None:
        self._client = client
        self._keys = keys
        self._read = read
        self._clock = clock

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/", self.index)
        app.router.add_post("/create-cache", self.create)
        app.router.add_post("/delete-cache", self.delete)

    async def index(self, request: web.Request) -> web.Response:
        """The page."""
        private = self._private_key(request)
        return _challenge() if private is None else await self._page(private)

    async def create(self, request: web.Request) -> web.Response:
        """Create a cache of the images in the form."""
        return await self._act(request, self._create)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete the cache that the form names."""
        return await self._act(request, self._delete)

    async def _act(
        self, request: web.Request, do: Callable[[Mapping[str, str]], Awaitable[str]]
    ) -> web.Response:
        private = self._private_key(request)
        if private is None:
            return _challenge()
        form = await forms.fields_of(request)
        if not _same_site(request) or not self._is_valid(form.get(page_html.TOKEN, ""), private):
            text = "This form has expired, or is not from this page. Please send it again."
            return await self._page(private, page_html.Result(text=text, good=False), status=403)
        try:
            result = page_html.Result(text=await do(form))
        except errors.PermanentError as error:
            return await self._page(
                private, page_html.Result(text=str(error), good=False), status=422
            )
        except errors.TemporaryError as error:
            return await self._page(
                private, page_html.Result(text=str(error), good=False), status=503
            )
        logger.info("a form of the page was done", extra={"outcome": result.text})
        return await self._page(private, result)

    async def _create(self, form: Mapping[str, str]) -> str:
        manifest = _manifest(form)
        try:
            name = cache_manifest.read(manifest).name
        except manifests.ManifestError as error:
            raise FormError(str(error)) from error
        try:
            await self._client.create(rest_client.IMAGE_CACHES, manifest)
        except refusals.AlreadyExists as error:
            raise FormError(f"A cache {name} exists already.") from error
        return f"The cache {name} is being created."

    async def _delete(self, form: Mapping[str, str]) -> str:
        group, name, uid = (form.get(key, "") for key in ("group", "name", "uid"))
        if group not in caches.GROUPS or not name or not uid:
            raise FormError("The form names no cache.")
        resource = rest_client.Resource(group=group, plural="imagecaches")
        try:
            await self._client.delete(resource, name, uid=uid)
        except (refusals.NotFound, refusals.Conflict) as error:
            raise FormError(f"The cache {name} does not exist any more.") from error
        return f"The cache {name} is being deleted; its layers are when no node holds them."

    async def _page(
        self, private: str, result: page_html.Result | None = None, *, status: int = 200
    ) -> web.Response:
        try:
            view = await self._read()
        except errors.AgentError as error:
            view = page_data.View(store_problem="")
            result = result or page_html.Result(text=str(error), good=False)
            status = 503
        now = self._clock()
        body = page_html.render(view, token=_token(private, now), now=now, result=result)
        headers = html.headers(form_action="'self'")
        return web.Response(body=body, status=status, headers=headers)

    def _private_key(self, request: web.Request) -> str | None:
        """The private key of the person who signs in; None without a known pair of keys."""
        try:
            keys = self._keys.read()
        except api_keys.KeysError as error:
            logger.warning("no person can sign in", extra={"reason": error.reason})
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            public, _, private = base64.b64decode(text, validate=True).decode().partition(":")
        except ValueError:
            return None
        wanted = keys.get(public, "")
        return wanted if wanted and hmac.compare_digest(wanted.encode(), private.encode()) else None

    def _is_valid(self, token: str, private: str) -> bool:
        """Whether a token is of today or of yesterday."""
        now = self._clock()
        return any(
            hmac.compare_digest(_token(private, day).encode(), token.encode("utf-8", "replace"))
            for day in (now, now - datetime.timedelta(days=1))
        )


def _manifest(form: Mapping[str, str]) -> dict[str, Any]:
    """The ImageCache that a form asks for."""
    return cache_manifest.write(
        cache_manifest.Draft(
            name=form.get("name", "").strip(),
            images=form.get("images", "").split(),
            pull_secrets=form.get("secrets", "").split(),
            namespaces=form.get("namespaces", "").split(),
            size_gib=_number(form.get("size", "")),
            retention_days=_number(form.get("days", "")),
        )
    )


def _number(text: str) -> int | str:
    """A number of the form. Other text stays as it is: the reader's error names the field."""
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else text


def _token(private: str, now: datetime.datetime) -> str:
    text = f"uimgacc page {now:%Y-%m-%d}"
    return hmac.new(private.encode(), text.encode(), hashlib.sha256).hexdigest()


def _same_site(request: web.Request) -> bool:
    """Whether the browser names this site as the origin of a form, or names none."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin", "")
    # A page with the Referrer-Policy of this one sends "null" as its origin.
    return origin in ("", "null") or urllib.parse.urlsplit(origin).netloc == request.host


def _challenge() -> web.Response:
    headers = {
        "WWW-Authenticate": 'Basic realm="uimgacc: public key and private key", charset="UTF-8"',
        "Cache-Control": "no-store",
    }
    return web.Response(status=401, text="Sign in with a key of the API.\n", headers=headers)
