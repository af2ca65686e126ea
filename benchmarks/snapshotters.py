"""The snapshotter alone: latency of its requests, start, memory, idle processor time.

Talks to the real command over its socket, with as many snapshots and layers as a
busy node has.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator

import grpc

from agent._proto.containerd import snapshots_pb2 as pb
from agent._proto.containerd import snapshots_pb2_grpc
from agent.kits import files
from agent.model import digests, records
from agent.store import layout
from benchmarks import processes

REF = "containerd.io/snapshot.ref"
LAYERS = 500
SNAPSHOTS = 2000


def make_store(root: pathlib.Path, number: int) -> list[str]:
    """A store with `number` layers of one small file each; their diff (and chain) IDs."""
    where = layout.Layout(root)
    files.write(where.store_record, records.encode(records.StoreRecord(format=1, id="bench")))
    return [_add_layer(where, f"{index}\n".encode()) for index in range(number)]


def _add_layer(where: layout.Layout, text: bytes) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    diff_id = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
    path = where.layer(diff_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mkfs.erofs", "--quiet", "--tar=f", "--aufs", path], input=buffer.getvalue(), check=True
    )
    record = records.LayerRecord(
        diff_id=diff_id,
        size=path.stat().st_size,
        tar_size=len(buffer.getvalue()),
        sha256=digests.sha256(path.read_bytes()),
        blobs=[],
        mkfs=records.Toolchain(version="bench", options=[]),
    )
    for place, value in (
        (where.layer_record(diff_id), record),
        (where.chain_record(diff_id), records.ChainRecord(diff_id=diff_id, parent=None)),
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(records.encode(value))
    return diff_id


@dataclasses.dataclass
class Running:
    """A snapshotter process that serves."""

    process: subprocess.Popen[bytes]
    socket: pathlib.Path
    root: pathlib.Path
    client: snapshots_pb2_grpc.SnapshotsStub
    start_seconds: float


@contextlib.contextmanager
def running(folder: pathlib.Path, store: pathlib.Path | None) -> Iterator[Running]:
    """Start the command; `start_seconds` is from fork to the first answer."""
    folder.mkdir(exist_ok=True)
    socket, root = folder / "s.sock", folder / "root"
    arguments = ["--root", root, "--address", socket]
    if store:
        arguments += ["--store", store]
    started = time.perf_counter()
    process = subprocess.Popen(
        [processes.COMMAND, "snapshotter", *map(str, arguments)], stderr=subprocess.DEVNULL
    )
    try:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 10),
            ("grpc.min_reconnect_backoff_ms", 10),
            ("grpc.max_reconnect_backoff_ms", 20),
        ]
        with grpc.insecure_channel(f"unix://{socket}", options) as channel:
            client = snapshots_pb2_grpc.SnapshotsStub(channel)
            request = pb.StatSnapshotRequest(key="none")
            while True:
                try:
                    client.Stat(request, wait_for_ready=True, timeout=60)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND:
                        break
                    raise
            yield Running(process, socket, root, client, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()


def serve_layer(client: snapshots_pb2_grpc.SnapshotsStub, chain_id: str) -> None:
    """Prepare with a reference: the layer must come from the store."""
    try:
        client.Prepare(pb.PrepareSnapshotRequest(key=f"x {chain_id}", labels={REF: chain_id}))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            return
        raise
    raise RuntimeError(f"{chain_id} was not served from the store")


def p99(call: Callable[[int], object], times: int) -> float:
    """The 99th percentile of the seconds that a call takes."""
    seconds = []
    for index in range(times):
        started = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    return seconds[int(len(seconds) * 0.99)]


def _list_by_ref(client: snapshots_pb2_grpc.SnapshotsStub, chain_id: str) -> int:
    text = f'labels."{REF}"=={chain_id},parent==""'
    pages = client.List(pb.ListSnapshotsRequest(filters=[text]))
    return sum(len(page.info) for page in pages)


def requests(client: snapshots_pb2_grpc.SnapshotsStub, chain_ids: list[str]) -> dict[str, float]:
    """p99 in milliseconds of each request with SNAPSHOTS snapshots present."""
    parent = next(
        info.name
        for page in client.List(pb.ListSnapshotsRequest(filters=["kind==committed"]))
        for info in page.info
    )
    few = p99(lambda index: _list_by_ref(client, chain_ids[index % LAYERS]), 300)
    for index in range(SNAPSHOTS - LAYERS):
        client.Prepare(pb.PrepareSnapshotRequest(key=f"fill{index}", parent=parent))
    os.sync()  # what that has left to be written must not be in the way of an fsync
    calls: dict[str, Callable[[int], object]] = {
        "Prepare": lambda index: client.Prepare(
            pb.PrepareSnapshotRequest(key=f"k{index}", parent=parent)
        ),
        "Mounts": lambda index: client.Mounts(pb.MountsRequest(key=f"k{index}")),
        "Commit": lambda index: client.Commit(
            pb.CommitSnapshotRequest(key=f"k{index}", name=f"n{index}")
        ),
        "Stat": lambda index: client.Stat(pb.StatSnapshotRequest(key=f"n{index}")),
        "Remove": lambda index: client.Remove(pb.RemoveSnapshotRequest(key=f"n{index}")),
        "List-by-ref": lambda index: _list_by_ref(client, chain_ids[index % LAYERS]),
    }
    found = {name: p99(call, 300) * 1000 for name, call in calls.items()}
    found["List-by-ref, a quarter of the snapshots"] = few * 1000
    return found


def run(folder: pathlib.Path) -> tuple[dict[str, float], dict[str, float]]:
    """All figures of this module (the flat ones, and the requests' p99 in ms)."""
    store = folder / "store"
    store.mkdir()
    chain_ids = make_store(store, LAYERS)
    with running(folder, store) as one:
        for chain_id in chain_ids:
            serve_layer(one.client, chain_id)
        latencies = requests(one.client, chain_ids)
        one.client.Cleanup(pb.CleanupRequest())
        memory = processes.rss_mib(one.process.pid)
        tree = processes.tree_rss_mib(one.process.pid)
    starts = []
    for _ in range(5):
        with running(folder, store) as one:
            starts.append(one.start_seconds)
    flat = {
        "rpc_p99_ms": max(latencies[name] for name in ("Prepare", "Mounts", "Commit", "Remove")),
        "list_by_ref_p99_ms": latencies["List-by-ref"],
        "snapshotter_start_s": sorted(starts)[2],
        "snapshotter_rss_mib": memory,
        "snapshotter_with_workers_rss_mib": tree,
    }
    return flat, latencies
