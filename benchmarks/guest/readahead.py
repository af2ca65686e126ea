"""Which read-ahead, connections and clusters suit a store at a distance: a table of cold starts.

A start (a Python program that imports large libraries) reads little and at random, `cat` of one
large file reads in order; both from EROFS layers on an NFS server behind `tc netem`, in a guest
(lab.guest), for which this module is also the command. Each round measures every row once, so all
rows see the same drift of the machine. Three figures are free of what else the machine does: how
often a start waits (the voluntary context switches of its programs), which is what distance
multiplies, and the requests of the NFS client and their bytes.
"""

import contextlib
import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from agent.build import mkfs_erofs
from agent.mounts import nfs, nfs_worker, syscalls
from lab import places
from lab.guest import machine, nfsd
from lab.web import registries

ROUNDS = 3
TRIPS = (0.1, 0.5, 2.0)
"""Round trips in milliseconds."""
IMAGE = "lab/large:1"
LAYERS = (0, 1, 3, 6)
"""Of the image, from the bottom: its root, numpy and scipy, pyarrow, and the programs."""

CLUSTERS: Mapping[str, Sequence[str]] = {
    "4": (),
    "16": ("-C16384",),
    "64": ("-C65536",),
    "256": ("-C262144",),
    "none": (),
}
"""KiB of a cluster of lz4 -> what mkfs.erofs is told beside the usual options."""

TODAY = "4"
LARGE_FILE = "usr/local/lib/python3.13/dist-packages/pyarrow/libarrow.so.2000"
COUNTED = ("start_waits", "start_reads", "start_mib", "read_waits", "read_reads")
_MARK = "row: "
_MINUTES = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is measured: the round trip in milliseconds, and what is set.

    `nfs` and `layer` are the read_ahead_kb of the store's mount and of a layer's loop device,
    which is None where the layer is mounted from its file.
    """

    trip: float
    nfs: int = 128
    layer: int | None = 128
    connections: int = 2
    cluster: str = TODAY

    @property
    def name(self) -> str:
        """The row's key in the figures."""
        layer = "file" if self.layer is None else self.layer
        return (
            f"trip{self.trip:g}_nfs{self.nfs}_layer{layer}_nconnect{self.connections}"
            f"_lz4_{self.cluster}"
        )


def rows() -> list[Row]:
    """All that is measured: one thing is changed at a time."""
    found: dict[Row, None] = {}
    for trip in TRIPS:
        for layer, ahead in itertools.product((None, 128), (128, 1024, 15360)):
            found[Row(trip=trip, nfs=ahead, layer=layer)] = None
        for layer, ahead in itertools.product((1024, 4096), (128, 1024, 15360)):
            found[Row(trip=trip, nfs=ahead, layer=layer)] = None
        for connections in (4, 8, 16):
            found[Row(trip=trip, nfs=15360, layer=1024, connections=connections)] = None
        for cluster in CLUSTERS:
            found[Row(trip=trip, nfs=15360, layer=1024, cluster=cluster)] = None
    return list(found)


def run(folder: pathlib.Path) -> dict[str, float]:
    """All figures; {} where there is no guest."""
    if not machine.UML.exists():
        print("           read-ahead: no User Mode Linux for this machine")
        return {}
    place = folder / "guest"
    place.mkdir(parents=True)
    for cluster in CLUSTERS:
        _build(place / "layers" / cluster, cluster)
    with_guest = machine.Machine(place, memory="5G")
    try:
        with_guest.start([sys.executable, "-m", "benchmarks.guest.readahead"], FOLDER=str(place))
        status, output = with_guest.wait(_MINUTES * 60)
    finally:
        with_guest.close()
    if status:
        raise RuntimeError(output)
    found = [json.loads(line[len(_MARK) :]) for line in output.splitlines() if _MARK in line]
    figures = {
        f"readahead_{name}_{figure}": statistics.median(each[figure] for each in same)
        for name, same in _grouped(found).items()
        for figure in ("start_s", "read_s", *COUNTED)
    }
    _show(figures)
    return figures


def _show(figures: Mapping[str, float]) -> None:
    """Print the table: a line for what is set, with the seconds of a start at each distance."""
    distances = "".join(f"{trip:>7g} ms" for trip in TRIPS)
    titles = f"{'waits':>6} {'reads':>6} {'MiB':>6} {'cat: waits':>10} {'reads':>6}"
    print(f"{'a start at':42}{distances} {titles}")
    for row in (each for each in rows() if each.trip == TRIPS[-1]):
        names = [dataclasses.replace(row, trip=trip).name for trip in TRIPS]
        seconds = "".join(f"{figures[f'readahead_{name}_start_s']:8.2f} s" for name in names)
        waits, reads, mib, read_waits, read_reads = (
            figures[f"readahead_{row.name}_{figure}"] for figure in COUNTED
        )
        print(
            f"{row.name.partition('_')[2]:42}{seconds} {waits:6.0f} {reads:6.0f} {mib:6.1f}"
            f" {read_waits:10.0f} {read_reads:6.0f}"
        )


