"""`uimgacc snapshotter`: the proxy snapshotter as a process of its own.

Ready when the socket accepts. SIGTERM ends it cleanly; nothing is ever unmounted
at the end, so running containers notice neither that nor a crash. Few imports: see
agent.cli.entry.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import pathlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import prometheus_client

from agent import errors
from agent.kits import addresses, flags, jsonlog
from agent.kits.aio import tasks
from agent.kits.processes import heartbeat, workers
from agent.local import copy_paths
from agent.metrics import registries, snapshotter_metrics
from agent.model import reports
from agent.mounts import layer_mounts, mountpoints, verification
from agent.mounts.devices import layer_labels, layer_mounting
from agent.settings import snapshotter_settings
from agent.snapshotter import (
    mapped_lowers,
    marked_layers,
    overlay_folders,
    service,
    snapshots,
    state_db,
    store_layers,
)
from agent.snapshotter.lookup import answers, copies_apart, layer_rules, near_lookup, store_lookup
from agent.store import layout, trusted_keys
from agent.store.lookup import layer_requests

logger = logging.getLogger(__name__)

_INDEX_PARAMETER = "/sys/module/overlay/parameters/index"


class RootInUseError(errors.TemporaryError):
    """Another snapshotter process works in the same root folder; `root` is it."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__(f"another snapshotter works in {root}; stop it first")
        self.root = root


def parse(arguments: Sequence[str]) -> snapshotter_settings.Snapshotter:
    """The settings, from flags and environment; the process ends where they are wrong."""
    return flags.read(
        snapshotter_settings.Snapshotter,
        arguments,
        program="uimgacc snapshotter",
        description="The proxy snapshotter: containerd asks it for every snapshot of its images.",
    )


@contextlib.contextmanager
def _locked(root: pathlib.Path, seconds: float) -> Iterator[None]:
    """Hold the root's lock; the kernel drops it with the process, however that ends."""
    with (root / "lock").open("w") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RootInUseError(root) from None
                time.sleep(0.1)
        yield


def _overlay_options() -> list[str]:
    """As containerd: hard links across layers need no index, and it forbids shared uppers."""
    return ["index=off"] if pathlib.Path(_INDEX_PARAMETER).exists() else []


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """What runs; `verified` is None where layers are not verified as they are read."""

    servicer: service.Service
    mounted: layer_mounts.LayerMounts
    served: snapshots.Snapshotter
    verified: verification.Verification | None


@contextlib.asynccontextmanager
async def _opened(wanted: snapshotter_settings.Snapshotter) -> AsyncIterator[_Parts]:
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            workers.Pool("agent.snapshotter.lookup.store_worker", name="the snapshotter", size=4)
        )
        database = state_db.Database(wanted.root / "uimgacc.db")
        stack.callback(database.close)
        layer_folder = wanted.root / "layers"
        layer_folder.mkdir(mode=0o700, exist_ok=True)
        verified = None
        if wanted.verify == "always":
            verified = verification.Verification(layer_folder, pool, deadline=wanted.mount_seconds)
            await verified.prepare()
        label = await _label(wanted)
        mounted = layer_mounts.LayerMounts(
            layer_folder,
            pool if wanted.local == "off" else await _apart(pool, stack),
            deadline=wanted.mount_seconds,
            store=wanted.store,
            manner=layer_mounts.Manner(way=_way(wanted), label=label, verify=verified is not None),
        )
        mounted.adopt()
        await mounted.identify()
        snapshotter_metrics.MOUNTS.set_function(lambda: len(mounted))
        # Also without a store: it makes the key by which the agent proves who it is.
        requesters = layer_requests.Requesters(wanted.root)
        store = None
        if wanted.store is not None:
            store = store_layers.Store(_lookup(wanted, pool, verified, label), requesters)
        served = snapshots.Snapshotter(
            database=database,
            places=overlay_folders.Folders(wanted.root),
            mounted=mounted,
            store=store,
            mapped=mapped_lowers.MappedLowers(
                str(wanted.root), pool, deadline=wanted.mount_seconds
            ),
            options=_overlay_options(),
        )
        stack.callback(served.close)
        yield _Parts(service.Service(served, database), mounted, served, verified)


async def _apart(pool: workers.Pool, stack: contextlib.AsyncExitStack) -> copies_apart.CopiesApart:
    """The pool, and another one for mounts of copies, of which no worker stays without work."""
    own = workers.Pool(
        "agent.snapshotter.lookup.store_worker", name="the local copies", size=4, kept=0
    )
    return copies_apart.CopiesApart(pool, await stack.enter_async_context(own))


