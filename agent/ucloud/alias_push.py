"""Pushes the other names of images that UCloud's API has built, when they are Ready.

The controller that leads runs this. What is to be done stands in the objects, whichever
controller was asked for it; they come by its watches, so nothing is asked while nothing is
to be done.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from agent import errors
from agent.clients.registry import credentials, distribution, tag_push
from agent.model import images
from agent.ucloud import accelerated_images, accelerated_objects

logger = logging.getLogger(__name__)

_AGAIN = 2.0
# A registry reads a large blob again before it answers.
_REGISTRY = distribution.Options(read_timeout=300.0)


class Objects(Protocol):
    """What becomes of an image: acceleration_objects.KubeObjects."""

    async def login(self) -> bytes | None:
        """The docker config JSON of who may push."""

    async def pushed(self, each: accelerated_images.Accelerated, layers: int) -> None:
        """The other name is there."""

    async def failed(self, each: accelerated_images.Accelerated, problem: str) -> None:
        """It cannot be."""


class Aliaser:
    """A service that is told of objects; one name is pushed at a time."""

    def __init__(self, objects: Objects, *, options: distribution.Options = _REGISTRY) -> None:
        self._objects = objects
        self._options = options
        self._waiting: dict[str, accelerated_images.Accelerated] = {}
        self._news = asyncio.Event()

    def deliver(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take in a change of an ImageCache of the native kind (agent.control.objects.watches)."""
        if not accelerated_objects.is_ours(body):
            return
        each = accelerated_objects.accelerated(body)
        if kind != "DELETED" and accelerated_images.pushable(each):
            self._waiting[each.name] = each
            self._news.set()
        else:
            self._waiting.pop(each.name, None)

    async def run(self) -> None:
        """Push whatever is to be pushed, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            for each in list(self._waiting.values()):
                try:
                    await self._push(each)
                except errors.AgentError as error:
                    logger.warning("another name of an image waits", extra={"reason": str(error)})
                    asyncio.get_running_loop().call_later(_AGAIN, self._news.set)
                    continue
                # Of another object of this name there may be news meanwhile.
                if self._waiting.get(each.name) is each:
                    del self._waiting[each.name]

    async def _push(self, each: accelerated_images.Accelerated) -> None:
        """Push one; what is temporary is raised."""
        try:
            layers = await self._alias(each)
        except errors.PermanentError as error:
            logger.warning(
                "the other name of an image cannot be pushed",
                extra={"image": each.target, "reason": str(error)},
            )
            await self._objects.failed(each, f"{each.target} cannot be pushed: {error}")
            return
        logger.info("an image has another name", extra={"image": each.target})
        await self._objects.pushed(each, layers)

    async def _alias(self, each: accelerated_images.Accelerated) -> int:
        original = images.parse_reference(each.original)
        # What was built, whatever the tag stands for by now.
        digest = accelerated_images.digest_of(each) or original.digest
        source = dataclasses.replace(original, tag="", digest=digest) if digest else original
        found = await self._objects.login()
        known = [] if found is None else [credentials.DockerConfig(found, source="UHub's user")]
        options = dataclasses.replace(
            self._options, plain_http=each.plain_http, insecure=each.insecure
        )
        async with tag_push.Client(credentials.Chain(known), options) as client:
            await client.alias(source, images.parse_reference(each.target))
            return await client.layers(source)
