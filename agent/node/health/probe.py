"""Checking, every few seconds, that everything which serving images needs is there."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Collection
from typing import Protocol

from agent import errors
from agent.clients.containerd import objects, rpc, sockets
from agent.kits.aio import tasks
from agent.matching import runtimes
from agent.metrics import node_metrics
from agent.model import keys, records, reports
from agent.mounts.devices import kernel_support
from agent.node.health import capability, store_mount
from agent.node.native import native_node
from agent.store.lookup import layer_requests

logger = logging.getLogger(__name__)

_Check = capability.Check
_NEEDED = (_Check.PLUGIN, _Check.SNAPSHOTTER)
_FILE_SYSTEMS = ("erofs", "overlay")
_ANSWER_SECONDS = 2.0
"""For the snapshotter, which answers what it is asked here from memory within a millisecond."""
_PROBLEMS = {check: node_metrics.NODE_PROBLEM.labels(check.value) for check in _Check}

_SETUP_WAITING = {state: node_metrics.SETUP_WAITING.labels(state) for state in ("slot", "return")}


class Store(Protocol):
    """What is asked of the store, and of what this node has of it: agent.node.near.probed_store."""

    async def store(self) -> records.StoreRecord:
        """What the folder is; AgentError when it is no store, or does not answer."""

    async def local_images(self, root: str) -> int:
        """How many images this node serves without it; `root` is the snapshotter's folder."""


class NodeObject(Protocol):
    """What the cluster knows of this node: agent.node.health.node_object.Announcer."""

    def judged(self, verdict: capability.Verdict) -> None:
        """Take a verdict; never waits."""


class Pods(Protocol):
    """The pods of this node: agent.node.pods.served_pods.ServedPods."""

    def retry_now(self) -> None:
        """Have those that wait for a retry served now."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is probed, and how often.

    `handlers_needed` is False where the uimgacc snapshotter is containerd's default one,
    `switched_off` a sentence where this node is not to serve even if all is well. With a
    `native_folder` the snapshotter is containerd's own, and that folder has its root's part
    (agent.node.native); `native_compressed` says that it runs images with compressed layers.
    """

    snapshotter: str
    interval: float
    handlers_needed: bool = True
    switched_off: str = ""
    native_folder: str = ""
    native_compressed: bool = False
    patience: capability.Patience = dataclasses.field(default_factory=capability.Patience)


