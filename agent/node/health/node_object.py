"""Keeping the node object as it should be: labels, condition, annotations, startup taint.

One service reads the node, compares, and writes the differences: at each change, and
every few minutes besides, so that edits by others are undone. While the API server is
away only the last wanted state is kept; it is written when the server is back. Callers
never wait.

Nothing is removed when the agent ends: a node whose agent is being replaced still serves
images, and `uimgacc disable` removes the labels of one whose agent is gone for good.
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
    """Where the node's events go."""

    def emit_for_node(self, uid: str, event: decisions.Event) -> None:
        """Take one event for delivery."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which node, and how it is kept.

    `taint` is the startup taint to remove, `reread` how often, in seconds, the node is
    compared when nothing changes, `pauses` the seconds before each retry.
    """

    name: str
    taint: node_patch.Taint | None = None
    reread: float = 300.0
    pauses: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0)


class Announcer:
    """Writes the wanted state of one node; `now` is the API server's clock."""

    def __init__(
        self, api: Api, events: NodeEvents, wanted: Settings, *, now: times.Clock = times.now
    ) -> None:
        self._api = api
        self._events = events
        self._name = wanted.name
        self._taint = wanted.taint
        self._reread = wanted.reread
        self._pauses = wanted.pauses
        self._now = now
        self._wanted = node_patch.Wanted()
        self._changed = asyncio.Event()
        self._read = asyncio.Event()
        self._known = asyncio.Event()
        self._before: Mapping[str, str] = {}
        self.labels: Mapping[str, str] = {}
        """The node's labels when it was last read."""
        self.uid = ""
        """The UID of the Node object; "" before it was read."""
        self.problem = ""
        """Why the node object could not be written, for people; "" where it was."""

    def judged(self, verdict: capability.Verdict) -> None:
        """Want what follows from a verdict on the node."""
        wanted = node_patch.of_verdict(self._wanted, verdict)
        # Another wording of the same reason is not urgent: it is written at the next comparison.
        before = dataclasses.replace(self._wanted, message=wanted.message)
        self._wanted = wanted
        if wanted != before:
            self._changed.set()

    def annotate(self, **annotations: str | None) -> None:
        """Want annotations, by their keys; those whose value is None are removed."""
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
    def unwritten(self) -> str:
        """Why the node object has not been written yet; "" once it has."""
        if self._known.is_set():
            return ""
        return self.problem or "it has not been read yet"

    async def run(self) -> None:
        """Keep the node as it should be, for ever; what fails is retried."""
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
                # A delay that the server names (at most a minute, see clients.kube.refusals) holds
                # for later changes, too; the pauses of this list end at a change.
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
        """Read the node and write what differs from the wanted state."""
        node = await self._api.get(rest_client.NODES, self._name)
        metadata = node.get("metadata", {})
        self.labels = dict(metadata.get("labels") or {})
        self.uid = str(metadata.get("uid", ""))
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
            self._emit(node, wanted)
        finally:
            # Pods wait until the taint is removed. A refused condition is only shown to people.
            await self._remove_taint(node, wanted)

    def _take_over(self, node: Mapping[str, Any]) -> None:
        """Start from the state that the last agent of this node left.

        Its acknowledgement stays valid; a node without one acknowledges generation 0. That
        is written together with the labels that bring pods here, or before.
        """
        self._before = dict(node.get("metadata", {}).get("annotations") or {})
        first = {keys.GENERATION: self._before.get(keys.GENERATION, "0")}
        annotations = {**first, **self._wanted.annotations}
        self._wanted = dataclasses.replace(self._wanted, annotations=annotations)
        self._read.set()

    async def _remove_taint(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> None:
        """Remove the startup taint, and no other that is added or removed at the same time."""
        current = (
            await self._api.get(rest_client.NODES, self._name)
            if self._is_tainted(node, wanted)
            else node
        )
        for _ in range(_CONFLICTS):
            patch = node_patch.taint_patch(current, wanted, self._taint)
            if patch is None:
                return
            try:
                await self._api.patch(rest_client.NODES, self._name, patch)
            except refusals.Conflict:
                current = await self._api.get(rest_client.NODES, self._name)
            else:
                logger.info("the startup taint is removed", extra={"taint": self._taint})
                return
        raise errors.TemporaryError("the node changes faster than its startup taint is removed")

    def _is_tainted(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> bool:
        return node_patch.taint_patch(node, wanted, self._taint) is not None

    def _emit(self, node: Mapping[str, Any], wanted: node_patch.Wanted) -> None:
        """Emit an event where the node has become capable, no longer is, or serves what it has."""
        before = node_patch.was_capable(node)
        same = wanted.capable is before and wanted.local is node_patch.was_local(node)
        if wanted.capable is None or same:
            return
        if wanted.capable:
            reason = "ImageAccelerationReady"
        elif wanted.local:
            reason = "ImageAccelerationLocal"
        else:
            had = before or node_patch.was_local(node)
            reason = "ImageAccelerationLost" if had else "ImageAccelerationNotReady"
        event = decisions.Event(reason=reason, message=wanted.message, warning=not wanted.capable)
        self._events.emit_for_node(self.uid, event)
