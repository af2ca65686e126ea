"""`python -m lab.chaos [--minutes 5] [--seed N]`: everything is killed, all the time.

Agent, snapshotter, containerd, their workers and builders are killed with SIGKILL and started
again, as systemd and the kubelet do it, while pods come and go, a container reads its files
again and again, and images are built into the store. What must hold: each pod runs within a
minute with the right files, the reader never sees a wrong byte, the store is whole, and a while
after the last pod nothing of them is left on the node: no snapshot, lease, image, container, mount
or process. Printed is one line of JSON.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from lab import places, processes, scratch
from lab.runtime import cri, nodes
from lab.web import registries

IMAGES = ("lab/zstd:1", "lab/layers40:1", "lab/multi:1")
READ_ALL = (
    "find / -xdev -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/etc/*' ! -path '/dev/*'"
    " -exec sha256sum {} + | sort | sha256sum"
)
POD_SECONDS = 60.0
TIDY_SECONDS = 120.0
STRAY_SECONDS = 20.0
ANNOTATIONS = {"uimgacc.io/image-cache": "auto"}
CONTAINERDS_LEASE = re.compile(r"[0-9]{1,9}-[A-Za-z0-9_-]{4}|[0-9a-f]{64}")
"""Leases that containerd takes for pulls, and for sandboxes, whose IDs they have. Of what it was
killed with one may stay on any node: of a pull for a day, and the agent ends those that keep
layers. What they keep of the snapshotter would be found as a snapshot or a mount."""


class Chaos:
    """What the threads share: the time to stop, what went wrong, what was counted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.over = threading.Event()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def random(self, name: str) -> random.Random:
        """A generator for one thread: its choices follow from the seed."""
        return random.Random(f"{self.seed} {name}")

    @contextlib.contextmanager
    def running(self, *services: Callable[[], None]) -> Iterator[None]:
        """Run services in threads for the time of a block; one that raises is a fault."""
        threads = [threading.Thread(target=self._guarded, args=(each,)) for each in services]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def _guarded(self, service: Callable[[], None]) -> None:
        try:
            service()
        except Exception as error:  # noqa: BLE001 - the run reports it and goes on to its end
            self.faults.append(f"{service.__name__}: {type(error).__name__}: {error}")


