"""What verification costs: hash trees at a build, and `UIMGACC_VERIFY=always` on a node.

The second needs dm-verity and NFS, so it is measured in a guest (lab.guest), for which this
module is also the command. The guest's kernel has no instructions for SHA-256: a node that has
them does better.
"""

import hashlib
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from agent.mounts import syscalls
from agent.mounts.devices import device_mapper, layer_mounting
from agent.store import hash_tree
from lab.guest import machine, nfsd

RUNS = 5
SEALED = 512 << 20
READ = 96 << 20
"""Bytes of an image that is sealed here, and of one that is read in the guest."""

_NAME = "sha256:" + "5e" * 32
_MARK = "figures: "


def run(folder: pathlib.Path) -> dict[str, float]:
    """All figures of this module; those of a node only where there is a guest."""
    folder.mkdir()
    flat = _sealing(folder)
    if not machine.UML.exists():
        print("           verification on a node: no User Mode Linux for this machine")
        return flat
    with_guest = machine.Machine(folder / "guest", memory="1G")
    (folder / "guest").mkdir()
    try:
        with_guest.start([sys.executable, "-m", "benchmarks.guest.verity"])
        status, output = with_guest.wait(300)
    finally:
        with_guest.close()
    if status:
        raise RuntimeError(output)
    figures: dict[str, float] = json.loads(output.rpartition(_MARK)[2])
    return flat | figures


def _sealing(folder: pathlib.Path) -> dict[str, float]:
    """Bringing a finished layer into the store, with its tree, and as it was without."""
    image = folder / "image"
    with image.open("wb") as file:
        for number in range(SEALED >> 20):
            file.write(hashlib.shake_128(number.to_bytes(4)).digest(1 << 20))
    chosen = hash_tree.Parameters.of(_NAME)

    def sealed() -> None:
        hash_tree.seal(image, folder / "draft", chosen, scratch=folder)

    def copied() -> None:
        digest = hashlib.sha256()
        with image.open("rb") as reader, (folder / "draft").open("wb") as writer:
            while data := reader.read(4 << 20):
                digest.update(data)
                writer.write(data)

    times: dict[str, float] = {}
    for name, work in (("seal", sealed), ("copy", copied)):
        times[f"verity_{name}_cpu_s_per_gib"] = (
            _processor_time(work, folder / "draft") * (1 << 30) / SEALED
        )
    size = hash_tree.seal(image, folder / "draft", chosen, scratch=folder).verity.tree_size
    (folder / "draft").unlink()
    image.unlink()
    return {**times, "verity_tree_percent": 100 * size / SEALED}


def _processor_time(work: Callable[[], None], made: pathlib.Path) -> float:
    """The median of some runs; what they wait for the disk says more about that."""
    found = []
    for _ in range(RUNS):
        started = time.thread_time()
        work()
        found.append(time.thread_time() - started)
        made.unlink()
    return statistics.median(found)


def _inside() -> dict[str, float]:
    """Mount and read one layer from NFS, plainly and verified."""
    store = nfsd.Server(pathlib.Path("/tmp/exports")).add("store")
    layer, verity_size, tree = _layer(store)
    mounted = pathlib.Path("/tmp/nfs")
    nfsd.mount("store", mounted)
    target = pathlib.Path("/tmp/layer")
    target.mkdir()
    flat: dict[str, float] = {}
    for name, given in (("off", None), ("always", tree)):
        mounts, reads = [], []
        for _ in range(RUNS):
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
            started = time.monotonic()
            layer_mounting.mount_layer(str(mounted / layer.name), str(target), verity_size, given)
            mounts.append(time.monotonic() - started)
            started = time.monotonic()
            for path in sorted(target.iterdir()):
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
            reads.append(time.monotonic() - started)
            syscalls.unmount(str(target))
        flat[f"verify_{name}_mount_ms"] = 1000 * statistics.median(mounts)
        flat[f"verify_{name}_read_mib_s"] = (READ >> 20) / statistics.median(reads)
    return flat


def _layer(store: pathlib.Path) -> tuple[pathlib.Path, int, device_mapper.Tree]:
    """A sealed layer of files that do not compress, in the store."""
    files = pathlib.Path("/tmp/files")
    files.mkdir()
    for number in range(READ >> 20):
        data = hashlib.shake_128(number.to_bytes(4)).digest(1 << 20)
        (files / f"{number:04}").write_bytes(data)
    image = pathlib.Path("/tmp/image")
    subprocess.run(["mkfs.erofs", "--quiet", image, files], check=True, timeout=120)
    layer = store / f"{_NAME.partition(':')[2]}.erofs"
    chosen = hash_tree.Parameters.of(_NAME)
    verity = hash_tree.seal(image, layer, chosen, scratch=store).verity
    tree = (verity.root_hash, verity.salt, verity.data_blocks, verity.offset, "")
    return layer, layer.stat().st_size, tree


if __name__ == "__main__":
    print(f"{_MARK}{json.dumps(_inside())}")
