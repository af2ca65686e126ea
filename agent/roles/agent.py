"""`uimgacc agent`: the node agent as a process of its own.

It may be killed at any time: what it has registered stays, running containers do
not depend on it, and what was under way is done again after the next start.
Nothing is ever unmounted at the end.
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
from agent.model import images, times
from agent.mounts import host_copies, mountinfo, nfs
from agent.node.health import probe, store_mount
from agent.node.images import (
    containerd_watch,
    drain,
    evict,
    image_snapshots,
    inventory,
    pinned_images,
    register,
    repair,
    retirement,
)
from agent.node.pods import pod_worker, prepare
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
    follower: containerd_watch.Follower
    server: pod_worker.Server
    ledger: savings.Ledger
    pinned: pinned_images.PinnedImages
    retirer: retirement.Retirer
    around: agent_environment.Surroundings
    store: pathlib.Path
    mount: store_mount.Mounting | store_mount.Impossible | None
    name: str
    drainer: drain.Drainer | None = None
    started: datetime.datetime = dataclasses.field(
        default_factory=lambda: times.now().replace(microsecond=0)
    )

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """For run_services."""
        mount = {} if self.mount is None else {"mount": self.mount.run()}
        return mount | {
            "pods": self.server.run(),
            "retired": self.retirer.run(),
            "containerd": self.follower.run(),
            "canary": self.follower.run_canary(),
            "pulls": self.follower.run_pulls(),
            "probe": self.prober.run(warm=_WORKERS),
            "pinned": self.pinned.run() if self.drainer is None else self.drainer.run(),
            "account": savings_note.Accountant(lambda: self.ledger.totals, self.around.board).run(),
            **self.around.services(),
        }

    def missing(self) -> str:
        """What keeps the agent from being ready; "" where nothing does."""
        if not self.around.source.synced:
            reasons = "; ".join(self.around.source.problems.values())
            return f"the pods have not been read yet{reasons and ': '}{reasons}"
        if unknown := self.around.unknown():
            return f"the node object is not written yet: {unknown}"
        if not self.follower.state.connected:
            return f"containerd: {self.follower.state.problem or 'not connected yet'}"
        return self.prober.obstacle

    def describe(self) -> status.Status:
        """The content of /status and of the page for people."""
        table = mountinfo.read()
        return status.Status(
            node=status.node_of(self.prober.verdict, name=self.name, started=self.started),
            containerd=dataclasses.replace(self.follower.state),
            store=status.store_of(
                self.store, self.prober, table, source=self.mount.source if self.mount else ""
            ),
            mounts=status.mounts_of(self.prober.root, table),
            pods=status.pods_of(self.server.served),
            ended_pods=status.ended_of(self.server.ended),
            manifest_problems=dict(self.around.source.problems),
            savings=status.savings_of(self.ledger),
            deletions=dataclasses.replace(self.retirer.state),
        )


@contextlib.asynccontextmanager
async def _opened(wanted: settings.Agent) -> AsyncIterator[_Parts]:
    """Build everything; leaving closes it in reverse."""
    async with contextlib.AsyncExitStack() as stack:
        platform = images.platform_of_machine(os.uname().machine)
        pool = await stack.enter_async_context(
            workers.Pool("agent.store.lookup.file_reads", name="the agent", size=_WORKERS)
        )
        mount = await _mounting(wanted, stack)
        gate = pool if mount is None else store_mount.Gate(pool, mount)
        store = catalog.Catalog(layout.Layout(wanted.store), gate, deadline=wanted.store_seconds)
        client = await stack.enter_async_context(
            rpc.Client(wanted.containerd, deadline=wanted.containerd_seconds)
        )
        name = wanted.snapshotter_name
        stock = inventory.Inventory(client, platform)
        ledger = savings.Ledger(client, stock, snapshotter=name, folder=wanted.state)
        known = image_snapshots.Chains(client, snapshotter=name)
        registrar = register.Registrar(client, store, known)
        healer = repair.Healer(client, stock, known)

        def accelerated(key: str) -> bool:
            return server.accelerated(key)  # which is made below, over these surroundings

        around = await stack.enter_async_context(
            agent_environment.opened(wanted, accelerated=accelerated)
        )
        server = pod_worker.Server(
            around.source,
            drain.Idle()
            if wanted.drain
            else prepare.Premounter(
                store,
                registrar,
                healer,
                ledger,
                around.creator,
                evict.Clearer(client, stock, known),
                platform=platform,
                snapshotter=name,
                only_ours=not wanted.default_snapshotter,
            ),
            pod_events.Once(around.events),
            wait_known=around.wait_known,
            parallel=wanted.parallel,
        )
        retirer = retirement.Retirer(
            store,
            client,
            known,
            stock,
            around.board,
            root=lambda: prober.root,  # which is made below
            on_node=lambda: server.on_node() if around.source.synced else None,
            interval=wanted.retired_seconds,
        )
        pinned = pinned_images.PinnedImages(
            client, stock, snapshotter=name, default=wanted.default_snapshotter
        )
        follower = containerd_watch.Follower(
            client,
            healer,
            ledger,
            registrar,
            on_reset=server.serve_again,
            on_image=pinned.look_again,
            folder=wanted.state,
            canary_seconds=wanted.canary_seconds,
        )
        prober = probe.Prober(
            store,
            client,
            snapshotter=name,
            interval=wanted.probe_seconds,
            handlers_needed=not wanted.default_snapshotter,
            switched_off=drain.SWITCHED_OFF if wanted.drain else "",
            on_store_back=server.retry_now,
            on_store_problem=mount.wake if mount is not None else lambda: None,
            on_verdict=around.judged,
        )
        if mount is not None:
            mount.on_mounted = prober.wake
        yield _Parts(
            prober=prober,
            follower=follower,
            server=server,
            ledger=ledger,
            pinned=pinned,
            retirer=retirer,
            around=around,
            store=wanted.store,
            mount=mount,
            # A cluster may call the machine otherwise than it does itself.
            name=wanted.kubernetes or os.uname().nodename,
            drainer=_drainer(client, stock, known) if wanted.drain else None,
        )


def _drainer(
    client: rpc.Client, stock: inventory.Inventory, known: image_snapshots.Chains
) -> drain.Drainer:
    return drain.Drainer(client, stock, known, clock=times.now)


async def _mounting(
    wanted: settings.Agent, stack: contextlib.AsyncExitStack
) -> store_mount.Mounting | store_mount.Impossible | None:
    """What mounts the store, in a pool of its own: look-ups do not wait for a mount."""
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
    return store_mount.Mounting(aim, pool, deadline=wanted.nfs_seconds)


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
    # The library's own lines about connections are no JSON, and told by us anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    code = 0
    with jsonlog.to_stderr(logging.DEBUG if wanted.verbose else logging.INFO):
        try:
            if wanted.copied_mounts is not None:
                host_copies.detach_below(str(wanted.copied_mounts))
            asyncio.run(run(wanted))
        except* (errors.AgentError, OSError) as group:
            # Foreseen: a message for people, not a traceback.
            logger.error("ended", extra={"reason": "; ".join(map(str, group.exceptions))})  # noqa: TRY400
            code = 1
    return code