def _grouped(found: Sequence[Mapping[str, float]]) -> dict[str, list[Mapping[str, float]]]:
    same: dict[str, list[Mapping[str, float]]] = {}
    for each in found:
        same.setdefault(str(each["name"]), []).append(each)
    return same


def _build(folder: pathlib.Path, cluster: str) -> None:
    """The layers of the image as EROFS files, bottom first."""
    folder.mkdir(parents=True)
    options = mkfs_erofs.options("none" if cluster == "none" else "lz4")
    blobs = registries.catalogue()[IMAGE]["layers"]
    for number, at in enumerate(LAYERS):
        name = blobs[at].partition(":")[2]
        blob = places.STORAGE / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
        command = [places.BIN / "mkfs.erofs", *options, *CLUSTERS[cluster], folder / f"{number}"]
        with gzip.open(blob) as tar, subprocess.Popen(command, stdin=subprocess.PIPE) as mkfs:
            assert mkfs.stdin is not None
            shutil.copyfileobj(tar, mkfs.stdin, 1 << 20)
            mkfs.stdin.close()
        if mkfs.returncode:
            raise RuntimeError(f"mkfs.erofs failed with {mkfs.returncode}")


def _inside() -> None:
    """Measure each row in each round; one line of output for each."""
    nfsd.run("modprobe", "-d", "/run/kernel", "sch_netem")
    store = nfsd.Server(pathlib.Path("/tmp/exports")).add("store")
    shutil.copytree(pathlib.Path(os.environ["FOLDER"]) / "layers", store, dirs_exist_ok=True)
    for number in range(ROUNDS):
        for row in rows():
            figures = {"name": row.name, "round": number, **_measure(row)}
            print(f"{_MARK}{json.dumps(figures)}", flush=True)


def _measure(row: Row) -> dict[str, float]:
    commands = {"start": ("/usr/local/bin/hello",), "read": ("/usr/bin/cat", f"/{LARGE_FILE}")}
    figures: dict[str, float] = {}
    with _delayed(row.trip), _mounted(row) as (place, root):
        for name, command in commands.items():
            _drop_caches()
            before, waited = _reads(place), _waits()
            started = time.monotonic()
            subprocess.run(
                ["chroot", root, *command], check=True, timeout=300, stdout=subprocess.DEVNULL
            )
            figures[f"{name}_s"] = time.monotonic() - started
            reads, size = _reads(place)
            figures[f"{name}_waits"] = _waits() - waited
            figures[f"{name}_reads"] = reads - before[0]
            figures[f"{name}_mib"] = (size - before[1]) / (1 << 20)
    return figures


def _waits() -> int:
    """How often programs that have ended waited for something."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw


@contextlib.contextmanager
def _delayed(trip: float) -> Iterator[None]:
    """Have each packet to the server wait for a round trip."""
    nfsd.run(*f"tc qdisc add dev client root netem delay {trip * 1000:g}us limit 100000".split())
    try:
        yield
    finally:
        nfsd.run("tc", "qdisc", "del", "dev", "client", "root")


@contextlib.contextmanager
def _mounted(row: Row) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The store's mount, and the image as the root of a container."""
    with contextlib.ExitStack() as stack:
        place = pathlib.Path("/tmp/store")
        options = nfs.attempts(nfs.parse_options(f"nconnect={row.connections}"))
        nfs_worker.mount(f"{nfsd.ADDRESS}:/store", nfsd.ADDRESS, str(place), options)
        stack.callback(nfsd.run, "umount", str(place))
        _set_read_ahead(f"/sys/class/bdi/{_device(place)}", row.nfs)
        lower = []
        for number in range(len(LAYERS)):
            layer = pathlib.Path(f"/tmp/layers/{number}")
            layer.mkdir(parents=True, exist_ok=True)
            source = str(place / row.cluster / str(number))
            if row.layer is not None:
                source = nfsd.run("losetup", "--read-only", "--find", "--show", source).strip()
                stack.callback(nfsd.run, "losetup", "--detach", source)
                _set_read_ahead(f"/sys/block/{pathlib.Path(source).name}/queue", row.layer)
            # Not by mount(8), which puts a loop device of its own in front of a file.
            syscalls.mount(source, str(layer), "erofs", syscalls.MS_RDONLY)
            stack.callback(nfsd.run, "umount", str(layer))
            lower.insert(0, str(layer))
        root = pathlib.Path("/tmp/root")
        root.mkdir(exist_ok=True)
        layers = f"lowerdir={':'.join(lower)}"
        nfsd.run("mount", "-t", "overlay", "-o", layers, "overlay", str(root))
        stack.callback(nfsd.run, "umount", str(root))
        yield place, root


def _device(path: pathlib.Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _set_read_ahead(folder: str, kib: int) -> None:
    pathlib.Path(folder, "read_ahead_kb").write_text(str(kib))


def _reads(place: pathlib.Path) -> tuple[int, int]:
    """READ requests of the store's mount since it was mounted, and bytes that came for them."""
    parts = pathlib.Path("/proc/self/mountstats").read_text().split(f"mounted on {place} ")[1]
    words = next(line.split() for line in parts.splitlines() if line.strip().startswith("READ:"))
    return int(words[1]), int(words[5])


def _drop_caches() -> None:
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    _inside()
