"""`uimgacc agent`: the node agent as a process of its own.

It may be killed at any time: what it has registered stays, running containers do
not depend on it, and unfinished work is done after the next start. Nothing is
unmounted when it ends.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import aiohttp.web

from agent import errors, settings
from agent.clients.containerd import rpc
from agent.kits import jsonlog
from agent.kits.aio import tasks
from agent.kits.processes import stop_deadline, workers
from agent.kits.web import listener
from agent.model import images, pods, times
from agent.mounts import host_copies, mountinfo, nfs
from agent.node.health import probe, store_mount
from agent.node.images import (
    containerd_images,
    containerd_watch,
    image_removal,
    pinned_images,
    provide,
    register,
    repair,
    retirement,
)
from agent.node.pods import decide, pod_source, pod_worker, prepare, served_pods
from agent.node.report import pod_events, savings, savings_note, status, status_http
from agent.roles import agent_environment, agent_flags
from agent.store import layout
from agent.store.lookup import catalog

logger = logging.getLogger(__name__)

_WORKERS = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What runs, and what /status shows of it."""

    prober: probe.Prober
    watcher: containerd_watch.Watcher
    worker: pod_worker.Worker
    served: served_pods.ServedPods
    ledger: savings.Ledger
    pinned: pinned_images.PinnedImages
    retirer: retirement.Retirer
    environment: agent_environment.Environment
    store: pathlib.Path
    mount: store_mount.Mounting | store_mount.Impossible | None
    name: str
    drainer: image_removal.Drainer | None
    started: datetime.datetime = dataclasses.field(
        default_factory=lambda: times.now().replace(microsecond=0)
    )

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """For run_services."""
        mount = {} if self.mount is None else {"mount": self.mount.run()}
        return mount | {
            "pods": self.worker.run(),
            "retired": self.retirer.run(),
            "containerd": self.watcher.run(),
            "canary": self.watcher.run_canary(),
            "pulls": self.watcher.run_pulls(),
            "probe": self.prober.run(warm=_WORKERS),
            "pinned": self.pinned.run() if self.drainer is None else self.drainer.run(),
            "account": savings_note.Accountant(self.ledger, self.environment.node).run(),
            **self.environment.services(),
        }

    def missing(self) -> str:
        """Why the agent is not ready; "" once it is."""
        source = self.environment.source
        if not source.synced:
            reasons = "; ".join(source.problems.values())
            return f"the pods have not been read yet{reasons and ': '}{reasons}"
        if unwritten := self.environment.node.unwritten:
            return f"the node object is not written yet: {unwritten}"
        if not self.watcher.state.connected:
            return f"containerd: {self.watcher.state.problem or 'not connected yet'}"
        return self.prober.obstacle

    def describe(self) -> status.Status:
        """The content of /status and of the page for people."""
        table = mountinfo.read()
        return status.Status(
            node=status.node_of(self.prober.verdict, name=self.name, started=self.started),
            containerd=dataclasses.replace(self.watcher.state),
            store=status.store_of(
                self.store, self.prober, table, source=self.mount.source if self.mount else ""
            ),
            mounts=status.mounts_of(self.prober.root, table),
            pods=status.pods_of(self.served.current),
            ended_pods=status.ended_of(self.served.ended),
            manifest_problems=dict(self.environment.source.problems),
            savings=status.savings_of(self.ledger),
            deletions=dataclasses.replace(self.retirer.state),
        )


