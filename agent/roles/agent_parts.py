"""The parts of the node agent, built in order: each from parts that were built before it.

What several services share is built first: the pods of the node (ServedPods), the signals
between the store's mount and the prober, and the event that images have changed.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import os
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from typing import Any

from agent.clients.containerd import rpc
from agent.kits.processes import workers
from agent.model import images, keys, pods, times
from agent.mounts import mountinfo, nfs
from agent.node.health import announcement, probe, store_mount
from agent.node.images import (
    containerd_images,
    containerd_watch,
    image_removal,
    inventory,
    pinned_images,
    provide,
    register,
    repair,
    retirement,
)
from agent.node.native import native_chains
from agent.node.near import copies, probed_store, read_meter, warm_images
from agent.node.pods import build_progress, decide, pod_worker, prepare, served_pods, volume_images
from agent.node.report import pod_events, savings, savings_note, status
from agent.roles import agent_environment, agent_near
from agent.settings import agent_settings
from agent.store import layout, trusted_keys
from agent.store.lookup import catalog

_WORKERS = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the services of the agent are built from."""

    wanted: agent_settings.Agent
    platform: images.Platform
    store: catalog.Catalog
    mount: store_mount.Mounting | store_mount.Impossible | None
    containerd: containerd_images.ContainerdImages
    environment: agent_environment.Environment
    served: served_pods.ServedPods
    registrar: register.Registrar
    healer: repair.Healer
    ledger: savings.Ledger
    prober: probe.Prober
    away: agent_near.Away
    images_changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def root(self) -> str:
        """See retirement.Node, announcement.Node."""
        return self.prober.root

    @property
    def cluster(self) -> str | None:
        """See announcement.Node."""
        return self.environment.membership.cluster

    @property
    def labels(self) -> Mapping[str, str]:
        """See warm_images.Node."""
        return self.environment.node.labels

    @property
    def serves(self) -> bool:
        """See warm_images.Node."""
        return self.prober.verdict.capable

    @property
    def is_busy(self) -> bool:
        """See warm_images.Node."""
        return self.served.is_waiting

    def foreign_images(self) -> Collection[str]:
        """See warm_images.Node."""
        return self.served.foreign_images()

    async def wait_known(self) -> None:
        """See warm_images.Node."""
        await self.environment.node.wait_known()

    async def process(self) -> int:
        """See start_watch.Node."""
        return (await self.containerd.client.process()).pid

    def on_node(self) -> Sequence[pods.Pod] | None:
        """See retirement.Node."""
        return self.served.on_node() if self.environment.source.synced else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What runs, and what /status shows of it."""

    shared: Shared
    watcher: containerd_watch.Watcher
    worker: pod_worker.Worker
    retirer: retirement.Retirer
    images: image_removal.Drainer | pinned_images.PinnedImages
    announcement: announcement.Announcement
    keeper: copies.Keeper | None
    warm: warm_images.WarmImages | None
    ahead: agent_near.Ahead | None
    started: datetime.datetime = dataclasses.field(
        default_factory=lambda: times.now().replace(microsecond=0)
    )

    def services(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """For run_services."""
        shared = self.shared
        mount = {} if shared.mount is None else {"mount": shared.mount.run()}
        return mount | {
            "pods": self.worker.run(),
            "retired": self.retirer.run(),
            "containerd": self.watcher.run(),
            "canary": self.watcher.run_canary(),
            "pulls": self.watcher.run_pulls(),
            "probe": shared.prober.run(warm=_WORKERS),
            "announcement": self.announcement.run(),
            "progress of builds": build_progress.BuildProgress(
                shared.served, shared.store, shared.environment.events
            ).run(),
            "images": self.images.run(),
            **self._unregistering(),
            **({"copies": self.keeper.run()} if self.keeper else {}),
            **({"warm": self.warm.run()} if self.warm else {}),
            **shared.away.services(),
            **(self.ahead.services() if self.ahead else {}),
            "reads": self._meter().run(),
            "account": savings_note.Accountant(shared.ledger, shared.environment.notes).run(),
            **shared.environment.services(),
        }

    def _meter(self) -> read_meter.ReadMeter:
        mount = self.shared.mount
        return read_meter.ReadMeter(
            self.shared.wanted.store, self.keeper, source=mount.source if mount else ""
        )

    def _unregistering(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        wanted = self.shared.wanted
        if wanted.register_private or wanted.drain:
            return {}
        removal = image_removal.Unregistrar(self.shared.containerd, self.shared.store)
        return {"private": removal.run()}

    def missing(self) -> str:
        """Why the agent is not ready; "" once it is."""
        source = self.shared.environment.source
        if not source.synced:
            reasons = "; ".join(source.problems.values())
            return f"the pods have not been read yet{reasons and ': '}{reasons}"
        if unwritten := self.shared.environment.node.unwritten:
            return f"the node object is not written yet: {unwritten}"
        if not self.watcher.state.connected:
            return f"containerd: {self.watcher.state.problem or 'not connected yet'}"
        return self.shared.prober.obstacle or self.announcement.missing

    def describe(self) -> status.Status:
        """The content of /status and of the page for people."""
        shared, table = self.shared, mountinfo.read()
        # A cluster may have another name for the machine than the machine itself.
        name = shared.wanted.kubernetes or os.uname().nodename
        source = shared.mount.source if shared.mount else ""
        return status.Status(
            node=status.node_of(shared.prober.verdict, name=name, started=self.started),
            containerd=dataclasses.replace(self.watcher.state),
            store=status.store_of(shared.wanted.store, shared.prober, table, source=source),
            mounts=status.mounts_of(shared.prober.root, table),
            pods=status.pods_of(shared.served.current),
            ended_pods=status.ended_of(shared.served.ended),
            manifest_problems=dict(shared.environment.source.problems),
            savings=status.savings_of(shared.ledger),
            deletions=dataclasses.replace(self.retirer.state),
            warm=dataclasses.replace(self.warm.state) if self.warm else warm_images.State(),
            local=dataclasses.replace(self.keeper.state)
            if self.keeper
            else copies.State(sentence=copies.NONE_WANTED),
        )


@contextlib.asynccontextmanager
async def opened(wanted: agent_settings.Agent) -> AsyncIterator[Parts]:
    """Build everything; leaving closes it in reverse."""
    if wanted.native:
        # These need the mounts of uimgacc's snapshotter.
        wanted = dataclasses.replace(wanted, local="off", start_profiles="off")
    async with contextlib.AsyncExitStack() as stack:
        shared = await _shared(wanted, stack)
        warm = None if wanted.drain else _warm(shared)
        ahead = await agent_near.ahead(
            wanted, shared.store, shared, shared.environment.starts, stack
        )
        yield Parts(
            shared=shared,
            watcher=containerd_watch.Watcher(
                shared.containerd,
                shared.healer,
                shared.ledger,
                shared.served,
                shared.images_changed,
                containerd_watch.Settings(
                    folder=wanted.state, canary_seconds=wanted.canary_seconds
                ),
            ),
            worker=_worker(shared, ahead),
            retirer=retirement.Retirer(
                shared.store,
                shared.containerd,
                shared.environment.node,
                shared,
                interval=wanted.retired_seconds,
            ),
            images=image_removal.Drainer(shared.containerd)
            if wanted.drain
            else pinned_images.PinnedImages(
                shared.containerd, shared.images_changed, default=wanted.default_snapshotter
            ),
            announcement=announcement.Announcement(
                shared.environment.node, shared, leaving=wanted.drain
            ),
            keeper=await agent_near.keeper(
                *(wanted, shared, shared.store, shared.served),
                wishes=[warm] if warm else [],
                stack=stack,
            ),
            warm=warm,
            ahead=ahead,
        )


async def _shared(wanted: agent_settings.Agent, stack: contextlib.AsyncExitStack) -> Shared:
    signals = store_mount.Signals()
    mount = await mounting(wanted, signals, stack)
    served = served_pods.ServedPods()
    environment = await _environment(wanted, served, stack)
    trust = (trusted_keys.Keys(wanted.trusted_keys, wanted.unsigned), environment.membership)
    store = await _store(wanted, mount, trust, stack)
    client = await stack.enter_async_context(
        rpc.Client(wanted.containerd, deadline=wanted.containerd_seconds)
    )
    platform = images.platform_of_machine(os.uname().machine)
    containerd = (
        native_chains.of(client, inventory.Inventory(client, platform), store, wanted.native_folder)
        if wanted.native
        else containerd_images.of(client, platform, snapshotter=wanted.snapshotter_name)
    )
    prober = probe.Prober(
        probed_store.ProbedStore(store, has_copies=wanted.local != "off"),
        client,
        environment.node,
        served,
        signals,
        _probe_settings(wanted),
    )
    away = agent_near.away(wanted, store, prober, platform, trust)
    return Shared(
        wanted=wanted,
        platform=platform,
        store=store,
        mount=mount,
        containerd=containerd,
        environment=environment,
        served=served,
        registrar=register.Registrar(containerd, away.blobs, damage=store.damage),
        healer=repair.Healer(containerd),
        ledger=savings.Ledger(containerd, folder=wanted.state),
        prober=prober,
        away=away,
    )


def _worker(shared: Shared, ahead: agent_near.Ahead | None) -> pod_worker.Worker:
    environment = shared.environment
    node = decide.Node(
        platform=shared.platform,
        every_runtime=shared.wanted.default_snapshotter,
        mounts_volumes=not shared.wanted.native,
    )
    clearer = image_removal.Clearer(shared.containerd)
    off = prepare.SwitchedOff(node, clearer) if shared.wanted.drain else None
    return pod_worker.Worker(
        environment.source,
        off or _preparer(shared, node, clearer, ahead),
        pod_events.Once(environment.events),
        shared.served,
        environment.node,
        pod_worker.Limits(parallel=shared.wanted.parallel),
    )


def _preparer(
    shared: Shared,
    node: decide.Node,
    clearer: image_removal.Clearer,
    ahead: agent_near.Ahead | None,
) -> prepare.Preparer:
    return prepare.Preparer(
        decide.Decider(shared.store, node, shared.away.records),
        prepare.Supply(
            provider=provide.Provider(
                shared.registrar,
                shared.healer,
                shared.away.noting(shared.ledger),
                platform=shared.platform,
                snapshotter=shared.containerd.snapshotter,
            ),
            volumes=volume_images.VolumeImages(shared.containerd),
            register_private=shared.wanted.register_private,
        ),
        clearer,
        shared.environment.creator,
        starts=ahead.expected if ahead else None,
    )


def _warm(shared: Shared) -> warm_images.WarmImages:
    provider = provide.Provider(
        shared.registrar,
        shared.healer,
        shared.away.noting(savings.WarmLedger(shared.ledger)),
        platform=shared.platform,
        snapshotter=shared.containerd.snapshotter,
        # No pod is left to the ordinary pull by it: the state of warm images says what failed.
        note_failure=lambda _: None,
    )
    wanted = shared.wanted
    return warm_images.WarmImages(
        shared.store,
        provider,
        shared,
        warm_images.Settings(
            named=wanted.warm_images,
            register_private=wanted.register_private,
            spread=wanted.warm_spread,
        ),
    )


def _probe_settings(wanted: agent_settings.Agent) -> probe.Settings:
    return probe.Settings(
        snapshotter=keys.NATIVE_SNAPSHOTTER if wanted.native else wanted.snapshotter_name,
        interval=wanted.probe_seconds,
        handlers_needed=not wanted.default_snapshotter,
        native_folder=str(wanted.native_folder) if wanted.native else "",
        native_compressed=wanted.native_compressed,
        switched_off=prepare.SWITCHED_OFF if wanted.drain else "",
    )


async def _store(
    wanted: agent_settings.Agent,
    mount: store_mount.Mounting | store_mount.Impossible | None,
    trust: tuple[trusted_keys.Keys, catalog.Membership],
    stack: contextlib.AsyncExitStack,
) -> catalog.Catalog:
    """The store's records, read by workers that can be killed."""
    pool = await stack.enter_async_context(
        workers.Pool("agent.store.lookup.file_reads", name="the agent", size=_WORKERS)
    )
    gate = pool if mount is None else store_mount.Gate(pool, mount)
    return catalog.Catalog(
        layout.Layout(wanted.store),
        gate,
        deadline=wanted.store_seconds,
        keys=trust[0],
        membership=trust[1],
    )


async def mounting(
    wanted: agent_settings.Agent, signals: store_mount.Signals, stack: contextlib.AsyncExitStack
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
    return store_mount.Mounting(
        aim, pool, signals, deadline=wanted.nfs_seconds, read_ahead=wanted.read_ahead_kb
    )


async def _environment(
    wanted: agent_settings.Agent, served: served_pods.ServedPods, stack: contextlib.AsyncExitStack
) -> agent_environment.Environment:
    """A cluster's environment where the settings name a node of one, else that of a folder."""
    if wanted.kubernetes:
        from agent.roles import agent_cluster  # noqa: PLC0415 - 39 MB: see the module

        return await stack.enter_async_context(agent_cluster.opened(wanted, served))
    if not wanted.pods:
        raise ValueError("neither a node of Kubernetes nor a folder of pods")
    return agent_environment.without_cluster(wanted.pods)
