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
import re
import statistics
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator

import grpc

from agent._proto.containerd import snapshots_pb2 as pb
from agent._proto.containerd import snapshots_pb2_grpc
from agent.kits import files
from agent.model import digests, records
from agent.store import layout
from benchmarks import processes
from lab import processes as lab_processes

REF = "containerd.io/snapshot.ref"
LAYERS = 500
SNAPSHOTS = 2000
CALLS = 300
RUNS = 5


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
        public=True,
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
    metrics: str
    """host:port."""
    log: pathlib.Path

    def fallbacks(self) -> dict[str, float]:
        """How many layers were left to the ordinary pull so far, by reason."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r'^uimgacc_fallback_total\{reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {reason: float(count) for reason, count in found if float(count)}


@contextlib.contextmanager
def running(folder: pathlib.Path, store: pathlib.Path | None) -> Iterator[Running]:
    """Start the command; `start_seconds` is from fork to the first answer."""
    folder.mkdir(exist_ok=True)
    socket, root, log = folder / "s.sock", folder / "root", folder / "snapshotter.log"
    metrics = f"127.0.0.1:{lab_processes.free_port()}"
    arguments = ["--root", root, "--address", socket, "--metrics-address", metrics]
    if store:
        arguments += ["--store", store]
    started = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [processes.COMMAND, "snapshotter", *map(str, arguments)], stderr=output
        )
    try:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 10),
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
            elapsed = time.perf_counter() - started
            yield Running(process, socket, root, client, elapsed, metrics, log)
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


def percentiles(call: Callable[[int], object], times: int) -> tuple[float, float]:
    """The median, and the 99th percentile, of the milliseconds that a call takes."""
    seconds = []
    for index in range(times):
        started = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    return seconds[times // 2] * 1000, seconds[int(times * 0.99)] * 1000


def _list_by_ref(client: snapshots_pb2_grpc.SnapshotsStub, chain_id: str) -> int:
    text = f'labels."{REF}"=={chain_id},parent==""'
    pages = client.List(pb.ListSnapshotsRequest(filters=[text]))
    return sum(len(page.info) for page in pages)


def requests(client: snapshots_pb2_grpc.SnapshotsStub, chain_ids: list[str]) -> dict[str, float]:
    """Milliseconds of each request with SNAPSHOTS snapshots present; List with LAYERS, too.

    Medians of RUNS rounds: of each round's 99th percentile and, of List, of its median.
    """
    found: dict[str, list[float]] = {}

    def measure(name: str, call: Callable[[int], object]) -> None:
        median, high = percentiles(call, CALLS)
        found.setdefault(f"{name}_p50_ms", []).append(median)
        found.setdefault(f"{name}_p99_ms", []).append(high)

    def list_by_ref(index: int) -> int:
        return _list_by_ref(client, chain_ids[index % LAYERS])

    parent = next(
        info.name
        for page in client.List(pb.ListSnapshotsRequest(filters=["kind==committed"]))
        for info in page.info
    )
    for _ in range(RUNS):
        measure("list_by_ref_few", list_by_ref)
    for index in range(SNAPSHOTS - LAYERS):
        client.Prepare(pb.PrepareSnapshotRequest(key=f"fill{index}", parent=parent))
    os.sync()  # what that has left to be written must not be in the way of an fsync
    for _ in range(RUNS):
        for name, call in _calls(client, parent).items():
            measure(name, call)
        measure("list_by_ref", list_by_ref)
    return {name: statistics.median(values) for name, values in found.items()}


def _calls(
    client: snapshots_pb2_grpc.SnapshotsStub, parent: str
) -> dict[str, Callable[[int], object]]:
    """A snapshot's life, step by step; nothing of it is left afterwards."""
    return {
        "prepare": lambda index: client.Prepare(
            pb.PrepareSnapshotRequest(key=f"k{index}", parent=parent)
        ),
        "mounts": lambda index: client.Mounts(pb.MountsRequest(key=f"k{index}")),
        "commit": lambda index: client.Commit(
            pb.CommitSnapshotRequest(key=f"k{index}", name=f"n{index}")
        ),
        "stat": lambda index: client.Stat(pb.StatSnapshotRequest(key=f"n{index}")),
        "remove": lambda index: client.Remove(pb.RemoveSnapshotRequest(key=f"n{index}")),
    }


def run(folder: pathlib.Path) -> dict[str, float]:
    """All figures of this module."""
    store = folder / "store"
    store.mkdir()
    chain_ids = make_store(store, LAYERS)
    with running(folder, store) as one:
        for chain_id in chain_ids:
            serve_layer(one.client, chain_id)
        flat = requests(one.client, chain_ids)
        one.client.Cleanup(pb.CleanupRequest())
        flat["snapshotter_2000_rss_mib"] = processes.rss_mib(one.process.pid)
    starts = []
    for _ in range(RUNS):
        with running(folder, store) as one:
            starts.append(one.start_seconds)
    asked = ("prepare", "mounts", "commit", "remove")
    return flat | {
        "rpc_p99_ms": max(flat[f"{name}_p99_ms"] for name in asked),
        "snapshotter_start_s": statistics.median(starts),
    }