class Prober:
    """Probes store, containerd, snapshotter and kernel, and keeps the verdict.

    Pods are retried when the store answers again after it did not. The node object gets
    each verdict, but not that a node cannot serve before that was found often enough: a
    new agent would otherwise remove the label after one late answer.
    """

    def __init__(
        self,
        store: Store,
        client: rpc.Client,
        node: NodeObject,
        pods: Pods,
        signals: store_mount.Signals,
        wanted: Settings,
    ) -> None:
        self._store = store
        self._client = client
        self._node = node
        self._pods = pods
        self._signals = signals
        self._settings = wanted
        self.verdict = capability.Verdict()
        self._twins: frozenset[str] = frozenset()
        self._maps_ids = False
        self.store_seconds: float | None = None
        """The seconds until the store's last answer, or until the probe was given up."""
        self.root = ""
        """The snapshotter's root folder as containerd knows it, or the one that stands for it; ""
        before that is known."""
        self._looks = 0
        self._store_away = False

    async def run(self, *, warm: int = 1) -> None:
        """Probe for ever. The first `warm` probes of the store run at once.

        They start its workers, so that the first pod does not wait for that.
        """
        loop = asyncio.get_running_loop()
        await tasks.together(*(self._store_findings() for _ in range(warm)))
        next_ = loop.time()
        while True:
            self._signals.mounted.clear()
            await self.look()
            # A problem is checked again sooner: whether it lasts must be known before many pods
            # come. The label of a node whose store hangs is removed within 15 s: 5 s until a probe
            # begins, and three of 2 s (the store's deadline) with 0.5 s between them.
            full = self._settings.interval
            interval = full / 2 if self.verdict.problems else full
            next_ = max(next_ + interval, loop.time() + full / 10)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_):
                    await self._signals.mounted.wait()

    async def look(self) -> capability.Verdict:
        """Probe once; changes of the verdict are logged."""
        # Side by side: where both are silent, the label goes as soon as where one is.
        store, rest = await tasks.together(self._store_findings(), self._containerd_findings())
        findings = [*store, *rest]
        findings.append(_kernel_finding())
        findings.append(capability.Finding(_Check.SWITCH, self._settings.switched_off))
        patience = self._settings.patience
        last, judged = self.verdict, capability.judge(self.verdict, findings, patience)
        remark = _set_up_problem()
        if not self._settings.native_folder:
            # containerd's own snapshotter is never asked by a pull for what the agent has linked.
            remark = remark or _names_problem(self.root)
        local = await self._store.local_images(self.root)
        self.verdict = dataclasses.replace(
            judged,
            twins=self._twins,
            maps_ids=self._maps_ids,
            # containerd mounts none on its EROFS snapshotter:
            # https://github.com/containerd/containerd/issues/13534
            mounts_volumes=not self._settings.native_folder,
            remark=remark,
            local=local,
        )
        node_metrics.NODE_CAPABLE.set(self.verdict.capable)
        for check, gauge in _PROBLEMS.items():
            gauge.set(check in self.verdict.problems)
        _count_waiting()
        if self.verdict.capable is not last.capable or not self._looks:
            level = logging.INFO if self.verdict.capable else logging.WARNING
            logger.log(
                level,
                "this node serves images" if self.verdict.capable else "this node cannot serve",
                extra={"reason": self.verdict.sentence},
            )
        elif self.verdict.problems != last.problems:
            message = "a probe failed" if self.verdict.problems else "all probes succeed again"
            logger.info(message, extra={"reason": self.verdict.sentence})
        self._looks += 1
        if self.verdict.capable or self._looks >= patience.to_lose:
            self._node.judged(self.verdict)
        return self.verdict

    @property
    def obstacle(self) -> str:
        """What keeps pods of the uimgacc runtime handlers from starting here; "" if nothing does.

        A roll-out stops at it, before a broken snapshotter is on every node. The store does
        not count: pods start without it, and a new version may be the mend.
        """
        if not self._looks:
            return "nothing has been probed yet"
        problems = self.verdict.problems
        return "; ".join(problems[check] for check in _NEEDED if check in problems)

    async def _store_findings(self) -> list[capability.Finding]:
        started = time.perf_counter()
        problem = ""
        try:
            record = await self._store.store()
            if self._settings.native_folder:
                compressed = self._settings.native_compressed
                problem = native_node.problem_of_store(record, compressed=compressed)
        except errors.AgentError as error:
            problem = str(error)
        finally:
            self.store_seconds = time.perf_counter() - started
            node_metrics.STORE_PROBE.observe(self.store_seconds)
        node_metrics.STORE_HEALTHY.set(not problem)
        if problem:
            self._signals.silent.set()
        was_away, self._store_away = self._store_away, bool(problem)
        if was_away and not problem:
            self._pods.retry_now()
        return [capability.Finding(_Check.STORE, problem)]

    async def _containerd_findings(self) -> list[capability.Finding]:
        try:
            plugin = await self._client.plugin(keys.SNAPSHOTTER_PLUGINS, self._settings.snapshotter)
            handlers: Collection[str] = ()
            if self._settings.handlers_needed:
                handlers = await self._client.runtime_handlers()
                twins = frozenset(filter(runtimes.is_twin, handlers))
                self._twins = twins - {runtimes.DEFAULT_TWIN}
            maps_ids = plugin is not None and keys.REMAP_IDS in plugin.capabilities
            self._maps_ids = maps_ids and await self._client.maps_ids(self._handler)
        except errors.AgentError as error:
            return [capability.Finding(_Check.CONTAINERD, str(error))]
        if plugin is not None and not self._settings.native_folder:
            self.root = plugin.exports.get("root", "") or self.root
        findings = [self._plugin_finding(plugin)]
        if self._settings.native_folder:
            findings += await self._native_findings(plugin)
        if self._settings.handlers_needed and not any(map(runtimes.is_twin, handlers)):
            findings.append(
                capability.Finding(
                    _Check.HANDLER,
                    f"containerd has no runtime handler {runtimes.DEFAULT_TWIN}: "
                    "run `uimgacc node-setup` and restart containerd",
                )
            )
        if plugin is not None and (address := plugin.exports.get("address", "")):
            address = address.removeprefix("unix://")
            findings.append(await _snapshotter_finding(address, self._settings.snapshotter))
        return findings

    async def _native_findings(self, plugin: objects.Plugin | None) -> list[capability.Finding]:
        """Whether containerd's own snapshotter is set up, for misses as well."""
        try:
            differ = await self._client.plugin(keys.DIFFER_PLUGINS, keys.NATIVE_SNAPSHOTTER)
            own = ""
            if self._settings.handlers_needed:
                own = await self._client.handler_snapshotter(runtimes.DEFAULT_TWIN)
        except errors.AgentError as error:
            return [capability.Finding(_Check.CONTAINERD, str(error))]
        problem = native_node.problem_of_handler(own)
        if plugin is not None and not problem:
            # Before that, pods start on uimgacc's snapshotter, and no deletion is acknowledged.
            self.root = self._settings.native_folder
        return [
            capability.Finding(_Check.PLUGIN, native_node.problem_of_plugins(plugin, differ)),
            capability.Finding(_Check.HANDLER, problem),
        ]

    @property
    def _handler(self) -> str:
        """The runtime handler whose pods use the snapshotter; "" is the CRI's default one."""
        return runtimes.DEFAULT_TWIN if self._settings.handlers_needed else ""

    def _plugin_finding(self, plugin: objects.Plugin | None) -> capability.Finding:
        problem, name = "", self._settings.snapshotter
        if plugin is None:
            problem = (
                f"containerd has no snapshotter {name}: "
                "run `uimgacc node-setup` and restart containerd"
            )
        elif plugin.error:
            problem = f"containerd could not load snapshotter {name}: {plugin.error}"
        return capability.Finding(_Check.PLUGIN, problem)


