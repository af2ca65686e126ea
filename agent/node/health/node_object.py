"""Keeping the node object as it should be: labels, condition, annotations, startup taint.

One service reads the node, compares, and writes what differs: at each change, and
rarely besides, so that what somebody else has edited is put right. While the API is
away only the last wish is kept; it is written when the API is back. Whoever wishes
never waits.

Nothing is withdrawn when the agent ends: a node whose agent is being replaced
serves on, and one whose agent is gone for good is withdrawn by `uimgacc disable`.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.kits.aio import backoff
from agent.matching import decisions
from agent.model import keys, times
from agent.node.health import capability, node_patch

logger = logging.getLogger(__name__)

_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
_CONFLICTS = 5


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def get(self, resource: rest_client.Resource, name: str) -> rest_client.Object:
        """Read an object."""

    async def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body: object,
        *,
        subresource: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
    ) -> rest_client.Object:
        """Change parts of an object."""


class NodeEvents(Protocol):
    """Where the node's events go: agent.node.report.event_queue.Poster."""

    def emit_for_node(self, uid: str, event: decisions.Event) -> None:
        """Take one event for delivery."""


class Announcer:
    """Writes what is wished about one node.

    `reread` is how often, in seconds, the node is looked at when nothing changes;
    `now` is the API server's clock, for the condition's times.
    """

    def __init__(
        self,
        api: Api,
        events: NodeEvents,
        node: str,
        *,
        taint: node_patch.Taint | None = None,
        reread: float = 300.0,
        pauses: Sequence[float] = _PAUSES,
        now: times.Clock = times.now,
    ) -> None:
        self._api = api
        self._events = events
        self._name = node
        self._taint = taint
        self._reread = reread
        self._pauses = pauses
        self._now = now
        self._wanted = node_patch.Wanted()
        self._changed = asyncio.Event()
        self._read = asyncio.Event()
        self._known = asyncio.Event()
        self._before: Mapping[str, str] = {}
        self.problem = ""
        """Why the node object could not be written, for people; "" where it was."""

    def judged(self, verdict: capability.Verdict) -> None:
        """Wish what follows from a verdict on the node."""
        wanted = node_patch.of_verdict(self._wanted, verdict)
        # Another wording of the same reason is no hurry: it goes with the next look.
        before = dataclasses.replace(self._wanted, message=wanted.message)
        self._wanted = wanted
        if wanted != before:
            self._changed.set()

    def annotate(self, **annotations: str | None) -> None:
        """Wish annotations, by their keys; those whose value is None should go."""
        merged = {**self._wanted.annotations, **annotations}
        if merged != self._wanted.annotations:
            self._wanted = dataclasses.replace(self._wanted, annotations=merged)
            self._changed.set()

    async def annotations_before(self) -> Mapping[str, str]:
        """The annotations that the node had when it was first read; waits for that."""
        await self._read.wait()
        return self._before

    async def wait_known(self) -> None:
        """Wait until the node says which generation it has acknowledged.

        Before that nothing may be served: a collector that does not know this node
        would not wait for it.
        """
        await self._known.wait()

    @property
    def is_known(self) -> bool:
        """Whether `wait_known` would not wait."""
        return self._known.is_set()

    async def run(self) -> None:
        """Keep the node as it should be, for ever; what fails is tried again."""
        pauses = backoff.Backoff(self._pauses)
        while True:
            self._changed.clear()
            try:
                await self._settle()
                pauses.reset()
                pause = backoff.spread(self._reread, 0.1)
                self.problem = ""
            except errors.AgentError as error:
                self._complain(str(error))
                # What the server asks for (at most a minute: agent.clients.kube.refusals) holds for
                # whatever is wished meanwhile, too; our own pauses end with a new wish.
                await asyncio.sleep(getattr(error, "delay", None) or 0.0)
                pause = pauses.take()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _complain(self, problem: str) -> None:
        if not self.problem:
            logger.warning("the node object is not written", extra={"reason": problem})
        self.problem = problem

    async def _settle(self) -> None:
        """Read the node and write what differs from what is wished now."""
        node = await self._api.get(rest_client.NODES, self._name)
        if not self._read.is_set():
            self._take_over(node)
        wanted = self._wanted
        if patch := node_patch.metadata_patch(node, wanted):
            await self._api.patch(rest_client.NODES, self._name, patch)
        self._known.set()
        try:
            if status := node_patch.status_patch(node, wanted, self._now()):
                await self._api.patch(
                    rest_client.NODES,
                    self._name,
                    status,
                    subresource="status",
                    how=rest_client.Patch.STRATEGIC,
                )
            self._tell(node, wanted)
        finally:
            # Pods wait for the taint to go, only people for a condition that is refused.
            await self._remove_taint(node, wanted)

    def _take_over(self, node: Mapping[str, Any]) -> None:
        """Begin where the last agent of this node ended.

        What it acknowledged stands; a node that has acknowledged nothing says so. That is
        written together with the labels that bring pods here, or before.
        """
        self._before = dict(node.get("metadata", {}).get("annotations") or {})
        first = {keys.GENERATION: self._before.get(keys.GENERATION, "0")}
        annotations = {**first, **self._wanted.annotations}
        self._wanted = dataclasses.replace(self._wanted, annotations=annotations)
        self._read.set()

    async def _remove_taint(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> None:
        """Take the startup taint away, and no other that comes or goes at the same time."""
        found = (
            await self._api.get(rest_client.NODES, self._name)
            if self._is_tainted(node, wanted)
            else node
        )
        for _ in range(_CONFLICTS):
            patch = node_patch.taint_patch(found, wanted, self._taint)
            if patch is None:
                return
            try:
                await self._api.patch(rest_client.NODES, self._name, patch)
            except refusals.Conflict:
                found = await self._api.get(rest_client.NODES, self._name)
            else:
                logger.info("the startup taint is removed", extra={"taint": self._taint})
                return
        raise errors.TemporaryError("the node changes faster than its startup taint is removed")

    def _is_tainted(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> bool:
        return node_patch.taint_patch(node, wanted, self._taint) is not None

    def _tell(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> None:
        """An event for a change of what the node could do before."""
        before = node_patch.was_capable(node)
        if wanted.capable is None or wanted.capable is before:
            return
        if wanted.capable:
            reason = "ImageAccelerationReady"
        else:
            reason = "ImageAccelerationLost" if before else "ImageAccelerationNotReady"
        event = decisions.Event(reason=reason, message=wanted.message, warning=not wanted.capable)
        self._events.emit_for_node(str(node.get("metadata", {}).get("uid", "")), event)
