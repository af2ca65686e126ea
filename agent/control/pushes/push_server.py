"""The endpoint for registries' notifications: who may send, how much, and what follows from it.

What a request can take is bounded: its bytes, its time, how many are worked on at once, and how
many with a token a second. An answer other than 2xx has registries send again.
"""

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from agent.control.pushes import leader_handover, notifications, push_tokens
from agent.control.tags import tag_hints
from agent.kits.aio import token_bucket
from agent.metrics import cache_metrics

logger = logging.getLogger(__name__)

PATH = "/push"

LIMIT = 1024**2
"""Bytes of a request: an envelope of Distribution has one event, unless it was made to wait."""

_SECONDS = 5.0
_AT_ONCE = 32
_RATE, _BURST = 50.0, 500
_AGAIN = {"Retry-After": "5"}


class Handover(Protocol):
    """The way to the leader: agent.control.pushes.leader_handover.Handover."""

    async def send(self, hints: Sequence[tag_hints.Hint], token: str) -> None:
        """Have the leader take hints; raise NoLeader."""


class Endpoint:
    """Gives `hints` what notifications name, or where this controller does not lead, the leader."""

    def __init__(
        self,
        tokens: push_tokens.Tokens,
        hints: tag_hints.Hints,
        handover: Handover,
        *,
        leads: Callable[[], bool],
    ) -> None:
        self._tokens = tokens
        self._hints = hints
        self._handover = handover
        self._leads = leads
        # By path: without a token anyone may send what only looks like another controller's.
        self._under_way = collections.Counter[str]()
        self._bucket = token_bucket.Bucket(
            rate=_RATE, burst=_BURST, clock=asyncio.get_running_loop().time
        )

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=LIMIT)
        app.router.add_post(PATH, self._notified)
        app.router.add_post(f"{PATH}/{{token}}", self._notified)
        app.router.add_post(leader_handover.PATH, self._handed_over)
        return app

    async def _notified(self, request: web.Request) -> web.Response:
        try:
            tokens = self._tokens.read()
        except push_tokens.TokensUnusable as error:
            logger.warning("notifications are refused", extra={"reason": str(error)})
            return _refused(503, str(error))
        header = request.headers.get("Authorization", "")
        path = request.match_info.get("token", "")
        if not push_tokens.is_valid(tokens, header=header, path=path):
            return _refused(401, "a token is needed")
        if self._under_way[PATH] >= _AT_ONCE or not self._bucket.take():
            return _refused(429, "too many notifications at once")
        try:
            return await self._take(await self._body(request, PATH), tokens[0])
        except web.HTTPRequestEntityTooLarge:
            return _refused(413, f"a notification has at most {LIMIT} bytes")
        except TimeoutError:
            return _refused(408, "the notification did not arrive in time")

    async def _body(self, request: web.Request, path: str) -> bytes:
        """The body; raise TimeoutError."""
        self._under_way[path] += 1
        try:
            async with asyncio.timeout(_SECONDS):
                return await request.read()
        finally:
            self._under_way[path] -= 1

    async def _take(self, body: bytes, token: str) -> web.Response:
        try:
            sender, hints = notifications.read(body)
        except notifications.NotificationInvalid as error:
            return _refused(400, str(error))
        if not hints:
            cache_metrics.notified("ignored")
            return web.Response(text="nothing was pushed to a tag\n")
        if self._leads():
            if not self._hints.add(hints):
                return _refused(503, "too many tags wait to be looked up")
        else:
            try:
                await self._handover.send(hints, token)
            except leader_handover.NoLeader as error:
                return _refused(503, str(error))
        logger.info("pushed", extra={"sender": sender, "tags": ", ".join(map(str, hints[:5]))})
        cache_metrics.notified("taken")
        return web.Response(status=202, text="these tags are looked up\n")

    async def _handed_over(self, request: web.Request) -> web.Response:
        """Hints from a controller that does not lead: counted there, and never sent on."""
        if self._under_way[leader_handover.PATH] >= _AT_ONCE:
            return web.Response(status=503)
        try:
            body = await self._body(request, leader_handover.PATH)
            shown = request.headers.get(leader_handover.SIGNATURE, "")
            if not push_tokens.is_signed(self._tokens.read(), body, shown):
                return web.Response(status=401)
            hints = leader_handover.decoded(body)
        except (push_tokens.TokensUnusable, msgspec.DecodeError, TimeoutError):
            return web.Response(status=400)
        taken = self._leads() and self._hints.add(hints)
        return web.Response(status=202 if taken else 503)


def _refused(status: int, reason: str) -> web.Response:
    cache_metrics.notified("refused")
    return web.Response(status=status, text=f"{reason}\n", headers=_AGAIN if status > 428 else {})
