"""Letting the snapshotter know that deletions wait for this node.

A layer is deleted when all nodes that the controller knows have let go of it. So the snapshotter
serves a cluster's store only where its node is one of them. It has no access to the API server:
the agent writes a file into the snapshotter's root folder once the node has its annotation. The
file stays when the agent ends, as the annotation does, but counts until the machine is started
again: the node of one that was off for longer than deletions wait is announced anew first.
"""

import asyncio
import logging
import pathlib
from typing import Protocol

import msgspec

from agent.kits import files, machine
from agent.kits.aio import threads
from agent.model import reports
from agent.node.health import node_root

logger = logging.getLogger(__name__)

_SOON = 0.5
_LATER = 30.0


class Announcer(Protocol):
    """What the cluster knows of this node: agent.node.health.node_object.Announcer."""

    async def wait_known(self) -> None:
        """Wait until the node says what it has acknowledged."""


class Node(node_root.Rooted, Protocol):
    """This node, as the agent knows it."""

    @property
    def cluster(self) -> str | None:
        """The cluster's UID, "" outside of any; None while that is not known yet."""


class Announcement:
    """Keeps the file as it should be; a node that is `leaving` has none."""

    def __init__(self, announcer: Announcer, node: Node, *, leaving: bool = False) -> None:
        self._announcer = announcer
        self._node = node
        self._leaving = leaving
        self.missing = "" if leaving else "this node is not announced to its snapshotter yet"
        """Why the snapshotter does not know yet that deletions wait for this node; "" once it does.

        A pod that starts before is pulled.
        """

    async def run(self) -> None:
        """Write the file when the node is known, and again where it is gone; for ever."""
        if not self._leaving:
            await self._announcer.wait_known()
        while True:
            root, cluster = self._node.root, self._node.cluster
            if root and cluster is not None:
                try:
                    await threads.run("announcement", self._settle, pathlib.Path(root), cluster)
                except OSError as error:
                    self._complain(f"the snapshotter's folder cannot be written: {error}")
                else:
                    self.missing = ""
            await asyncio.sleep(_LATER if root and cluster is not None else _SOON)

    def _complain(self, problem: str) -> None:
        if problem != self.missing:
            logger.warning("the snapshotter serves nothing", extra={"reason": problem})
        self.missing = problem

    def _settle(self, root: pathlib.Path, cluster: str) -> None:
        path = root / reports.ANNOUNCED
        if self._leaving:
            path.unlink(missing_ok=True)
            return
        data = msgspec.json.encode(reports.Announced(cluster=cluster, boot=machine.boot_id()))
        try:
            if path.read_bytes() == data:
                return
        except FileNotFoundError:
            pass
        files.write(path, data)
