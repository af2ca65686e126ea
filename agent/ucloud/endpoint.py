"""UCloud's API over HTTP: `POST /ucloud`, a signed form in, JSON out.

Every answer has status 200: the official SDK shows a RetCode and its Message only
then. An internal error is reported without its details, which are in the log.
"""

import logging
from collections.abc import Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from agent import errors
from agent.control.page import api_keys
from agent.kits.web import forms
from agent.ucloud import protocol

logger = logging.getLogger(__name__)

PATH = "/ucloud"
_LIMIT = 64 << 10
_UNAVAILABLE = "not possible at the moment: the controller's log has the reason"


class Actions(Protocol):
    """The actions (agent.ucloud.actions.Actions)."""

    async def do(self, request: protocol.Request) -> protocol.Situation | None:
        """Do it; raise protocol.ApiError."""


class Api:
    """The handler of requests. `cluster` is the only ClusterId that is accepted; "" accepts any."""

    def __init__(self, actions: Actions, keys: api_keys.Keys, *, cluster: str = "") -> None:
        self._actions = actions
        self._keys = keys
        self._cluster = cluster

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        parameters = await forms.fields_of(request)
        action = parameters.get("Action", "")[:64]
        try:
            body = await self._do(action, parameters)
        except protocol.ApiError as error:
            body = protocol.refused(action, error.code, str(error))
        except api_keys.KeysError as error:
            logger.warning("no request can be signed", extra={"reason": error.reason})
            body = protocol.refused(action, protocol.RetCode.UNAVAILABLE, str(error))
        except errors.AgentError as error:
            logger.warning("a request failed", extra={"action": action, "reason": str(error)})
            body = protocol.refused(action, protocol.RetCode.UNAVAILABLE, _UNAVAILABLE)
        return web.Response(
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _do(self, action: str, parameters: Mapping[str, str]) -> Mapping[str, object]:
        # First of all, so that an unsigned request learns nothing of the parameters.
        protocol.authenticate(parameters, self._keys.read())
        asked = protocol.parse(parameters)
        if self._cluster and parameters.get("ClusterId") != self._cluster:
            raise protocol.ApiError(
                protocol.RetCode.WRONG_PARAMETER, f"Params [ClusterId] is not {self._cluster}"
            )
        situation = await self._actions.do(asked)
        if not isinstance(asked, protocol.Get):
            logger.info("a request of UCloud's API was done", extra={"action": action})
        return protocol.done(action) if situation is None else protocol.described(action, situation)


def application(api: Api) -> web.Application:
    """The API alone."""
    app = web.Application(client_max_size=_LIMIT)
    app.router.add_post(PATH, api.answer)
    return app