class World:
    """A node, a registry and a store, and what pods must read in each image."""

    def __init__(self, chaos: Chaos, folder: pathlib.Path, registry: registries.Registry) -> None:
        self.chaos = chaos
        self.folder = folder
        self.registry = registry
        self.store = folder / "store"
        self.node = nodes.Node(folder / "node", registry, self.store)
        self.expected: dict[str, str] = {}
        self.lock = threading.Lock()

    def client(self, name: str) -> cri.Client:
        """A CRI client of a thread's own."""
        return cri.Client(self.node.containerd.address, self.folder / f"logs-{name}")

    def manifest(self, name: str, image: str, script: str, *, handler: str) -> dict[str, Any]:
        """A pod that runs a script."""
        reference = f"{self.registry.address}/{image}"
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "annotations": ANNOTATIONS if handler else {},
            },
            "spec": {
                "runtimeClassName": handler,
                "containers": [
                    {"name": "main", "image": reference, "command": ["sh", "-c", script]}
                ],
            },
        }

    def learn(self) -> None:
        """What the files of each image are, by containerd's own pull and unpack."""
        with self.client("learn") as client:
            for image in IMAGES:
                name = f"learn-{image.split('/')[1].replace(':', '-')}"
                with client.pod(self.manifest(name, image, READ_ALL, handler="")) as pod:
                    client.wait_for_exit(pod)
                    self.expected[image] = pod.output.strip()
                client.remove_image(f"{self.registry.address}/{image}")

    def create(self, name: str, image: str) -> subprocess.Popen[bytes]:
        """Begin a build into the store."""
        return subprocess.Popen(
            [
                *(nodes.COMMAND, "create", name, "--image", f"{self.registry.address}/{image}"),
                *("--plain-http", self.registry.address, "--store", self.store),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "builds.log").open("ab"),
        )

    def left(self) -> dict[str, set[str]]:
        """What there is on the node that pods and images leave."""
        node = self.node
        rows = {
            "snapshots": ("snapshots", "--snapshotter", "uimgacc", "ls"),
            "leases": ("leases", "ls"),
            "images": ("images", "ls"),
            "containers": ("containers", "ls"),
        }
        found = {
            kind: {
                line.split()[0]
                for line in node.containerd.ctr(*command, namespace="k8s.io").splitlines()[1:]
            }
            for kind, command in rows.items()
        }
        found["leases"] = {
            each for each in found["leases"] if not CONTAINERDS_LEASE.fullmatch(each)
        }
        return found | {"mounts": set(processes.mounts_below(node.root / "layers"))}

    # The services, each for one thread.

    def kill(self) -> None:
        """Kill one process after the other, and start it again at once."""
        pick, node = self.chaos.random("kill"), self.node
        while not self.chaos.over.wait(pick.uniform(0.3, 1.5)):
            victim = pick.choice(("agent", "snapshotter", "containerd", "a worker"))
            self.chaos.counts[f"killed {victim}"] += 1
            if victim == "agent":
                node.agent.end(signal.SIGKILL)
                node.agent.start()
            elif victim == "snapshotter":
                node.snapshotter.end(signal.SIGKILL)
                node.start_snapshotter()
            elif victim == "containerd":
                node.containerd.kill()
                node.containerd.process.start()
                node.containerd.process.wait_for_socket(str(node.containerd.address))
            else:
                parent = pick.choice((node.agent.pid, node.snapshotter.pid))
                children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text()
                if children.split():
                    processes.kill(int(pick.choice(children.split())))

    def build(self) -> None:
        """Build images under new names; every other build is killed on its way, and repeated."""
        pick = self.chaos.random("build")
        while not self.chaos.over.is_set():
            name, image = f"chaos-{pick.randrange(4)}", pick.choice(IMAGES)
            if pick.random() < 0.5:
                process = self.create(name, image)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(pick.uniform(0.2, 2.0))
                process.kill()
                process.wait()
                self.chaos.counts["killed builder"] += 1
            if self.create(name, image).wait(120):
                self.chaos.faults.append(f"a build of {image} failed; see builds.log")
            self.chaos.counts["built"] += 1

    def pods(self) -> None:
        """Run pods one after the other, each retried as the kubelet does."""
        pick = self.chaos.random("pods")
        number = 0
        with self.client("pods") as client:
            while not self.chaos.over.is_set():
                number += 1
                image = pick.choice(IMAGES)
                manifest = self.manifest(f"pod-{number}", image, READ_ALL, handler="uimgacc")
                file = self.node.schedule(manifest)
                self.chaos.over.wait(pick.uniform(0.0, 0.5))
                self._run(client, manifest, image)
                file.unlink()
                if pick.random() < 0.3:
                    with contextlib.suppress(grpc.RpcError):
                        client.remove_image(f"{self.registry.address}/{image}")

    def _run(self, client: cri.Client, manifest: dict[str, Any], image: str) -> None:
        """One pod to its end; a fault where it does not run in time or reads something else."""
        name, started, problem = manifest["metadata"]["name"], time.monotonic(), ""
        attempt = 0
        while time.monotonic() - started < POD_SECONDS:
            attempt += 1
            manifest["metadata"]["uid"] = f"uid-{name}-{attempt}"
            try:
                with client.pod(manifest) as pod:
                    client.wait_for_exit(pod, seconds=30)
                    output = pod.output.strip()
            except (grpc.RpcError, processes.LabError) as error:
                problem = str(error)[:300]
                time.sleep(0.2)
                continue
            if output == self.expected[image]:
                self.chaos.counts["pods"] += 1
                return
            if output:
                self.chaos.faults.append(f"{name} read other files in {image}: {output[:200]}")
                return
        self.chaos.faults.append(f"{name} did not run within {POD_SECONDS:.0f} s: {problem}")


