"""What `benchmarks.far` measures in its guest: starts, switches and copying, the store far away.

Three nodes on one disk, each a containerd with snapshotter and agent:

| node | store | |
|---|---|---|
| `local` | on the node's disk | layers are read from there from the first byte |
| `today` | NFS | no local copies, no start profiles, nothing read ahead: as before these |
| `near` | NFS | the defaults |

Where starts are compared, nothing is copied (a budget of 0 bytes): each is one from the store.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import spreads, stages
from lab import cri, nodes, polling, processes, registries
from lab.guest import disk, member, nfsd

MARK = "figures: "
DISTANCES = {"05ms": 0.0005, "2ms": 0.002}
"""Round trips, by their names in figures."""

_DISK = pathlib.Path("/tmp/disk")
_SECONDS = 120.0
_UNTOUCHED = {"UIMGACC_LOCAL": "off", "UIMGACC_START_PROFILES": "off"}
_UNCOPIED = {"UIMGACC_LOCAL_BYTES": "0"}


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """One start, cold: seconds from the pod's manifest, and from the container's start, to output.

    `reads` are the NFS READ requests until then.
    """

    pod: float
    container: float
    reads: int


class Subject:
    """A node that starts the image again and again, each time as if it had never had it."""

    def __init__(self, node: nodes.Node, reference: str, client: cri.Client) -> None:
        self.node = node
        self._reference = reference
        self._client = client
        self._count = 0

    def start(self) -> Start:
        """Start a pod of the image with all caches dropped; nothing of it is left afterwards."""
        self._count += 1
        name = f"{self.node.folder.name}-{self._count}"
        pod = manifest(name, self._reference)
        stages.drop_caches()
        reads = self._reads()
        since = time.monotonic()
        file = self.node.schedule(pod)
        wait_until(lambda: self._client.image_status(self._reference) is not None, self.node)
        with self._client.pod(pod) as running:
            started = time.monotonic() - running.seconds["start"]
            self._client.wait_for_output(running, "numpy", seconds=_SECONDS)
            now = time.monotonic()
            reads = self._reads() - reads
        file.unlink()
        self._forget()
        return Start(now - since, now - started, reads)

    def _reads(self) -> int:
        return member.operations(self.node.folder)["READ"]

    def _forget(self) -> None:
        """Have neither the image nor its mounts."""
        self._client.remove_image(self._reference)
        self.node.containerd.ctr("content", "prune", "references", namespace="k8s.io")
        wait_until(lambda: not self._layers(), self.node)

    def _layers(self) -> list[str]:
        return processes.mounts_below(self.node.root / "layers")


def manifest(name: str, reference: str) -> dict[str, Any]:
    """A pod that does what the demo's does first."""
    return cri.manifest(
        name,
        reference,
        command=["hello"],
        annotations={"uimgacc.io/image-cache": "auto"},
        handler="uimgacc",
    )


def wait_until(
    condition: Callable[[], object], node: nodes.Node, *, seconds: float = _SECONDS
) -> None:
    """Return when the condition holds."""
    deadline, pace = time.monotonic() + seconds, polling.Pace(0.02)
    while not condition():
        if time.monotonic() > deadline:
            raise processes.LabError(f"it does not come about:\n{node.agent.said(40)}")
        pace.pause()


def starts(subjects: dict[str, Subject], server: nfsd.Server, rounds: int) -> None:
    """All kinds of starts, one after the other in each round."""
    found: dict[str, list[Start]] = {}
    for number in range(rounds):
        server.delay(0)
        found.setdefault("local", []).append(subjects["local"].start())
        for distance, seconds in DISTANCES.items():
            server.delay(seconds)
            for kind in ("today", "first"):
                subject = subjects["today" if kind == "today" else "near"]
                found.setdefault(f"{distance}_{kind}", []).append(subject.start())
        last = (f"{name} {each[-1].pod:.2f} s" for name, each in found.items())
        print(f"round {number + 1} of {rounds}: {', '.join(last)}", flush=True)
    server.delay(0)
    tell(figures(found))


def figures(found: dict[str, list[Start]]) -> dict[str, float]:
    """Medians of the rounds, their least and greatest, and ratios within each round."""
    flat: dict[str, float] = {}
    for name, rounds in found.items():
        flat |= spreads.of(f"far_{name}_reads", [start.reads for start in rounds])
        for measured in ("pod", "container"):
            suffix = "" if measured == "pod" else "_container"
            own = [getattr(start, measured) for start in rounds]
            key = f"far_{name}{suffix}"
            flat |= spreads.of(f"{key}_s", own)
            other = "2ms_today" if name == "2ms_first" else "local"
            if name == other:
                continue
            base = [getattr(start, measured) for start in found[other]]
            ratios = [one / two for one, two in zip(own, base, strict=True)]
            flat |= spreads.of(f"{key}_ratio", ratios)
    return flat


def tell(flat: dict[str, float]) -> None:
    """Have them read outside."""
    print(f"{MARK}{json.dumps(flat)}", flush=True)


def _environment(node: nodes.Node, **values: str) -> None:
    for process in (node.agent, node.snapshotter):
        process.environment = {**process.environment, **values}


def main() -> None:
    """`python -m benchmarks.far_inside STORE REFERENCE ROUNDS`, in the guest."""
    store, reference, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    disk.mount(_DISK)
    server = nfsd.Server(pathlib.Path("/tmp/exports"))
    shutil.copytree(store, server.add("store"), dirs_exist_ok=True)
    server.add_again("old", "store")
    shutil.copytree(store, _DISK / "store")
    (_DISK / "registry").mkdir()
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(registries.Registry(_DISK / "registry"))
        local = nodes.Node(_DISK / "local", registry, _DISK / "store")
        today = member.Node(_DISK / "today", registry, f"{nfsd.ADDRESS}:/old")
        near = member.Node(_DISK / "near", registry)
        _environment(local, **_UNTOUCHED)
        _environment(today, **_UNTOUCHED)
        near.agent.environment = {**near.agent.environment, **_UNCOPIED}
        subjects = {}
        for name, node in (("local", local), ("today", today), ("near", near)):
            stack.enter_context(node)
            client = stack.enter_context(node.containerd.cri())
            subjects[name] = Subject(node, reference, client)
        starts(subjects, server, rounds)


if __name__ == "__main__":
    main()
