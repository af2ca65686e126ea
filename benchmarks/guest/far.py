"""Nodes far from the store, and nodes that have copies: how near they come to a local disk.

What needs a real NFS client and a distance is measured in a guest (lab.guest), by
`benchmarks.guest.far_inside`.
"""

import json
import os
import pathlib
import sys
import time

from benchmarks import report, spreads, stages
from benchmarks.guest import far_node
from lab.guest import machine
from lab.runtime import nodes
from lab.web import registries

ROUNDS = 5
_SECONDS = 1200.0
_DISK = 8 << 30


def run(folder: pathlib.Path) -> dict[str, float]:
    """All figures of this module; none where there is no guest."""
    folder.mkdir()
    if not machine.UML.exists():
        print("           far: no User Mode Linux for this machine")
        return {}
    (folder / "registry").mkdir()
    # The store goes through the one folder that the guest shares with this machine.
    (folder / "guest").mkdir()
    with registries.Registry(folder / "registry") as registry:
        reference = f"{registry.address}/{stages.LARGE}"
        stages.build(folder / "guest/store", registry, stages.LARGE)
        flat = _reads(folder, registry)
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(_DISK)
    guest = machine.Machine(folder / "guest", memory="4G", disk=disk)
    try:
        guest.start(
            [
                *(sys.executable, "-m", "benchmarks.guest.far_inside"),
                *(str(folder / "guest/store"), reference, str(ROUNDS)),
            ]
        )
        return flat | _followed(guest)
    finally:
        guest.close()


def _reads(folder: pathlib.Path, registry: registries.Registry) -> dict[str, float]:
    """Seconds to run a container that reads every file of the image, cold: from copies of all of
    its layers, and from overlayfs on the same disk, which is this machine's own.
    """
    reference = f"{registry.address}/{stages.LARGE}"
    room = {"UIMGACC_LOCAL_BYTES": "100%", "UIMGACC_LOCAL_FREE": "1%"}
    seconds: dict[str, list[float]] = {"overlayfs": [], "uimgacc": []}
    store = folder / "guest/store"
    with nodes.Node(folder / "node", registry, store, agent_environment=room) as node:
        for name in seconds:
            node.containerd.pull(reference, snapshotter=name)
        keeping = f"kept-{os.getpid()}"
        options = ("--snapshotter", "uimgacc", reference, keeping)
        node.containerd.ctr("run", "--detach", *options, "sleep", "1000")
        far_node.wait_until(
            lambda: (
                node.metric('uimgacc_used_containers{source="local"}')
                and not node.metric('uimgacc_used_containers{source="store"}')
            ),
            node,
            seconds=400,  # on a machine where mounts never rest, copying begins after 300
        )
        for index in range(ROUNDS):
            for name, found in seconds.items():
                stages.drop_caches()
                started = time.monotonic()
                read = f"{name}-{os.getpid()}-{index}"
                node.containerd.ctr(
                    *("run", "--rm", "--snapshotter", name, reference, read, "readall")
                )
                found.append(time.monotonic() - started)
    return _shown(
        spreads.of("local_readall_s", seconds["uimgacc"])
        | spreads.of("local_readall_overlayfs_s", seconds["overlayfs"])
        | spreads.ratio("local_readall_ratio", seconds["uimgacc"], seconds["overlayfs"])
    )


def _shown(flat: dict[str, float]) -> dict[str, float]:
    for row in report.measured(flat):
        print(f"           {row.line(flat)}", flush=True)
    return flat


def _followed(guest: machine.Machine) -> dict[str, float]:
    """The figures of a guest until its end; each line of the table as soon as it is known."""
    flat: dict[str, float] = {}
    for line in guest.lines(_SECONDS):
        if not line.startswith(far_node.MARK):
            print(f"           {line}", flush=True)
            continue
        known = report.measured(flat)
        flat |= json.loads(line.removeprefix(far_node.MARK))
        for row in report.measured(flat):
            if row not in known:
                print(f"           {row.line(flat)}", flush=True)
    if guest.wait(0)[0]:
        raise RuntimeError("far: it failed in the guest, as said above")
    return flat
