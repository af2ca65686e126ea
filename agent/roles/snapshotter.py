"""`uimgacc snapshotter`: the proxy snapshotter as a process of its own.

Ready when the socket accepts. SIGTERM ends it cleanly; nothing is ever unmounted
at the end, so running containers notice neither that nor a crash. Plain argparse
and few imports: see agent.cli.entry.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import os
import pathlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import prometheus_client

from agent import errors, metrics
from agent.kits import addresses, jsonlog
from agent.kits.aio import tasks
from agent.kits.processes import heartbeat, workers
from agent.mounts import layer_mounts
from agent.snapshotter import overlay_folders, service, snapshots, state_db, store_lookup
from agent.store import layout

logger = logging.getLogger(__name__)

_SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path; sockaddr_un has 108 with the zero at its end."""

_INDEX_PARAMETER = "/sys/module/overlay/parameters/index"


class RootInUseError(errors.TemporaryError):
    """Another snapshotter process works in the same root folder; `root` is it."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__(f"another snapshotter works in {root}; stop it first")
        self.root = root


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the process is told; seconds and paths."""

    root: pathlib.Path
    """Local folder for records, mounts and ordinary snapshots; containerd's `exports.root`."""
    address: str
    """Path of the Unix socket that containerd's `proxy_plugins` entry names."""
    store: pathlib.Path | None
    """The shared store; without one this is a plain overlayfs snapshotter."""
    metrics_address: str | None
    """host:port for Prometheus; None serves none."""
    lookup_seconds: float
    """How long the store may take to answer for one layer before the pull goes on without it."""
    mount_seconds: float
    """How long one mount may take."""
    hang_seconds: float
    """After which a process whose event loop stands still is killed, to be started again. Nothing
    that it does there takes longer than the local disk does for a few pages; 0: never."""
    lock_seconds: float = 20.0
    """How long to wait for a predecessor to end (an upgrade) before giving up."""
    tidy_seconds: float = 10.0
    """How often layers that had to stay mounted, but that no snapshot needs, are looked at."""
    grace_seconds: float = 5.0
    """How long calls may go on after SIGTERM."""


def parse(arguments: Sequence[str]) -> Settings:
    """Read flags and their environment variables (UIMGACC_STORE for --store, ...)."""
    parser = argparse.ArgumentParser(
        prog="uimgacc snapshotter", description="The proxy snapshotter that containerd talks to."
    )
    environment = os.environ.get
    parser.add_argument("--root", required="UIMGACC_ROOT" not in os.environ)
    parser.add_argument("--address", required="UIMGACC_ADDRESS" not in os.environ)
    parser.add_argument("--store", default=environment("UIMGACC_STORE"))
    parser.add_argument("--metrics-address", default=environment("UIMGACC_METRICS_ADDRESS"))
    parser.add_argument(
        "--lookup-seconds", type=float, default=float(environment("UIMGACC_LOOKUP_SECONDS", "2"))
    )
    parser.add_argument(
        "--mount-seconds", type=float, default=float(environment("UIMGACC_MOUNT_SECONDS", "10"))
    )
    parser.add_argument(
        "--hang-seconds", type=float, default=float(environment("UIMGACC_HANG_SECONDS", "60"))
    )
    found = parser.parse_args(arguments)
    address = str(pathlib.Path(found.address or os.environ["UIMGACC_ADDRESS"]).absolute())
    if len(os.fsencode(address)) > _SOCKET_LIMIT:
        parser.error(f"--address: a socket's path has at most {_SOCKET_LIMIT} bytes: {address}")
    return Settings(
        root=pathlib.Path(found.root or os.environ["UIMGACC_ROOT"]).absolute(),
        address=address,
        store=pathlib.Path(found.store).absolute() if found.store else None,
        metrics_address=found.metrics_address,
        lookup_seconds=found.lookup_seconds,
        mount_seconds=found.mount_seconds,
        hang_seconds=found.hang_seconds,
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


@contextlib.asynccontextmanager
async def _opened(
    settings: Settings,
) -> AsyncIterator[tuple[service.Service, snapshots.Snapshotter]]:
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            workers.Pool("agent.snapshotter.store_worker", name="the snapshotter", size=4)
        )
        database = state_db.Database(settings.root / "uimgacc.db")
        stack.callback(database.close)
        layer_folder = settings.root / "layers"
        layer_folder.mkdir(mode=0o700, exist_ok=True)
        mounted = layer_mounts.LayerMounts(
            layer_folder, pool, deadline=settings.mount_seconds, store=settings.store
        )
        mounted.adopt()
        metrics.MOUNTS.set_function(lambda: len(mounted))
        lookup = None
        if settings.store is not None:
            where = layout.Layout(settings.store)
            lookup = store_lookup.Lookup(
                where, pool, mounts=layer_folder, deadline=settings.lookup_seconds
            )
        served = snapshots.Snapshotter(
            database=database,
            places=overlay_folders.Folders(settings.root),
            mounted=mounted,
            lookup=lookup,
            options=_overlay_options(),
        )
        stack.callback(served.close)
        yield service.Service(served, database), served


def _serve_metrics(address: str) -> None:
    """Serve /metrics in a thread. Pulls do not depend on it: a taken port is logged."""
    host, port = addresses.split(address)
    try:
        prometheus_client.start_http_server(port, host, registry=metrics.SNAPSHOTTER)
    except OSError as error:
        logger.warning("no metrics", extra={"address": address, "reason": str(error)})


async def run(settings: Settings) -> None:
    """Serve until SIGTERM. Raises what the services raised, as an ExceptionGroup."""
    if settings.metrics_address:
        _serve_metrics(settings.metrics_address)
    async with tasks.stop_on_signals() as stop, _opened(settings) as (servicer, served):
        services = {
            "grpc": service.serve(servicer, settings.address, grace=settings.grace_seconds),
            "database": servicer.database.wait_failed(),
            # What a crash left is removed after the start, not before: containers wait for us.
            "cleaning": served.keep_tidy(settings.tidy_seconds),
            "stock": served.stock.run(),
        }
        if settings.hang_seconds:
            services["heart"] = heartbeat.run(settings.hang_seconds)
        await tasks.run_services(services, stop)


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    settings = parse(arguments)
    status = 0
    with jsonlog.to_stderr():
        try:
            settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            pathlib.Path(settings.address).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            with _locked(settings.root, settings.lock_seconds):
                pathlib.Path(settings.address).unlink(missing_ok=True)
                asyncio.run(run(settings))
        except* (errors.AgentError, OSError, sqlite3.Error) as group:
            # Foreseen: a message for people, not a traceback.
            logger.error("ended", extra={"reason": "; ".join(map(str, group.exceptions))})  # noqa: TRY400
            status = 1
    return status
