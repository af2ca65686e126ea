"""What `benchmarks.guest.far` measures in its guest: starts, copying, switches, the store far away.

Three nodes on one disk, each a containerd with snapshotter and agent:

| node | store | |
|---|---|---|
| `local` | on the node's disk | layers are read from there from the first byte |
| `today` | NFS | as before local copies, start profiles and reading ahead: all of it off |
| `near` | NFS | the defaults |

Where starts are compared, nothing is copied (a budget of 0 bytes): each is one from the store.
"""

import contextlib
import pathlib
import shutil
import sys

from agent.local import copy_paths
from benchmarks import spreads, stages
from benchmarks.guest import far_copies, far_node
from lab import processes
from lab.guest import disk, member, nfsd
from lab.runtime import nodes
from lab.web import registries

DISTANCES = {"05ms": 0.0005, "2ms": 0.002}
"""Round trips, by their names in figures."""

_DISK = pathlib.Path("/tmp/disk")
_UNTOUCHED = {
    "UIMGACC_LOCAL": "off",
    "UIMGACC_START_PROFILES": "off",
    "UIMGACC_READ_AHEAD_KB": "0",
}
_UNCOPIED = {"UIMGACC_LOCAL_BYTES": "0"}


class Profile:
    """The profile of the image's start on one node: made once, then there or not."""

    def __init__(self, subject: far_node.Subject) -> None:
        self._subject = subject
        self._folder = pathlib.Path(copy_paths.of(str(subject.node.root)).profiles)
        self._kept = subject.node.folder / "profile"

    def record(self) -> None:
        """Have the agent observe a start, and keep what it has made of that."""
        node = self._subject.node
        stages.drop_caches()
        with self._subject.running(self._subject.pod("sh", "-c", "hello && sleep 1000")):
            far_node.wait_until(lambda: node.metric("uimgacc_profiles_recorded_total"), node)
        shutil.copytree(self._folder, self._kept)

    def start(self, *, known: bool) -> far_node.Start:
        """A start by an agent that has the profile, or has seen no start of the image."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if known:
            shutil.copytree(self._kept, self._folder)
        self._subject.restart_agent()
        used = self._subject.node.metric("uimgacc_read_ahead_bytes_total")
        start = self._subject.start()
        more = self._subject.node.metric("uimgacc_read_ahead_bytes_total") - used
        if bool(more) is not known:
            raise processes.LabError(f"{more:.0f} bytes were read ahead of a start")
        return start


def starts(subjects: dict[str, far_node.Subject], server: nfsd.Server, rounds: int) -> None:
    """All kinds of starts, one after the other in each round."""
    found: dict[str, list[far_node.Start]] = {}
    profile = Profile(subjects["near"])
    profile.record()
    for number in range(rounds):
        server.delay(0)
        found.setdefault("local", []).append(subjects["local"].start())
        for distance, seconds in DISTANCES.items():
            server.delay(seconds)
            found.setdefault(f"{distance}_today", []).append(subjects["today"].start())
            found.setdefault(f"{distance}_first", []).append(profile.start(known=False))
            found.setdefault(f"{distance}_profile", []).append(profile.start(known=True))
        last = (f"{name} {each[-1].pod:.2f} s" for name, each in found.items())
        print(f"round {number + 1} of {rounds}: {', '.join(last)}", flush=True)
    server.delay(0)
    far_node.tell(figures(found))


def figures(found: dict[str, list[far_node.Start]]) -> dict[str, float]:
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
            flat |= spreads.ratio(f"{key}_ratio", own, base)
    return flat


def main() -> None:
    """`python -m benchmarks.guest.far_inside STORE REFERENCE ROUNDS`, in the guest."""
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
        for node in (local, today):
            far_node.set_environment(node.agent, **_UNTOUCHED)
            far_node.set_environment(node.snapshotter, UIMGACC_LOCAL="off")
        far_node.set_environment(near.agent, **_UNCOPIED)
        subjects = {}
        for name, node in (("local", local), ("today", today), ("near", near)):
            stack.enter_context(node)
            client = stack.enter_context(node.containerd.cri())
            subjects[name] = far_node.Subject(node, reference, client)
        starts(subjects, server, rounds)
        for name in ("local", "today"):
            subjects[name].node.close()
        server.delay(DISTANCES["05ms"])
        far_copies.measure(subjects["near"], near.place)


if __name__ == "__main__":
    main()
