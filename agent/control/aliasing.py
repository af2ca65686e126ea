"""Pushes the other names of images that UCloud's API has built, when they are Ready.

The controller that leads runs this. What is to be done stands in the objects, whichever
controller was asked for it.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from typing import Protocol

from agent import errors
from agent.clients import credentials, registry, registry_push
from agent.control import acceleration
from agent.model import images

logger = logging.getLogger(__name__)

_SECONDS = 2.0
# A registry reads a large blob again before it answers.
_REGISTRY = registry.Options(read_timeout=300.0)


class Objects(Protocol):
    """What is built and what becomes of it: acceleration_objects.KubeObjects."""

    async def all(self) -> Sequence[acceleration.Accelerated]:
        """The image caches of UCloud's API."""

    async def login(self) -> bytes | None:
        """The docker config JSON of who may push."""

    async def pushed(self, each: acceleration.Accelerated, layers: int) -> None:
        """The other name is there."""

    async def failed(self, each: acceleration.Accelerated, problem: str) -> None:
        """It cannot be."""


class Aliaser:
    """A service; it looks every so many seconds."""

    def __init__(
        self,
        objects: Objects,
        *,
        options: registry.Options = _REGISTRY,
        seconds: float = _SECONDS,
    ) -> None:
        self._objects = objects
        self._options = options
        self._seconds = seconds

    async def run(self) -> None:
        """Push whatever is to be pushed, for ever."""
        while True:
            try:
                for each in await self._objects.all():
                    if acceleration.pushable(each):
                        await self._push(each)
            except errors.AgentError as error:
                logger.warning("other names of images wait", extra={"reason": str(error)})
            await asyncio.sleep(self._seconds)

    async def _push(self, each: acceleration.Accelerated) -> None:
        """Push one; what is temporary is tried again in the next round."""
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

    async def _alias(self, each: acceleration.Accelerated) -> int:
        original = images.parse_reference(each.original)
        # What was built, whatever the tag stands for by now.
        digest = acceleration.digest_of(each) or original.digest
        source = dataclasses.replace(original, tag="", digest=digest) if digest else original
        found = await self._objects.login()
        known = [] if found is None else [credentials.DockerConfig(found, source="UHub's user")]
        options = dataclasses.replace(
            self._options, plain_http=each.plain_http, insecure=each.insecure
        )
        async with registry_push.Client(credentials.Chain(known), options) as client:
            await client.alias(source, images.parse_reference(each.target))
            return await client.layers(source)