def read(world: World, client: cri.Client, pod: cri.Pod) -> None:
    """What the reader has written must be the same each time."""
    lines = [line for line in pod.output.splitlines() if line.strip()]
    world.chaos.counts["rounds of the reader"] = len(lines)
    if set(lines) - {world.expected[IMAGES[1]]}:
        world.chaos.faults.append(f"the reader saw other files: {sorted(set(lines))[:3]}")
    if client.exit_code(pod.containers[0]) is not None:
        world.chaos.faults.append("the reader has ended")


def tidy(world: World, before: dict[str, set[str]]) -> None:
    """Remove pods and images, and wait until the node is as it was."""
    with world.client("tidy") as client:
        client.wait_until_ready()
        messages = client.messages
        for sandbox in client.runtime.ListPodSandbox(messages.ListPodSandboxRequest()).items:
            client.remove_pod(cri.Pod(sandbox.metadata.name, sandbox.id, [], {}, []))
        for image in client.list_images():
            for reference in (*image.repo_tags, *image.repo_digests):
                if world.registry.address in reference and "pause" not in reference:
                    with contextlib.suppress(grpc.RpcError):
                        client.remove_image(reference)
    deadline = time.monotonic() + TIDY_SECONDS
    while True:
        more = {kind: sorted(found - before[kind]) for kind, found in world.left().items()}
        more = {kind: names for kind, names in more.items() if names}
        if not more:
            return
        if time.monotonic() > deadline:
            world.chaos.faults.append(f"left after {TIDY_SECONDS:.0f} s: {json.dumps(more)}")
            return
        time.sleep(1)


def strays(world: World) -> None:
    """Wait until no process of the node and of builds is left: shims, workers, mkfs.erofs."""
    own = (f"{world.folder}/node".encode(), str(world.store).encode())
    deadline = time.monotonic() + STRAY_SECONDS
    while True:
        left = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if any(each in line for each in own):
                    left.append(line.replace(b"\0", b" ").decode(errors="replace")[:200])
        if not left:
            return
        if time.monotonic() > deadline:
            world.chaos.faults.append(f"processes after {STRAY_SECONDS:.0f} s: {sorted(left)}")
            return
        time.sleep(0.5)


def run(folder: pathlib.Path, registry: registries.Registry, chaos: Chaos, minutes: float) -> None:
    """The whole run."""
    world = World(chaos, folder, registry)
    for at, image in enumerate(IMAGES):
        if world.create(f"image-{at}", image).wait(120):
            raise processes.LabError((folder / "builds.log").read_text())
    with world.node:
        world.learn()
        before = world.left()
        # The agent has the sandbox's image, which is pinned, served from the store as well.
        before["snapshots"] |= set(registries.catalogue()["lab/pause:1"]["diff_ids"])
        reader = world.manifest(
            "reader", IMAGES[1], f"while true; do {READ_ALL}; done", handler="uimgacc"
        )
        file = world.node.schedule(reader)
        with world.client("reader") as client, client.pod(reader) as pod:
            with chaos.running(world.kill, world.build, world.pods):
                chaos.over.wait(minutes * 60)
            client.wait_until_ready()
            read(world, client, pod)
        file.unlink()
        tidy(world, before)
    strays(world)
    checked = subprocess.run(
        [nodes.COMMAND, "store", "check", "--store", world.store],
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        chaos.faults.append(f"store check: {checked.stdout[-500:]}")


def main() -> None:
    """Run it; exit with 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    wanted = parser.parse_args()
    os.environ["PATH"] = f"{places.BIN}{os.pathsep}{os.environ['PATH']}"
    chaos = Chaos(wanted.seed)
    with (
        scratch.folder("chaos") as folder,
        registries.Registry(folder / "registry") as registry,
    ):
        run(folder, registry, chaos, wanted.minutes)
    print(json.dumps({"seed": chaos.seed, **chaos.counts, "faults": chaos.faults}))
    raise SystemExit(1 if chaos.faults else 0)


if __name__ == "__main__":
    main()