async def _snapshotter_finding(address: str, name: str) -> capability.Finding:
    """Whether the snapshotter answers at its socket.

    A connection proves nothing: the kernel accepts it for a process that is stopped or stuck.
    """
    problem = ""
    try:
        await sockets.wait_snapshotter(address, name, deadline=_ANSWER_SECONDS)
    except sockets.SilentError:
        problem = (
            f"the snapshotter at {address} hangs: it does not answer within {_ANSWER_SECONDS:g} s. "
            "It is killed and started again after about a minute; if it is not, end its process: "
            "running containers do not need it"
        )
    except sockets.SocketError as error:
        problem = f"the snapshotter at {address} does not answer: {error.reason}"
    return capability.Finding(_Check.SNAPSHOTTER, problem)


def _kernel_finding() -> capability.Finding:
    """Whether the kernel has the file systems, or a module that it would load."""
    try:
        known = {line.split()[-1] for line in _text("/proc/filesystems").splitlines() if line}
    except OSError as error:
        return capability.Finding(_Check.KERNEL, f"/proc/filesystems: {error.strerror}")
    missing = [name for name in _FILE_SYSTEMS if name not in known and not _is_module(name)]
    problem = f"the kernel lacks {' and '.join(missing)}" if missing else kernel_support.problem()
    return capability.Finding(_Check.KERNEL, problem)


def _set_up_problem() -> str:
    """What node set-up, in a container of its own, wrote for the node's condition."""
    try:
        return _text(reports.SETUP_PROBLEM)
    except OSError:
        return ""


def _count_waiting() -> None:
    """Whether node set-up, in a container of its own, waits for something."""
    files = {"slot": reports.SETUP_WAITING, "return": reports.SETUP_NOT_BACK}
    for state, gauge in _SETUP_WAITING.items():
        gauge.set(os.path.exists(files[state]))  # noqa: PTH110 - a str


def _names_problem(root: str) -> str:
    """What it means that containerd may not say which image it pulls; see layer_requests."""
    if not root or os.path.exists(f"{root}/{layer_requests.IMAGE_REFS}"):  # noqa: PTH110 - a str
        return ""
    return "pulls that no cache matches get public layers only; `uimgacc doctor` says why"


def _is_module(name: str) -> bool:
    folder = f"/lib/modules/{os.uname().release}"
    for index in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            if f"/{name}.ko" in _text(f"{folder}/{index}"):
                return True
    return False


def _text(path: str) -> str:
    """The content of a file that the kernel has in memory: no thread is worth it."""
    return pathlib.Path(path).read_text()
