"""UCloud's API over HTTP: `POST /ucloud`, a signed form in, JSON out.

Every answer has status 200: the official SDK shows a RetCode and its Message only
then. What goes wrong in here is told without its details, which are in the log.
"""

import logging
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from agent import errors
from agent.control import ucloud

logger = logging.getLogger(__name__)

PATH = "/ucloud"
_LIMIT = 64 << 10
_FIELDS = 64


class KeysError(errors.PermanentError):
    """The file of keys cannot be used. `path` is it."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(f"{path}: expected a JSON object, private by public key: {reason}")
        self.path = path


class Actions(Protocol):
    """What the actions do: acceleration.Actions."""

    async def do(self, request: ucloud.Request) -> ucloud.Situation | None:
        """Do it; raise ucloud.ApiError."""


class Keys:
    """The pairs of keys that may ask: a local file, read anew each time, so that it may change."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, str]:
        """The private keys by public key; raise KeysError."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeysError(self._path, str(error)) from error
        if not all(len(private) >= 16 for private in found.values()):
            raise KeysError(self._path, "a private key has less than 16 characters")
        return found


class Api:
    """The handler of requests. `cluster` is the only ClusterId; "": any will do."""

    def __init__(self, actions: Actions, keys: Keys, *, cluster: str = "") -> None:
        self._actions = actions
        self._keys = keys
        self._cluster = cluster

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        parameters = await fields_of(request)
        action = parameters.get("Action", "")[:64]
        try:
            body = await self._do(action, parameters)
        except ucloud.ApiError as error:
            body = ucloud.refused(action, error.code, str(error))
        except errors.AgentError as error:
            logger.warning("a request failed", extra={"action": action, "reason": str(error)})
            body = ucloud.refused(action, ucloud.RetCode.UNAVAILABLE, "not possible just now")
        return web.Response(
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _do(self, action: str, parameters: Mapping[str, str]) -> Mapping[str, object]:
        # Before anything else is looked at, and without saying what would be wrong with it.
        ucloud.authenticate(parameters, self._keys.read())
        asked = ucloud.parse(parameters)
        if self._cluster and parameters.get("ClusterId") != self._cluster:
            raise ucloud.ApiError(
                ucloud.RetCode.WRONG_PARAMETER, f"Params [ClusterId] is not {self._cluster}"
            )
        found = await self._actions.do(asked)
        if not isinstance(asked, ucloud.Get):
            logger.info("done as asked by UCloud's API", extra={"action": action})
        return ucloud.done(action) if found is None else ucloud.described(action, found)


async def fields_of(request: web.Request) -> Mapping[str, str]:
    """The fields of a form; {}, which has neither signature nor token, for none or too large."""
    try:
        data = await request.read()
        pairs = urllib.parse.parse_qsl(
            data.decode(), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"
        )
    except (web.HTTPRequestEntityTooLarge, ValueError):
        return {}
    # A field that is there twice would be signed in one way and read in another.
    return dict(pairs) if len(pairs) == len(dict(pairs)) else {}


def application(api: Api) -> web.Application:
    """The API alone."""
    app = web.Application(client_max_size=_LIMIT)
    app.router.add_post(PATH, api.answer)
    return app
