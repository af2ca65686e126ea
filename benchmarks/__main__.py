"""`python -m benchmarks [PART...]`: measure, print the table, write benchmarks/latest.json.

Parts: snapshotter, pulls, builds, reads, pods, kube, collect, control (default: all). The figures
of parts that are not measured stay in the file as they were.
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from benchmarks import collecting, control, images, kube, pods, report, snapshotters, stages
from lab import places, processes, registries

LATEST = pathlib.Path(__file__).with_name("latest.json")
PARTS = ("snapshotter", "pulls", "builds", "reads", "pods", "kube", "collect", "control")


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
        figures, latencies = snapshotters.run(folder / "alone")
        flat |= figures
        for name, milliseconds in latencies.items():
            print(f"           {name}: p99 {milliseconds:.2f} ms")
    if "collect" in parts:
        say("a collection")
        flat |= collecting.run(folder)
    if "control" in parts:
        say("the controller")
        with registries.Registry(folder / "registry of the controller") as registry:
            flat |= control.run(folder, registry)
    if set(parts) & {"pulls", "builds", "reads", "pods", "kube"}:
        say("building the store")
        with stages.built(folder) as stage:
            for part, run in (
                ("pulls", lambda: images.pulls(stage)),
                ("builds", lambda: images.builds(stage, folder)),
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
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench"))
    try:
        flat = measure(parts, folder)
    finally:
        processes.unmount_below(folder)
        shutil.rmtree(folder)
    report.show(flat)
    # What is not measured now keeps its figures.
    known = json.loads(LATEST.read_text()) if LATEST.exists() else {}
    LATEST.write_text(json.dumps(known | flat, indent=1) + "\n")
    print(json.dumps(flat))


if __name__ == "__main__":
    main()
