"""A node that is full: 110 pods run, of images with over 500 layers; memory, and idle time.

Agent and snapshotter are those of one node, and everything on it is real: images are pushed,
built, mounted, and each pod's container sleeps.
"""

import concurrent.futures
import pathlib
import statistics
import subprocess
import time

from benchmarks import processes, stages
from benchmarks.node import pods
from lab import processes as lab_processes
from lab import services
from lab.runtime import cri, nodes
from lab.samples import images, pushing, tars

IMAGES = 13
PER_IMAGE = 39
"""Layers of an image besides the one that all have."""
LAYERS = 1 + IMAGES * PER_IMAGE
PODS = 110
AT_ONCE = 4
WINDOWS = 5
WINDOW_SECONDS = 30.0
"""The longest period of what the agent does again and again."""


def run(folder: pathlib.Path) -> dict[str, float]:
    """All figures of this module."""
    store, storage = folder / "store", folder / "storage"
    folder.mkdir()
    with services.Registry(folder / "registry", storage=storage) as registry:
        references = _push(registry)
        _build(store, registry, references)
        stages.drop_caches()
        with (
            nodes.Node(folder / "node", registry, store) as node,
            cri.Client(node.containerd.address, folder / "logs") as client,
        ):
            _fill(node, client, references)
            return _measure(node)


def _push(registry: services.Registry) -> list[str]:
    """Push the images, and the one of sandboxes; the references of the former."""
    pusher = pushing.Pusher(registry.address)
    root = pushing.layer(images.busybox())
    images.pause(pusher, root)
    for number in range(IMAGES):
        layers = [
            pushing.layer([tars.file(f"file-{number}-{at}", f"{number} {at}\n".encode())])
            for at in range(PER_IMAGE)
        ]
        pusher.image(f"lab/crowd{number}", "1", [root, *layers])
    pusher.close()
    return [f"{registry.address}/lab/crowd{number}:1" for number in range(IMAGES)]


def _build(store: pathlib.Path, registry: services.Registry, references: list[str]) -> None:
    command: list[str | pathlib.Path] = [processes.COMMAND, "create", "crowd"]
    command += ["--plain-http", registry.address, "--store", store, "--json"]
    command += [word for reference in references for word in ("--image", reference)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _fill(node: nodes.Node, client: cri.Client, references: list[str]) -> None:
    """Run the pods; return when all run, and all layers are mounted."""
    manifests = [
        pods.manifest(f"crowd-{number}", references[number % IMAGES]) for number in range(PODS)
    ]
    for manifest in manifests:
        node.schedule(manifest)
    for manifest in manifests:
        pods.wait_until_served(node, manifest["metadata"]["name"])
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(client.run_pod, manifests))
    mounted = len(lab_processes.mounts_below(node.root / "layers"))
    if mounted != LAYERS:
        raise RuntimeError(f"{mounted} layers are mounted, not {LAYERS}")


def _measure(node: nodes.Node) -> dict[str, float]:
    """Medians of some looks at memory, and of some windows of idle time between them."""
    watched = {"snapshotter": node.snapshotter.pid, "agent": node.agent.pid}
    found: dict[str, list[float]] = {}
    time.sleep(5)  # what was going on is done
    for _ in range(WINDOWS):
        used = processes.used_percent(list(watched.values()), WINDOW_SECONDS)
        found.setdefault("idle_cpu_percent", []).append(used)
        for name, pid in watched.items():
            found.setdefault(f"{name}_rss_mib", []).append(processes.rss_mib(pid))
            found.setdefault(f"{name}_tree_pss_mib", []).append(processes.tree_pss_mib(pid))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"crowd_layers": LAYERS, "crowd_pods": PODS}
