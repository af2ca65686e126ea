"""Whole images: pull and read, against overlayfs and SOCI in the same run."""

import os
import shutil
import time

from benchmarks import spreads, stages
from lab import services

RUNS = 5


def pulls(stage: stages.Stage) -> dict[str, float]:
    """Seconds of a build into an empty store, of a `ctr` pull into each snapshotter.

    And the layer blobs that ours fetched. The builds are in the same rounds: a machine's speed
    changes too much for a comparison of what was measured at two times.
    """
    reference = stage.reference(stages.LARGE)
    # SOCI comes last: what it fetches in the background must not count as another's.
    seconds: dict[str, list[float]] = {"overlayfs": [], "uimgacc": [], "soci": []}
    builds: list[float] = []
    fetched: list[services.Request] = []
    for _ in range(RUNS):
        started = time.monotonic()
        stages.build(stage.folder / "fresh", stage.registry, stages.LARGE)
        builds.append(time.monotonic() - started)
        shutil.rmtree(stage.folder / "fresh")
        # One after the other within a round, so that all see the same drift of the machine.
        for name, found in seconds.items():
            mark = stage.registry.mark()
            if name == "soci":
                found.append(stage.soci.pull(stage.containerd, reference))
            else:
                found.append(stage.containerd.pull(reference, snapshotter=name))
            if name == "uimgacc":
                fetched += pulled(stage.registry.layer_gets(mark))
            forget(stage, reference)
    explain(stage, fetched)
    flat = {"pull_uimgacc_layer_blobs": float(len(fetched)), **spreads.of("build_s", builds)}
    for name, found in seconds.items():
        flat |= spreads.of(f"pull_{name}_s", found)
    flat |= spreads.ratio("build_ratio", builds, seconds["overlayfs"])
    flat |= spreads.ratio("pull_overlayfs_ratio", seconds["overlayfs"], seconds["uimgacc"])
    return flat | spreads.ratio("pull_soci_ratio", seconds["uimgacc"], seconds["soci"])


def pulled(requests: list[services.Request]) -> list[services.Request]:
    """Those of the containerd that pulls.

    SOCI goes on fetching in the background after its pull, by programs of other names (its client
    is made with containerd 1.7's library).
    """
    return [request for request in requests if request.agent.startswith("containerd/2")]


def explain(stage: stages.Stage, fetched: list[services.Request]) -> None:
    """Say who fetched layers in pulls that should fetch none, and what the snapshotter says."""
    for request in fetched:
        print(f"           fetched: {request}")
    if reasons := stage.snapshotter.fallbacks():
        print(f"           uimgacc_fallback_total: {reasons}")
    if fetched or reasons:
        print(stage.snapshotter.log.read_text())


def forget(stage: stages.Stage, reference: str) -> None:
    """Remove the image and wait until containerd has collected all that belonged to it."""
    stage.containerd.ctr("images", "rm", "--sync", reference)


def reads(stage: stages.Stage) -> dict[str, float]:
    """Seconds to run a container that reads every file of the image, cold page cache."""
    reference = stage.reference(stages.LARGE)
    seconds: dict[str, list[float]] = {"overlayfs": [], "soci": [], "uimgacc": []}
    for index in range(RUNS):
        for name, found in seconds.items():
            if name == "soci":
                stage.soci.pull(stage.containerd, reference)
            else:
                stage.containerd.pull(reference, snapshotter=name)
            stages.drop_caches()
            started = time.monotonic()
            stage.containerd.ctr(
                *(
                    "run",
                    "--rm",
                    "--snapshotter",
                    name,
                    reference,
                    # runc knows containers of all containerds: also what an ended run left.
                    f"read-{os.getpid()}-{name}-{index}",
                    "readall",
                )
            )
            found.append(time.monotonic() - started)
            forget(stage, reference)
    flat: dict[str, float] = {}
    for name, found in seconds.items():
        flat |= spreads.of(f"readall_{name}_s", found)
        flat |= spreads.ratio(f"readall_{name}_ratio", seconds["uimgacc"], found)
    return flat
