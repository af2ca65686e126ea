"""`python -m benchmarks [PART...]`: measure, print the table, write the figures as JSON.

Parts: snapshotter, pulls, builds, reads, pods, crowd, kube, collect, control, verity, sign, far,
torch. All of them, which is the default, write benchmarks/latest.json: always the figures of one
run. Some of them write benchmarks/parts.json instead. Both say which commit that was, when, and how
busy the machine. Four more are run only where they are named: readahead, a table of a quarter of
an hour, large, an image of 6 GB, fleet, a thousand agents before one API server (a quarter of
an hour; with KUBEBUILDER_ASSETS, else fewer before kmock), and caches, ten thousand of them (half
an hour with KUBEBUILDER_ASSETS).
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import report, runs, stages
from benchmarks.cluster import caches, control, kube
from benchmarks.fleet import scenes, table
from benchmarks.guest import far, readahead, verity
from benchmarks.node import crowds, gigabytes, images, pods, snapshotters
from benchmarks.store import building, collecting, signing
from lab import cuda, places, scratch
from lab.web import registries

STARTED = time.monotonic()
FOLDER = pathlib.Path(__file__).parent
PARTS = (
    *("snapshotter", "pulls", "builds", "reads", "pods"),
    *("crowd", "kube", "collect", "control", "verity", "sign", "far", "torch"),
)
NAMED_ONLY = ("readahead", "large", "fleet", "caches")

Figures = dict[str, float]


def measure(parts: list[str], folder: pathlib.Path) -> Iterator[Figures]:
    """Run the named parts; the flat figures of each as soon as it is done."""
    large = registries.catalogue()[stages.LARGE]
    yield {"image_bytes": large["compressed"], "image_unpacked_bytes": large["unpacked"]}
    alone: dict[str, Callable[[], Figures]] = {
        "snapshotter": lambda: snapshotters.run(folder / "alone"),
        "collect": lambda: collecting.run(folder),
        "control": lambda: controller(folder),
        "caches": lambda: caches.run(folder),
        "crowd": lambda: crowds.run(folder / "crowd"),
        "verity": lambda: verity.run(folder / "verity"),
        "sign": lambda: signing.run(folder),
        "far": lambda: far.run(folder / "far"),
        "readahead": lambda: readahead.run(folder / "readahead"),
        "torch": lambda: gigabytes.run(folder / "torch", cuda.TORCH, "torch", with_soci=False),
        "large": lambda: gigabytes.run(folder / "large", cuda.TENSORFLOW, "large", with_soci=True),
    }
    for part, run in alone.items():
        if part in parts:
            say(part)
            yield run()
    if "fleet" in parts:
        say("fleet")
        yield from fleet(folder)
    if set(parts) <= {*alone, "fleet"}:
        return
    say("building the store")
    with stages.built(folder) as stage:
        staged: dict[str, Callable[[], Figures]] = {
            "pulls": lambda: images.pulls(stage),
            "builds": lambda: building.run(stage, folder),
            "reads": lambda: images.reads(stage),
            "pods": lambda: pods.run(stage),
            "kube": lambda: kube.run(stage),
        }
        for part, run in staged.items():
            if part in parts:
                say(part)
                yield run()


def controller(folder: pathlib.Path) -> Figures:
    """The controller's part, with a registry of its own."""
    with registries.Registry(folder / "registry of the controller") as registry:
        return control.run(folder, registry)


def fleet(folder: pathlib.Path) -> Iterator[Figures]:
    """The fleet's part; its own table at the end."""
    flat: Figures = {}
    started = time.monotonic()
    for figures in scenes.run(folder / "fleet"):
        flat |= figures
        yield figures
    yield {"fleet_minutes": (time.monotonic() - started) / 60}
    table.show(flat)


def say(text: str) -> None:
    """Say what is measured now, and since when this program runs."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def main() -> None:
    """Measure what the command line names."""
    parts = sys.argv[1:] or list(PARTS)
    every = (*PARTS, *NAMED_ONLY)
    if unknown := set(parts) - set(every):
        sys.exit(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    os.environ["PATH"] = f"{places.BIN}{os.pathsep}{os.environ['PATH']}"
    begun = runs.begin()
    print(begun.text, flush=True)
    flat: Figures = {}
    with scratch.folder("bench") as folder:
        (folder / "alone").mkdir()
        for figures in measure(parts, folder):
            # Printed at once: a part that fails an hour later does not take these with it.
            print(json.dumps(figures), flush=True)
            flat |= figures
    record = runs.end(begun)
    report.show(flat, record)
    written = runs.write(FOLDER, record, flat, parts=parts, every=PARTS)
    print(json.dumps(flat))
    print(f"written to {written}")


if __name__ == "__main__":
    main()
