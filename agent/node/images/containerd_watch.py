"""Watching containerd: what it does with images, and when it or the snapshotter has restarted."""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from agent import errors
from agent.clients.containerd import pull_leases
from agent.kits import files, machine
from agent.kits.aio import backoff
from agent.node.images import containerd_images, repair
from agent.node.report import savings

logger = logging.getLogger(__name__)

_PENDING = 256
"""Pulls to be measured; of more the oldest are dropped, and the measured speed is less exact."""


class _Known(msgspec.Struct, frozen=True):
    """Which containerd has been reconciled, over restarts of the agent but not of the machine."""

    boot: str
    uuid: str
    pid: int


@dataclasses.dataclass(slots=True)
class State:
    """What /status shows of containerd."""

    connected: bool = False
    version: str = ""
    pid: int = 0
    sentence: str = "not connected yet"
    problem: str = ""


class Pods(Protocol):
    """The pods of this node: agent.node.pods.served_pods.ServedPods."""

    def serve_again(self) -> None:
        """Have all of them served again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`folder` remembers which containerd has been reconciled (None: nothing is remembered).

    `canary_seconds` is how often a registered image is checked, `pauses` the seconds
    before each attempt to connect, of which the last repeats.
    """

    folder: pathlib.Path | None
    canary_seconds: float
    pauses: Sequence[float] = (0.1, 0.2, 0.5, 1.0)


class Watcher:
    """Reconciles after each (re)start of containerd, then listens for images.

    Pods are served again when registered images may be gone; `images_changed` is set when
    there may be other images than before.
    """

    def __init__(
        self,
        containerd: containerd_images.ContainerdImages,
        healer: repair.Healer,
        ledger: savings.Ledger,
        pods: Pods,
        images_changed: asyncio.Event,
        wanted: Settings,
    ) -> None:
        self._client = containerd.client
        self._chains = containerd.chains
        self._healer = healer
        self._ledger = ledger
        self._pods = pods
        self._images_changed = images_changed
        self._settings = wanted
        self._file = wanted.folder / "containerd.json" if wanted.folder else None
        self._pending: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._unsettled = True
        self._may_have_old_pulls = True
        self.state = State()

    async def run(self) -> None:
        """Watch for ever; what fails is retried."""
        pauses = backoff.Backoff(self._settings.pauses)
        while True:
            try:
                await self._connect()
                pauses.reset()
                await self._listen()
            except errors.AgentError as error:
                if not self.state.problem:
                    logger.warning("containerd is lost", extra={"reason": str(error)})
                self.state.connected = False
                self.state.problem = str(error)
                self._unsettled = self._may_have_old_pulls = True
            await pauses.wait()

    async def run_canary(self) -> None:
        """Check every few seconds that the snapshotter still has the registered images."""
        away = False
        while True:
            await asyncio.sleep(self._settings.canary_seconds)
            if not self.state.connected:
                continue
            try:
                lost = await self._healer.lost_something()
                if lost or away:
                    # After an absence it is another process, perhaps with nothing mounted.
                    self._chains.forget_mounts()
                    # The image may also be gone because the kubelet has removed it.
                    if (await self._reconcile(touch=away)).lost or away:
                        self._pods.serve_again()
                away = False
                await self._end_old_pulls()
            except errors.AgentError as error:
                if not away:
                    logger.warning("the snapshotter is lost", extra={"reason": str(error)})
                away = True

    async def run_pulls(self) -> None:
        """Measure the pulls that containerd makes, apart from everything urgent."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                name, _ = self._pending.popitem(last=False)
                with contextlib.suppress(errors.AgentError):
                    await self._ledger.noticed(name)

    async def _connect(self) -> None:
        process = await self._client.process()
        self.state.version = await self._client.version()
        self.state.pid = process.pid
        known = _Known(machine.boot_id(), process.uuid, process.pid)
        is_new = known != self._load()
        if is_new:
            self._chains.forget_mounts()
        if left := await self._client.delete_old_leases():
            logger.info("ended leases of an agent that was killed", extra={"leases": left})
        await self._reconcile(touch=is_new)
        if is_new:
            self._save(known)
            logger.info(
                "connected to another containerd",
                extra={"version": self.state.version, "pid": process.pid},
            )
        self.state.connected, self.state.problem = True, ""
        if self._unsettled:
            self._unsettled = False
            self._pods.serve_again()
            self._images_changed.set()

    async def _end_old_pulls(self) -> None:
        """End what the pulls of a killed containerd have left, once for each containerd."""
        if not self._may_have_old_pulls:
            return
        with contextlib.suppress(errors.AgentError):  # once more at the next look
            snapshotter = self._chains.snapshotter
            if ended := await pull_leases.end_abandoned(self._client, snapshotter=snapshotter):
                logger.info("ended leases of pulls of a killed containerd", extra={"leases": ended})
                await self._reconcile(touch=False)
            self._may_have_old_pulls = False

    async def _reconcile(self, *, touch: bool) -> repair.Outcome:
        outcome = await self._healer.reconcile(touch=touch)
        self.state.sentence = outcome.sentence
        level = logging.WARNING if outcome.lost else logging.INFO
        logger.log(level, "reconciled containerd's images", extra={"outcome": outcome.sentence})
        return outcome

    async def _listen(self) -> None:
        async for event in self._client.image_events():
            self._pending[event.name] = None
            while len(self._pending) > _PENDING:
                self._pending.popitem(last=False)
            self._wake.set()
            self._images_changed.set()

    def _load(self) -> _Known | None:
        if self._file is None:
            return None
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Known)
        except (OSError, msgspec.MsgspecError):
            return None

    def _save(self, known: _Known) -> None:
        if self._file is not None:
            try:
                files.write(self._file, msgspec.json.encode(known))
            except OSError as error:
                logger.warning("state is not saved", extra={"reason": str(error)})
