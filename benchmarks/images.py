"""Whole images: pull, build, and read, against overlayfs and SOCI in the same run."""

import pathlib
import shutil
import statistics
import time

from benchmarks import stages

RUNS = 5


def median(values: list[float]) -> float:
    """The median; what every figure here is."""
    return statistics.median(values)


def pulls(stage: stages.Stage) -> dict[str, float]:
    """Seconds of a `ctr` pull into each snapshotter, and layer blobs that ours fetched."""
    reference = stage.reference(stages.LARGE)
    # SOCI comes last: what it fetches in the background must not count as another's.
    seconds: dict[str, list[float]] = {"overlayfs": [], "uimgacc": [], "soci": []}
    fetched = 0
    for _ in range(RUNS):
        # One after the other within a round, so that all see the same drift of the machine.
        for name, found in seconds.items():
            mark = stage.registry.mark()
            if name == "soci":
                found.append(stage.soci.pull(stage.containerd, reference))
            else:
                found.append(stage.containerd.pull(reference, snapshotter=name))
            if name == "uimgacc":
                fetched += len(stage.registry.layer_gets(mark))
            forget(stage, reference)
    return {f"pull_{name}_s": median(found) for name, found in seconds.items()} | {
        "pull_uimgacc_layer_blobs": float(fetched)
    }


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
                    f"read-{name}-{index}",
                    "readall",
                )
            )
            found.append(time.monotonic() - started)
            forget(stage, reference)
    return {f"readall_{name}_s": median(found) for name, found in seconds.items()}


def builds(stage: stages.Stage, folder: pathlib.Path) -> dict[str, float]:
    """Seconds to build the image into an empty store."""
    found = []
    for _ in range(RUNS):
        store = folder / "fresh-store"
        started = time.monotonic()
        stages.build(store, stage.registry.address, stages.LARGE)
        found.append(time.monotonic() - started)
        shutil.rmtree(store)
    return {"build_s": median(found)}
