"""Pushes the other names of images that UCloud's API has built, when they are Ready.

The leader runs this. Which names are to be pushed is in the objects, whichever controller got
the request. The watches deliver them, so that no requests are sent while there is nothing to do.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.registry import connections, credentials, tag_push
from agent.model import images, keys
from agent.ucloud import accelerated_images, image_objects

logger = logging.getLogger(__name__)

_AGAIN = 2.0
READ_TIMEOUT = 300.0
"""Seconds: a registry reads a large blob again before it answers."""


class Logins(Protocol):
    """Where the login is (agent.ucloud.activation.Activation)."""

    async def login(self) -> bytes | None:
        """The docker config JSON with which names are pushed; None where there is none."""


class Results(Protocol):
    """Where the result is written (agent.ucloud.image_objects.ImageObjects)."""

    async def pushed(self, each: accelerated_images.Accelerated, layers: int) -> None:
        """The other name is pushed."""

    async def failed(self, each: accelerated_images.Accelerated, problem: str) -> None:
        """It cannot be pushed."""


class AliasPusher:
    """A service to which objects are delivered; it pushes one name at a time."""

    def __init__(self, logins: Logins, results: Results, *, options: connections.Options) -> None:
        self._logins = logins
        self._results = results
        self._options = options
        self._waiting: dict[str, accelerated_images.Accelerated] = {}
        self._changed = asyncio.Event()

    def deliver(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take in a change of an ImageCache (agent.control.reconcile.watches.Deliver)."""
        if kind == "DELETED":
            if body["apiVersion"] == keys.API_VERSION:
                self._waiting.pop(body["metadata"]["name"], None)
            return
        if not image_objects.is_of_ucloud(body):
            return
        each = image_objects.accelerated(body)
        if accelerated_images.pushable(each):
            self._waiting[each.name] = each
            self._changed.set()
        else:
            self._waiting.pop(each.name, None)

    async def run(self) -> None:
        """Push the names that are due, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for each in list(self._waiting.values()):
                try:
                    await self._push(each)
                except errors.AgentError as error:
                    logger.warning(
                        "the other name of an image is pushed later", extra={"reason": str(error)}
                    )
                    asyncio.get_running_loop().call_later(_AGAIN, self._changed.set)
                    continue
                # Another object of this name may have been delivered meanwhile.
                if self._waiting.get(each.name) is each:
                    del self._waiting[each.name]

    async def _push(self, each: accelerated_images.Accelerated) -> None:
        """Push one name; a temporary error is raised."""
        try:
            layers = await self._alias(each)
        except errors.PermanentError as error:
            logger.warning(
                "the other name of an image cannot be pushed",
                extra={"image": each.target, "reason": str(error)},
            )
            await self._results.failed(each, f"{each.target} cannot be pushed: {error}")
            return
        logger.info("the other name of an image is pushed", extra={"image": each.target})
        await self._results.pushed(each, layers)

    async def _alias(self, each: accelerated_images.Accelerated) -> int:
        original = images.parse_reference(each.original)
        # The digest that was built: the tag may have moved since.
        digest = accelerated_images.digest_of(each) or original.digest
        source = dataclasses.replace(original, tag="", digest=digest) if digest else original
        login = await self._logins.login()
        known = [] if login is None else [credentials.DockerConfig(login, source="UHub's user")]
        options = dataclasses.replace(
            self._options, plain_http=each.plain_http, insecure=each.insecure
        )
        async with tag_push.Client(credentials.Chain(known), options) as client:
            await client.alias(source, images.parse_reference(each.target))
            return await client.layers(source)
