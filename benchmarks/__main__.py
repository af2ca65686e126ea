"""`python -m benchmarks [PART...]`: measure, print the table, write the figures as JSON.

Parts: snapshotter, pulls, builds, reads, pods, crowd, kube, collect, control. All of them, which
is the default, write benchmarks/latest.json: always the figures of one run. Some of them write
benchmarks/parts.json instead. Both say which commit that was, when, and how busy the machine.
"""

import json
import os
import pathlib
import sys
import time

from benchmarks import (
    building,
    collecting,
    control,
    crowds,
    images,
    kube,
    pods,
    report,
    runs,
    snapshotters,
    stages,
)
from lab import places, registries, scratch

FOLDER = pathlib.Path(__file__).parent
PARTS = ("snapshotter", "pulls", "builds", "reads", "pods", "crowd", "kube", "collect", "control")


def measure(parts: list[str], folder: pathlib.Path) -> dict[str, float]:
    """Run the named parts; the flat figures."""
    large = registries.catalogue()[stages.LARGE]
    flat: dict[str, float] = {
        "image_bytes": large["compressed"],
        "image_unpacked_bytes": large["unpacked"],
    }

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    started = time.monotonic()
    if "snapshotter" in parts:
        say("the snapshotter alone")
        (folder / "alone").mkdir()
        flat |= snapshotters.run(folder / "alone")
    if "collect" in parts:
        say("a collection")
        flat |= collecting.run(folder)
    if "control" in parts:
        say("the controller")
        with registries.Registry(folder / "registry of the controller") as registry:
            flat |= control.run(folder, registry)
    if "crowd" in parts:
        say("a node that is full")
        flat |= crowds.run(folder / "crowd")
    if set(parts) & {"pulls", "builds", "reads", "pods", "kube"}:
        say("building the store")
        with stages.built(folder) as stage:
            for part, run in (
                ("pulls", lambda: images.pulls(stage)),
                ("builds", lambda: building.run(stage, folder)),
                ("reads", lambda: images.reads(stage)),
                ("pods", lambda: pods.run(stage)),
                ("kube", lambda: kube.run(stage)),
            ):
                if part in parts:
                    say(part)
                    flat |= run()
    say("done")
    return flat


def main() -> None:
    """Measure what the command line names."""
    parts = sys.argv[1:] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    os.environ["PATH"] = f"{places.BIN}{os.pathsep}{os.environ['PATH']}"
    begun = runs.begin()
    print(begun.text, flush=True)
    with scratch.folder("bench") as folder:
        flat = measure(parts, folder)
    record = runs.end(begun)
    report.show(flat, record)
    written = runs.write(FOLDER, record, flat, parts=parts, every=PARTS)
    print(json.dumps(flat))
    print(f"written to {written}")


if __name__ == "__main__":
    main()
