"""Following containerd: what it does with images, and when it, or the snapshotter, is a new one."""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence

import msgspec

from agent import errors
from agent.clients.containerd import rpc
from agent.kits import files
from agent.kits.aio import backoff
from agent.node.images import register, repair
from agent.node.report import savings

logger = logging.getLogger(__name__)

_PAUSES = (0.1, 0.2, 0.5, 1.0)
_PENDING = 256
"""Images to be measured; of more the oldest are let go. Only the knowledge of speed loses by it."""
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class _Known(msgspec.Struct, frozen=True):
    """Which containerd has been reconciled: it survives our restart, not the machine's."""

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


class Follower:
    """Reconciles after each (re)start of containerd, then listens for images.

    `on_reset` is called when registered images may be gone: all pods are to be
    served again; `on_image` when there may be other images than before. `folder`
    remembers which containerd has been seen (None: nothing).
    """

    def __init__(
        self,
        client: rpc.Client,
        healer: repair.Healer,
        ledger: savings.Ledger,
        registrar: register.Registrar,
        *,
        on_reset: Callable[[], None],
        on_image: Callable[[], None] = lambda: None,
        folder: pathlib.Path | None,
        canary_seconds: float,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        self._client = client
        self._healer = healer
        self._ledger = ledger
        self._registrar = registrar
        self._on_reset = on_reset
        self._on_image = on_image
        self._file = folder / "containerd.json" if folder else None
        self._canary_seconds = canary_seconds
        self._pauses = pauses
        self._pending: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._wake = asyncio.Event()
        self._unsettled = True
        self.state = State()

    async def run(self) -> None:
        """Follow for ever; what fails is tried again."""
        pauses = backoff.Backoff(self._pauses)
        while True:
            try:
                await self._connect()
                pauses.reset()
                await self._follow()
            except errors.AgentError as error:
                if not self.state.problem:
                    logger.warning("containerd is lost", extra={"reason": str(error)})
                self.state.connected = False
                self.state.problem = str(error)
                self._unsettled = True
            await pauses.wait()

    async def run_canary(self) -> None:
        """Look every few seconds whether the snapshotter still has what it is known to have."""
        away = False
        while True:
            await asyncio.sleep(self._canary_seconds)
            if not self.state.connected:
                continue
            try:
                lost = await self._healer.lost_something()
                if lost or away:
                    # It has been away: it is another process, perhaps with nothing mounted.
                    self._registrar.forget_mounts()
                    # What was lost may as well be an image that the kubelet has removed.
                    if (await self._reconcile(touch=away)).lost or away:
                        self._on_reset()
                away = False
            except errors.AgentError as error:
                if not away:
                    logger.warning("the snapshotter is lost", extra={"reason": str(error)})
                away = True

    async def run_pulls(self) -> None:
        """Measure the pulls that containerd makes, away from everything urgent."""
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
        known = _Known(_boot_id(), process.uuid, process.pid)
        is_new = known != self._load()
        if is_new:
            self._registrar.forget_mounts()
        await self._reconcile(touch=is_new)
        if is_new:
            self._save(known)
            logger.info(
                "a containerd that is new to us",
                extra={"version": self.state.version, "pid": process.pid},
            )
        self.state.connected, self.state.problem = True, ""
        if self._unsettled:
            self._unsettled = False
            self._on_reset()
            self._on_image()

    async def _reconcile(self, *, touch: bool) -> repair.Outcome:
        outcome = await self._healer.reconcile(touch=touch)
        self.state.sentence = outcome.sentence
        level = logging.WARNING if outcome.lost else logging.INFO
        logger.log(level, "looked after containerd's images", extra={"outcome": outcome.sentence})
        return outcome

    async def _follow(self) -> None:
        async for event in self._client.image_events():
            self._pending[event.name] = None
            while len(self._pending) > _PENDING:
                self._pending.popitem(last=False)
            self._wake.set()
            self._on_image()

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
                logger.warning("state is not kept", extra={"reason": str(error)})


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
