"""Pods on a node with the agent: registration, many containers at once."""

import concurrent.futures
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import spreads, stages
from lab.runtime import cri, nodes

RUNS = 5
CREATE_ROUNDS = 15
AT_ONCE = 100


def run(stage: stages.Stage) -> dict[str, float]:
    """All figures of this module."""
    stages.drop_caches()  # what earlier parts have written must not be in the way of an fsync
    with (
        nodes.Node(stage.folder / "node", stage.registry, stage.store) as node,
        cri.Client(node.containerd.address, stage.folder / "logs") as client,
    ):
        flat = {}
        for layers in (2, 40):
            reference = stage.reference(f"lab/layers{layers}:1")
            flat[f"register_{layers}_layers_ms"] = registration(
                node, client, reference, functools.partial(_appear, node, reference)
            )
        flat |= create_at_once(client, stage.reference("lab/layers40:1"))
    return flat


def _appear(node: nodes.Node, reference: str, name: str) -> Callable[[], None]:
    """Put a manifest into the agent's folder, whole at once; what removes it."""
    return node.schedule(manifest(name, reference)).unlink


def manifest(name: str, reference: str) -> dict[str, Any]:
    """A pod that asks for a cache."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "annotations": {"uimgacc.io/image-cache": "auto"},
        },
        "spec": {
            "runtimeClassName": "uimgacc",
            "containers": [{"name": "c", "image": reference, "command": ["sleep", "600"]}],
        },
    }


def wait_for_image(client: cri.Client, reference: str, *, present: bool) -> None:
    """Return when the CRI has (or no longer has) the image."""
    deadline = time.monotonic() + 30
    while (client.image_status(reference) is not None) is not present:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{reference} is not {'there' if present else 'gone'}")
        time.sleep(0.001)


def registration(
    node: nodes.Node,
    client: cri.Client,
    reference: str,
    appear: Callable[[str], Callable[[], None]],
    *,
    runs: int = RUNS,
) -> float:
    """Median milliseconds from a pod's appearing to the CRI's having its image.

    `appear` has a pod of this name appear and returns what has it go again. The image
    is registered only after its layers are mounted, so this is both.
    """
    seconds = []
    for index in range(runs + 1):
        started = time.perf_counter()
        name = f"pod-{time.monotonic_ns()}"
        disappear = appear(name)
        wait_for_image(client, reference, present=True)
        if index:  # the first one warms nothing but the page cache of the tools
            seconds.append(time.perf_counter() - started)
        # The image's other names come a moment later: one made after the removal would keep
        # the snapshots, and the next round would be warm.
        wait_until_served(node, name)
        disappear()
        client.remove_image(reference)
        wait_for_image(client, reference, present=False)
        # Without it containerd may keep the snapshots for a while, and the next one is warm.
        node.containerd.ctr("content", "prune", "references", namespace="k8s.io")
        time.sleep(0.3)
    return statistics.median(seconds) * 1000


def wait_until_served(node: nodes.Node, pod: str) -> None:
    """Return when the agent has done all that it does for a pod."""
    deadline = time.monotonic() + 30
    while True:
        pods = {found["name"]: found for found in json.loads(node.get("/status"))["pods"]}
        if pods.get(pod, {}).get("served"):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pod} is not served")
        time.sleep(0.01)


def create_at_once(client: cri.Client, reference: str) -> dict[str, float]:
    """Median milliseconds that a CreateContainer takes longer than on overlayfs, 100 at once."""
    medians: dict[str, list[float]] = {"runc": [], "uimgacc": []}
    for index in range(CREATE_ROUNDS):
        # Each round has both, now the one first, now the other: the machine's mood hits both.
        for handler in sorted(medians, reverse=bool(index % 2)):
            client.pull_image(reference, handler=handler)
            os.sync()  # the removals of the round before are still being written
            time.sleep(1)
            medians[handler].append(_create(client, reference, handler))
    slow, fast = (statistics.median(medians[handler]) for handler in ("uimgacc", "runc"))
    added = [
        ours - theirs for ours, theirs in zip(medians["uimgacc"], medians["runc"], strict=True)
    ]
    return {
        **spreads.of("create100_added_ms", [each * 1000 for each in added]),
        "create100_overlayfs_ms": fast * 1000,
        "create100_uimgacc_ms": slow * 1000,
    }


def _create(client: cri.Client, reference: str, handler: str) -> float:
    messages = client.messages
    config = client.sandbox_config(manifest(f"many-{time.monotonic_ns()}", reference), handler)
    request = messages.RunPodSandboxRequest(config=config, runtime_handler=handler)
    sandbox = client.runtime.RunPodSandbox(request, timeout=60).pod_sandbox_id

    def create(index: int) -> float:
        container = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=f"c{index}"),
            image=messages.ImageSpec(image=reference, runtime_handler=handler),
            command=["sleep", "1"],
            log_path=f"c{index}.log",
        )
        request = messages.CreateContainerRequest(
            pod_sandbox_id=sandbox, config=container, sandbox_config=config
        )
        started = time.perf_counter()
        client.runtime.CreateContainer(request, timeout=120)
        return time.perf_counter() - started

    try:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return statistics.median(pool.map(create, range(AT_ONCE)))
    finally:
        request = messages.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        client.runtime.RemovePodSandbox(request, timeout=120)