def _way(wanted: snapshotter_settings.Snapshotter) -> str:
    """How layers are mounted."""
    if wanted.local == "off":
        return layer_mounting.STORED
    return layer_mounting.LOOP if wanted.local_mounts == "loop" else layer_mounting.FILE


async def _label(wanted: snapshotter_settings.Snapshotter) -> str:
    """The SELinux label of layers; "" where SELinux is not active, or takes none."""
    if not layer_labels.is_active():
        return ""
    name = "agent.mounts.devices.layer_labels"
    async with workers.Pool(name, name="SELinux", size=1) as pool:
        try:
            state = layer_labels.State(
                *await pool.call("state", wanted.selinux_context, deadline=wanted.mount_seconds)
            )
        except (OSError, errors.AgentError) as error:
            state = layer_labels.State(problem=str(error))
    if state.problem:
        logger.warning(
            "layers are mounted without an SELinux label", extra={"reason": state.problem}
        )
    else:
        logger.info("SELinux", extra={"mode": state.mode, "label": state.label})
    return state.label


def _lookup(
    wanted: snapshotter_settings.Snapshotter,
    pool: workers.Pool,
    verified: verification.Verification | None,
    label: str,
) -> answers.Lookup:
    """What finds layers: in the store, and before that in this node's own folder."""
    conditions = layer_rules.Conditions(
        layer_rules.Announcement(wanted.root / reports.ANNOUNCED, required=wanted.announced_only),
        verified,
        trusted_keys.Keys(wanted.trusted_keys, wanted.unsigned),
    )
    assert wanted.store is not None
    store = store_lookup.StoreLookup(
        layout.Layout(wanted.store),
        pool,
        conditions,
        mounts=layer_mounting.Place(f"{wanted.root}/layers", _way(wanted), label),
        deadline=wanted.lookup_seconds,
    )
    if wanted.local == "off":
        return store
    return near_lookup.NearLookup(
        *(wanted.root / mountpoints.COPIES, store, conditions),
        refuses_marked=wanted.verify != "off",
    )


def _serve_metrics(address: str) -> None:
    """Serve /metrics in a thread. Pulls do not depend on it: a taken port is logged."""
    host, port = addresses.split(address)
    try:
        prometheus_client.start_http_server(port, host, registry=registries.SNAPSHOTTER)
    except OSError as error:
        logger.warning("no metrics", extra={"address": address, "reason": str(error)})


async def run(wanted: snapshotter_settings.Snapshotter) -> None:
    """Serve until SIGTERM. Raises what the services raised, as an ExceptionGroup."""
    if wanted.metrics_address:
        _serve_metrics(wanted.metrics_address)
    async with tasks.stop_on_signals() as stop, _opened(wanted) as parts:
        served = parts.served
        services = {
            "grpc": service.serve(parts.servicer, str(wanted.address), grace=wanted.grace_seconds),
            "database": parts.servicer.database.wait_failed(),
            # What a crash left is removed after the start: containers wait for this process.
            "cleaning": served.keep_tidy(wanted.tidy_seconds),
            "damage": served.keep_checking(wanted.damage_seconds),
            "stock": served.stock.run(),
        }
        if _way(wanted) == layer_mounting.LOOP:
            services["loop devices"] = parts.mounted.keep_devices()
        if parts.verified is not None:
            services["verification"] = parts.verified.watch(wanted.verify_seconds, served.give_up)
        if wanted.verify != "off" and wanted.local != "off":
            marked = marked_layers.MarkedLayers(copy_paths.of(str(wanted.root)), served.give_up)
            services["marks"] = marked.run(wanted.verify_seconds)
        if wanted.hang_seconds:
            services["heart"] = heartbeat.run(wanted.hang_seconds)
        await tasks.run_services(services, stop)


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = parse(arguments)
    status = 0
    with jsonlog.to_stderr():
        try:
            wanted.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted.address.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            with _locked(wanted.root, wanted.lock_seconds):
                wanted.address.unlink(missing_ok=True)
                asyncio.run(run(wanted))
        except* (errors.AgentError, OSError, sqlite3.Error) as group:
            # Foreseen: a message for people, not a traceback.
            logger.error("ended", extra={"reason": "; ".join(map(str, group.exceptions))})  # noqa: TRY400
            status = 1
    return status
