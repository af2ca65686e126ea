"""Nodes far from the store, and nodes that have copies: how near they come to a local disk.

What needs a real NFS client and a distance is measured in a guest (lab.guest), by
`benchmarks.far_inside`.
"""

import json
import pathlib
import sys

from benchmarks import far_inside, report, stages
from lab import registries
from lab.guest import machine

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
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(_DISK)
    guest = machine.Machine(folder / "guest", memory="4G", disk=disk)
    try:
        guest.start(
            [
                *(sys.executable, "-m", "benchmarks.far_inside"),
                *(str(folder / "guest/store"), reference, str(ROUNDS)),
            ]
        )
        flat = _followed(guest)
    finally:
        guest.close()
    return flat


def _followed(guest: machine.Machine) -> dict[str, float]:
    """The figures of a guest until its end; each line of the table as soon as it is known."""
    flat: dict[str, float] = {}
    for line in guest.lines(_SECONDS):
        if not line.startswith(far_inside.MARK):
            print(f"           {line}", flush=True)
            continue
        known = report.measured(flat)
        flat |= json.loads(line.removeprefix(far_inside.MARK))
        for row in report.measured(flat):
            if row not in known:
                print(f"           {row.line(flat)}", flush=True)
    if guest.wait(0)[0]:
        raise RuntimeError("far: it failed in the guest, as said above")
    return flat
