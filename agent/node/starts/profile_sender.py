"""Sending what this node has observed of a start to the controller: an annotation of the cache.

Not of the node: a thousand nodes that start the same image would each write one, and everything
that watches nodes would get them all. A cache has at most one report at a time, which the
controller takes and removes. Each node waits for a random while and looks first whether the store
knows the start by then, so of many nodes that start an image at the same time few send. A
policy lets a node add a report under its own name, where there is none, and nothing else.
"""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Sequence
from typing import Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.kits.aio import backoff
from agent.metrics import start_metrics
from agent.model import keys
from agent.model.starts import profile_codec
from agent.node.starts import expected_starts

logger = logging.getLogger(__name__)

_WAITING = 64


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def get(self, resource: rest_client.Resource, name: str) -> rest_client.Object:
        """Read an object."""

    async def patch(
        self, resource: rest_client.Resource, name: str, body: object
    ) -> rest_client.Object:
        """Change an object by a merge patch."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds: the time over which nodes spread their reports, the pauses between tries, and for
    how long it is tried.
    """

    spread: float = 60.0
    pauses: Sequence[float] = (10.0, 30.0, 60.0, 120.0, 300.0)
    patience: float = 3600.0


class Sender:
    """Sends one report after the other, in the name of the node `name`."""

    def __init__(self, api: Api, name: str, *, timing: Timing | None = None) -> None:
        self._api = api
        self._name = name
        self._timing = timing or Timing()
        self._offers: collections.deque[expected_starts.Observed] = collections.deque(
            maxlen=_WAITING
        )
        self._offered = asyncio.Event()

    def offer(self, observed: expected_starts.Observed) -> None:
        """Take one for sending; never waits."""
        if observed.start.cache is not None:
            self._offers.append(observed)
            self._offered.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._offers:
                offer = self._offers.popleft()
                await asyncio.sleep(backoff.spread(self._timing.spread / 2, 1))
                start_metrics.profile_sent(await self._deliver(offer))

    async def _deliver(self, offer: expected_starts.Observed) -> start_metrics.ProfileSending:
        pauses = backoff.Backoff(self._timing.pauses, deadline=self._timing.patience)
        while True:
            delay = None
            try:
                if (result := await self._try(offer)) is not None:
                    return result
            except (refusals.NotFound, errors.PermanentError) as error:
                return _given_up(offer, str(error))
            except errors.TemporaryError as error:
                if isinstance(error, refusals.Denied):
                    return _given_up(offer, str(error))
                delay = error.delay
            if not await pauses.wait(delay):
                return _given_up(offer, "another report is there all the time")

    async def _try(self, offer: expected_starts.Observed) -> start_metrics.ProfileSending | None:
        """One try; None: later."""
        start = offer.start
        assert start.cache is not None
        if await offer.is_stored():
            return "known"
        group, name = start.cache
        kind = dataclasses.replace(rest_client.IMAGE_CACHES, group=group)
        metadata = (await self._api.get(kind, name)).get("metadata", {})
        if keys.START_PROFILE in (metadata.get("annotations") or {}):
            return None
        report = profile_codec.Report(
            node=self._name,
            image=start.record.ref,
            manifest=start.made.manifest,
            text=offer.text,
        )
        body = {
            "metadata": {
                "resourceVersion": metadata["resourceVersion"],
                "annotations": {keys.START_PROFILE: str(report)},
            }
        }
        try:
            await self._api.patch(kind, name, body)
        except refusals.Conflict:
            return None
        return "sent"


def _given_up(offer: expected_starts.Observed, reason: str) -> start_metrics.ProfileSending:
    logger.info(
        "a start profile is not sent",
        extra={"image": offer.start.record.ref, "reason": reason},
    )
    return "failed"
