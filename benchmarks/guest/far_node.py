"""A node that is measured in `benchmarks.guest.far`'s guest, and how figures leave that."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import stages
from lab import polling, processes
from lab.guest import member
from lab.runtime import cri, nodes

MARK = "figures: "
_SECONDS = 120.0


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
        self.client = client
        self._reference = reference
        self._count = 0

    def start(self) -> Start:
        """Start a pod of the image with all caches dropped; nothing of it is left afterwards."""
        pod = self.pod("hello")
        stages.drop_caches()
        reads = self.reads()
        since = time.monotonic()
        with self.running(pod) as running:
            started = time.monotonic() - running.seconds["start"]
            self.client.wait_for_output(running, "numpy", seconds=_SECONDS)
            now = time.monotonic()
            reads = self.reads() - reads
        return Start(now - since, now - started, reads)

    def pod(self, *command: str) -> dict[str, Any]:
        """The manifest of a pod with a name of its own."""
        self._count += 1
        return cri.manifest(
            f"{self.node.folder.name}-{self._count}",
            self._reference,
            command=command,
            annotations={"uimgacc.io/image-cache": "auto"},
            handler="uimgacc",
        )

    @contextlib.contextmanager
    def running(self, pod: dict[str, Any]) -> Iterator[cri.Pod]:
        """Start a pod as a kubelet does, once the agent has made its image ready."""
        file = self.node.schedule(pod)
        wait_until(lambda: self.client.image_status(self._reference) is not None, self.node)
        try:
            with self.client.pod(pod) as running:
                yield running
        finally:
            file.unlink()
            self._forget()

    def restart_agent(self, **environment: str) -> None:
        """Start the agent anew: what it remembers of earlier starts is gone."""
        self.node.agent.end()
        set_environment(self.node.agent, **environment)
        self.node.start_agent()
        wait_until(lambda: self.node.metric("uimgacc_node_capable") == 1, self.node)

    def reads(self) -> int:
        """How many READs this machine has asked the store's server for."""
        return member.operations(self.node.folder)["READ"]

    def _forget(self) -> None:
        """Have neither the image nor its mounts."""
        self.client.remove_image(self._reference)
        self.node.containerd.ctr("content", "prune", "references", namespace="k8s.io")
        wait_until(lambda: not processes.mounts_below(self.node.root / "layers"), self.node)


def wait_until(
    condition: Callable[[], object], node: nodes.Node, *, seconds: float = _SECONDS
) -> None:
    """Return when the condition holds."""
    deadline, pace = time.monotonic() + seconds, polling.Pace(0.02)
    while not condition():
        if time.monotonic() > deadline:
            raise processes.LabError(f"it does not come about:\n{node.agent.said(40)}")
        pace.pause()


def set_environment(process: processes.Process, **values: str) -> None:
    """Change settings of a process for its next start."""
    process.environment = {**process.environment, **values}


def tell(flat: dict[str, float]) -> None:
    """Have them read outside."""
    print(f"{MARK}{json.dumps(flat)}", flush=True)
