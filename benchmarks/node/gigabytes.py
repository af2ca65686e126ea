"""Images of gigabytes: build, pull, a program's first output, and all files, beside overlayfs.

Part `torch` is the second image of the bench (3 GB compressed). `large`, which is not part of it,
does the same with one of more than 5 GB, and with SOCI beside: half an hour or more.
"""

import contextlib
import os
import pathlib
import shutil
import time

from benchmarks import processes, spreads, stages
from lab import cuda, services
from lab import processes as programs
from lab.runtime import soci
from lab.web import registries

ROUNDS = 3
_SAMPLE_SECONDS = 0.2

_COMPARED = (
    ("build", "pull_overlayfs"),
    ("import_uimgacc", "import_overlayfs"),
    ("readall_uimgacc", "readall_overlayfs"),
)
"""Which times are compared within each round."""


def run(folder: pathlib.Path, image: str, prefix: str, *, with_soci: bool) -> dict[str, float]:
    """All figures of one image, their names beginning with the prefix."""
    cuda.make([cuda.TORCH] if image == cuda.TORCH else [cuda.TORCH, image])
    record = registries.catalogue()[image]
    flat: dict[str, float] = {
        f"{prefix}_image_bytes": record["compressed"],
        f"{prefix}_image_unpacked_bytes": record["unpacked"],
    }
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        artifacts = soci.ARTIFACTS
        if with_soci:
            artifacts = folder / "artifacts"
            with services.Registry(folder / "index") as registry:
                soci.index(registry, image, artifacts)
        stage = stack.enter_context(stages.running(folder, artifacts=artifacts))
        found = _rounds(stage, image, with_soci=with_soci)
    # Layers stay mounted when the snapshotter ends.
    programs.unmount_below(folder)
    shutil.rmtree(folder)
    for name, values in found.items():
        flat |= spreads.of(f"{prefix}_{name}", values)
    for ours, theirs in _COMPARED:
        flat |= spreads.ratio(f"{prefix}_{ours}_ratio", found[f"{ours}_s"], found[f"{theirs}_s"])
    return flat


def _rounds(stage: stages.Stage, image: str, *, with_soci: bool) -> dict[str, list[float]]:
    """Of each figure the values of all rounds."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    reference, folder = stage.reference(image), stage.folder
    for number in range(ROUNDS):
        # That of the first round is what is pulled.
        store = folder / "fresh" if number else stage.store
        command = stages.build_command(store, stage.registry, image)
        started = time.monotonic()
        most = processes.peak_tree_pss_mib(command, _SAMPLE_SECONDS)
        note("build_s", time.monotonic() - started)
        note("build_tree_pss_mib", sum(most.values()))
        if number:
            shutil.rmtree(store)
        # SOCI is last: it goes on fetching after its pull.
        for name in ("overlayfs", "uimgacc", *(["soci"] if with_soci else [])):
            # What the build, or the peer before, has left to write is not this one's.
            stages.drop_caches()
            if name == "soci":
                note(f"pull_{name}_s", stage.soci.pull(stage.containerd, reference))
            else:
                note(f"pull_{name}_s", stage.containerd.pull(reference, snapshotter=name))
            # A virtual machine's disk has a cache of its host's: what a pull has just written is
            # in there, and a store that was built before is not. So each is read once before.
            for kind, program in (
                ("first", "readall"),
                ("import", "hello"),
                ("readall", "readall"),
            ):
                stages.drop_caches()
                started = time.monotonic()
                container = f"{kind}-{os.getpid()}-{name}-{number}"
                options = ("--rm", "--snapshotter", name)
                stage.containerd.ctr("run", *options, reference, container, program)
                note(f"{kind}_{name}_s", time.monotonic() - started)
            stage.containerd.ctr("images", "rm", "--sync", reference)
        print(f"           round {number + 1}: " + _last(found), flush=True)
    return found


def _last(found: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.4g}" for name, values in found.items())