@contextlib.asynccontextmanager
async def _opened(wanted: settings.Agent) -> AsyncIterator[_Parts]:
    """Build everything; leaving closes it in reverse. Each part is built from earlier ones."""
    async with contextlib.AsyncExitStack() as stack:
        signals = store_mount.Signals()
        mount = await _mounting(wanted, signals, stack)
        store = await _store(wanted, mount, stack)
        client = await stack.enter_async_context(
            rpc.Client(wanted.containerd, deadline=wanted.containerd_seconds)
        )
        platform = images.platform_of_machine(os.uname().machine)
        containerd = containerd_images.of(client, platform, snapshotter=wanted.snapshotter_name)
        ledger = savings.Ledger(containerd, folder=wanted.state)
        healer = repair.Healer(containerd)
        served = served_pods.ServedPods()
        environment = await stack.enter_async_context(agent_environment.opened(wanted, served))
        prober = probe.Prober(
            store, client, environment.node, served, signals, _probe_settings(wanted)
        )
        images_changed = asyncio.Event()
        yield _Parts(
            prober=prober,
            watcher=containerd_watch.Watcher(
                containerd,
                healer,
                ledger,
                served,
                images_changed,
                containerd_watch.Settings(
                    folder=wanted.state, canary_seconds=wanted.canary_seconds
                ),
            ),
            worker=pod_worker.Worker(
                environment.source,
                _preparer(wanted, store, containerd, healer, ledger, environment.creator),
                pod_events.Once(environment.events),
                served,
                environment.node,
                pod_worker.Limits(parallel=wanted.parallel),
            ),
            served=served,
            ledger=ledger,
            pinned=pinned_images.PinnedImages(
                containerd, images_changed, default=wanted.default_snapshotter
            ),
            retirer=retirement.Retirer(
                store,
                containerd,
                environment.node,
                _Node(prober, environment.source, served),
                interval=wanted.retired_seconds,
            ),
            environment=environment,
            store=wanted.store,
            mount=mount,
            # A cluster may have another name for the machine than the machine itself.
            name=wanted.kubernetes or os.uname().nodename,
            drainer=image_removal.Drainer(containerd) if wanted.drain else None,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Node:
    """The node as retirement sees it."""

    prober: probe.Prober
    source: pod_source.PodSource
    served: served_pods.ServedPods

    @property
    def root(self) -> str:
        """The snapshotter's root folder, "" before that is known."""
        return self.prober.root

    def on_node(self) -> Sequence[pods.Pod] | None:
        """The pods of this node, None before they are known."""
        return self.served.on_node() if self.source.synced else None


def _probe_settings(wanted: settings.Agent) -> probe.Settings:
    return probe.Settings(
        snapshotter=wanted.snapshotter_name,
        interval=wanted.probe_seconds,
        handlers_needed=not wanted.default_snapshotter,
        switched_off=prepare.SWITCHED_OFF if wanted.drain else "",
    )


def _preparer(
    wanted: settings.Agent,
    store: catalog.Catalog,
    containerd: containerd_images.ContainerdImages,
    healer: repair.Healer,
    ledger: savings.Ledger,
    creator: prepare.CacheCreator,
) -> pod_worker.Preparer:
    """What serves a pod."""
    if wanted.drain:
        return prepare.SwitchedOff()
    platform = images.platform_of_machine(os.uname().machine)
    return prepare.Preparer(
        decide.Decider(
            store, decide.Node(platform=platform, every_runtime=wanted.default_snapshotter)
        ),
        provide.Provider(
            register.Registrar(containerd, store),
            healer,
            ledger,
            platform=platform,
            snapshotter=containerd.snapshotter,
        ),
        image_removal.Clearer(containerd),
        creator,
    )


async def _store(
    wanted: settings.Agent,
    mount: store_mount.Mounting | store_mount.Impossible | None,
    stack: contextlib.AsyncExitStack,
) -> catalog.Catalog:
    """The store's records, read by workers that can be killed."""
    pool = await stack.enter_async_context(
        workers.Pool("agent.store.lookup.file_reads", name="the agent", size=_WORKERS)
    )
    gate = pool if mount is None else store_mount.Gate(pool, mount)
    return catalog.Catalog(layout.Layout(wanted.store), gate, deadline=wanted.store_seconds)


async def _mounting(
    wanted: settings.Agent, signals: store_mount.Signals, stack: contextlib.AsyncExitStack
) -> store_mount.Mounting | store_mount.Impossible | None:
    """What mounts the store, with a pool of its own: look-ups do not wait for a mount."""
    if not wanted.nfs:
        return None
    # The mount table names folders as they are without links.
    place = wanted.store.parent.resolve() / wanted.store.name
    try:
        aim = nfs.wanted(wanted.nfs, wanted.nfs_options, place)
    except nfs.Unusable as error:
        flag = error.setting.replace("_", "-")
        return store_mount.Impossible(
            wanted.nfs, f"UIMGACC_{error.setting.upper()} (--{flag}) is wrong: {error.reason}"
        )
    pool = workers.Pool("agent.mounts.nfs_worker", name="the mount of the store", size=1)
    await stack.enter_async_context(pool)
    return store_mount.Mounting(aim, pool, signals, deadline=wanted.nfs_seconds)


async def run(wanted: settings.Agent) -> None:
    """Serve until SIGTERM. Raises what the services raised, as an ExceptionGroup."""
    if wanted.state is not None:
        wanted.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with stop_deadline.Watchdog(wanted.stop_seconds) as watchdog:
        async with tasks.stop_on_signals() as stop, _opened(wanted) as parts:
            app = status_http.application(parts.describe, parts.missing)
            async with (
                _listening(app, wanted.listen),
                _listening(status_http.metrics_application(), wanted.metrics_address),
            ):
                services = {**parts.services(), "watchdog": watchdog.run(stop)}
                try:
                    await tasks.run_services(services, stop)
                finally:
                    watchdog.start()


@contextlib.asynccontextmanager
async def _listening(app: aiohttp.web.Application, address: str) -> AsyncIterator[None]:
    if not address:
        yield
        return
    async with listener.serving(app, address) as where:
        logger.info("listening", extra={"address": where})
        yield


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = agent_flags.parse(arguments)
    # The library's own log lines about connections are not JSON, and the agent logs the same.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    code = 0
    with jsonlog.to_stderr(logging.DEBUG if wanted.verbose else logging.INFO):
        try:
            if wanted.copied_mounts is not None:
                host_copies.detach_below(str(wanted.copied_mounts))
            asyncio.run(run(wanted))
        except* (errors.AgentError, OSError) as group:
            # Expected failures get a message for people, not a traceback.
            logger.error("ended", extra={"reason": "; ".join(map(str, group.exceptions))})  # noqa: TRY400
            code = 1
    return code
