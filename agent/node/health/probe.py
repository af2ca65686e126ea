"""Looking, every few seconds, whether everything that serving needs is there."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Callable, Collection
from typing import Protocol

from agent import errors, metrics
from agent.clients.containerd import rpc, sockets
from agent.kits.aio import tasks
from agent.matching import runtimes
from agent.model import keys, nodes, records
from agent.node.health import capability

logger = logging.getLogger(__name__)

_Check = capability.Check
_NEEDED = (_Check.PLUGIN, _Check.SNAPSHOTTER)
_FILE_SYSTEMS = ("erofs", "overlay")
_ANSWER_SECONDS = 2.0
"""For the snapshotter, which answers what it is asked here from memory within a millisecond."""
_PROBLEMS = {check: metrics.NODE_PROBLEM.labels(check.value) for check in _Check}


class Store(Protocol):
    """What of the store is asked: agent.store.lookup.catalog.Catalog."""

    async def store(self) -> records.StoreRecord:
        """What the folder is; AgentError when it is no store, or does not answer."""


class Prober:
    """Probes store, containerd, snapshotter and kernel, and keeps the verdict.

    `handlers_needed` is False where our snapshotter is containerd's default one,
    `switched_off` a sentence where this node is not to serve whatever is found.
    `on_store_back` is called when the store answers again after it did not,
    `on_store_problem` each time that it does not answer as it should. `on_verdict` is told
    each verdict, but not that a node cannot serve before it was found so often enough: a
    new agent would else take the label away for one late answer.
    """

    def __init__(
        self,
        store: Store,
        client: rpc.Client,
        *,
        snapshotter: str,
        interval: float,
        on_store_back: Callable[[], None] = lambda: None,
        on_store_problem: Callable[[], None] = lambda: None,
        on_verdict: Callable[[capability.Verdict], None] = lambda verdict: None,
        handlers_needed: bool = True,
        switched_off: str = "",
        patience: capability.Patience | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._snapshotter = snapshotter
        self._interval = interval
        self._handlers_needed = handlers_needed
        self._switched_off = switched_off
        self._patience = patience or capability.Patience()
        self.verdict = capability.Verdict()
        self._twins: frozenset[str] = frozenset()
        self.store_seconds: float | None = None
        """What the store took for its last answer, or until it was given up."""
        self.root = ""
        """The snapshotter's root folder as containerd knows it, "" before that is known."""
        self._on_store_back = on_store_back
        self._on_store_problem = on_store_problem
        self._on_verdict = on_verdict
        self._looks = 0
        self._store_away = False
        self._wakened = asyncio.Event()

    async def run(self, *, warm: int = 1) -> None:
        """Probe for ever. At first so many probes go to the store at once.

        They start its workers, so that the first pod does not wait for that.
        """
        loop = asyncio.get_running_loop()
        await tasks.together(*(self._store_findings() for _ in range(warm)))
        next_ = loop.time()
        while True:
            self._wakened.clear()
            await self.look()
            # A problem is looked at sooner: whether it lasts must be known before many pods come.
            # The label of a node whose store hangs goes within 15 s: 5 s until a look begins, and
            # three of 2 s (the store's deadline) with 0.5 s between them.
            interval = self._interval / 2 if self.verdict.problems else self._interval
            next_ = max(next_ + interval, loop.time() + self._interval / 10)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_):
                    await self._wakened.wait()

    def wake(self) -> None:
        """Look now: something has changed."""
        self._wakened.set()

    async def look(self) -> capability.Verdict:
        """Probe once; changes of the verdict are logged."""
        # Side by side: where both are silent, the label goes as soon as where one is.
        store, rest = await tasks.together(self._store_findings(), self._containerd_findings())
        findings = [*store, *rest]
        findings.append(await asyncio.get_running_loop().run_in_executor(None, _kernel_finding))
        findings.append(capability.Finding(_Check.SWITCH, self._switched_off))
        last, judged = self.verdict, capability.judge(self.verdict, findings, self._patience)
        remark = await asyncio.get_running_loop().run_in_executor(None, _set_up_problem)
        self.verdict = dataclasses.replace(judged, twins=self._twins, remark=remark)
        metrics.NODE_CAPABLE.set(self.verdict.capable)
        for check, gauge in _PROBLEMS.items():
            gauge.set(check in self.verdict.problems)
        if self.verdict.capable is not last.capable or not self._looks:
            level = logging.INFO if self.verdict.capable else logging.WARNING
            logger.log(
                level,
                "this node serves images" if self.verdict.capable else "this node cannot serve",
                extra={"reason": self.verdict.sentence},
            )
        elif self.verdict.problems != last.problems:
            found = "a probe has found a problem" if self.verdict.problems else "all is well again"
            logger.info(found, extra={"reason": self.verdict.sentence})
        self._looks += 1
        if self.verdict.capable or self._looks >= self._patience.to_lose:
            self._on_verdict(self.verdict)
        return self.verdict

    @property
    def obstacle(self) -> str:
        """What keeps pods of our runtime handlers from starting here, "" where nothing is known.

        A roll-out of ours stops at it, before a broken snapshotter is on every node. The store
        is no part of it: pods start without, and a new version may be what brings it back.
        """
        if not self._looks:
            return "nothing has been looked at yet"
        problems = self.verdict.problems
        return "; ".join(problems[check] for check in _NEEDED if check in problems)

    async def _store_findings(self) -> list[capability.Finding]:
        started = time.perf_counter()
        problem = ""
        try:
            await self._store.store()
        except errors.AgentError as error:
            problem = str(error)
        finally:
            self.store_seconds = time.perf_counter() - started
            metrics.STORE_PROBE.observe(self.store_seconds)
        metrics.STORE_HEALTHY.set(not problem)
        if problem:
            self._on_store_problem()
        was_away, self._store_away = self._store_away, bool(problem)
        if was_away and not problem:
            self._on_store_back()
        return [capability.Finding(_Check.STORE, problem)]

    async def _containerd_findings(self) -> list[capability.Finding]:
        try:
            plugin = await self._client.plugin(keys.SNAPSHOTTER_PLUGINS, self._snapshotter)
            handlers: Collection[str] = ()
            if self._handlers_needed:
                handlers = await self._client.runtime_handlers()
                ours = frozenset(filter(runtimes.is_ours, handlers))
                self._twins = ours - {runtimes.DEFAULT_TWIN}
        except errors.AgentError as error:
            return [capability.Finding(_Check.CONTAINERD, str(error))]
        self.root = plugin.exports.get("root", self.root) if plugin is not None else self.root
        findings = [self._plugin_finding(plugin)]
        if self._handlers_needed and not any(map(runtimes.is_ours, handlers)):
            findings.append(
                capability.Finding(
                    _Check.HANDLER,
                    f"containerd has no runtime handler {runtimes.DEFAULT_TWIN}: "
                    "run `uimgacc node-setup` and restart containerd",
                )
            )
        if plugin is not None and (address := plugin.exports.get("address", "")):
            address = address.removeprefix("unix://")
            findings.append(await _snapshotter_finding(address, self._snapshotter))
        return findings

    def _plugin_finding(self, plugin: rpc.Plugin | None) -> capability.Finding:
        problem = ""
        if plugin is None:
            problem = (
                f"containerd has no snapshotter {self._snapshotter}: "
                "run `uimgacc node-setup` and restart containerd"
            )
        elif plugin.error:
            problem = f"containerd could not load snapshotter {self._snapshotter}: {plugin.error}"
        return capability.Finding(_Check.PLUGIN, problem)


async def _snapshotter_finding(address: str, name: str) -> capability.Finding:
    """Whether somebody answers where containerd expects the snapshotter; to accept is too little.

    The kernel accepts connections for a process that is stopped, or whose loop is stuck.
    """
    problem = ""
    try:
        await sockets.wait_snapshotter(address, name, deadline=_ANSWER_SECONDS)
    except sockets.SilentError:
        problem = (
            f"the snapshotter at {address} hangs: it does not answer within {_ANSWER_SECONDS:g} s. "
            "It is killed and started again after a minute or so; if it is not, end its process: "
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
    problem = f"the kernel lacks {' and '.join(missing)}" if missing else ""
    return capability.Finding(_Check.KERNEL, problem)


def _set_up_problem() -> str:
    """What node set-up, which stays in a container of its own, left for the node's condition."""
    try:
        return _text(nodes.SETUP_PROBLEM)
    except OSError:
        return ""


def _is_module(name: str) -> bool:
    folder = f"/lib/modules/{os.uname().release}"
    for index in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            if f"/{name}.ko" in _text(f"{folder}/{index}"):
                return True
    return False


def _text(path: str) -> str:
    return pathlib.Path(path).read_text()
