"""`make demo`: a large image, the ordinary way and with uimgacc, on real parts, timed.

Also beside a pod whose image was pulled before: what remains once there is no pull.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import rich.console
import rich.table

from lab import places, processes, scratch
from lab.runtime import cri, nodes
from lab.web import registries

IMAGE = "lab/large:1"
READY, EVERYTHING = "ready", "read everything"
SCRIPT = f"hello && readall && echo {READY}"

ALREADY_PULLED_BAR = 1.1
"""What the first output of an image that is new may take, beside one that was pulled before."""

console = rich.console.Console()


def main() -> None:
    """Run the demo."""
    os.environ["PATH"] = f"{places.BIN}{os.pathsep}{os.environ['PATH']}"
    with (
        scratch.folder("demo") as folder,
        registries.Registry(folder / "registry") as registry,
    ):
        outcome = run(folder, registry)
    print(json.dumps(outcome))


def run(folder: pathlib.Path, registry: registries.Registry) -> dict[str, Any]:
    """Build, start it each way, show the table; the figures."""
    store = folder / "store"
    reference = f"{registry.address}/{IMAGE}"
    say("1. The image is unpacked once, into the store")
    started = time.monotonic()
    subprocess.run(
        [
            *(nodes.COMMAND, "create", "large", "--image", reference),
            *("--plain-http", registry.address, "--store", store),
        ],
        check=True,
    )
    build = time.monotonic() - started
    with nodes.Node(folder / "node", registry, store) as node:
        with cri.Client(node.containerd.address, folder / "logs") as client:
            say("2. A pod starts the ordinary way: containerd pulls and unpacks the image")
            ordinary = start(client, manifest("ordinary", reference, accelerated=False))
            say("3. The same pod once more: its image is on the local disk, nothing is pulled")
            pulled = start(client, manifest("pulled", reference, accelerated=False))
            client.remove_image(reference)
            say("4. The same pod, with an annotation: its image is there before it is asked for")
            mark = registry.mark()
            accelerated = start_accelerated(client, node, reference)
            fetched = len(registry.layer_gets(mark))
        saved = node.metric("uimgacc_pull_saved_seconds_total")
        status = json.loads(node.get("/status"))
    show(ordinary, pulled, accelerated)
    console.print(
        f"Layer blobs fetched for the accelerated pod: [bold]{fetched}[/]. The agent's own"
        f" account: uimgacc_pull_saved_seconds_total [bold]{saved:.1f}[/]"
    )
    record = registries.catalogue()[IMAGE]
    return {
        "image_bytes": record["compressed"],
        "image_unpacked_bytes": record["unpacked"],
        "build_s": round(build, 3),
        **{f"ordinary_{name}_s": round(value, 3) for name, value in ordinary.items()},
        "already_pulled_first_output_s": round(pulled["first_output"], 3),
        "already_pulled_everything_read_s": round(pulled["everything_read"], 3),
        **{f"accelerated_{name}_s": round(value, 3) for name, value in accelerated.items()},
        "accelerated_layer_blobs_fetched": fetched,
        "saved_seconds_metric": round(saved, 3),
        "saved_by": status["savings"]["last"][-1]["method"],
        "ratio_pull": round(ordinary["pull"] / accelerated["ready"], 1),
        "ratio_first_output": round(ordinary["first_output"] / accelerated["first_output"], 1),
        "accelerated_per_already_pulled": round(
            accelerated["first_output"] / pulled["first_output"], 2
        ),
    }


def say(text: str) -> None:
    """A heading."""
    console.print(f"\n[bold]{text}[/]")


def manifest(name: str, reference: str, *, accelerated: bool) -> dict[str, Any]:
    """A pod as a user would write it; the accelerated one is the same with two lines more."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {
            "containers": [
                {"name": "main", "image": reference, "command": ["sh", "-c", SCRIPT]},
            ]
        },
    }
    if accelerated:
        pod["metadata"]["annotations"] = {"k8s.aliyun.com/eci-image-cache": "true"}
        pod["spec"]["runtimeClassName"] = "uimgacc"
    return pod


def start(
    client: cri.Client, pod: dict[str, Any], *, since: float | None = None
) -> dict[str, float]:
    """Run a pod as the kubelet does; seconds from `since` (now) to each milestone."""
    if since is None:
        drop_caches()
        since = time.monotonic()
    with client.pod(pod) as running:
        times = {"pull": running.seconds.get("pull", 0.0)}
        client.wait_for_output(running, "numpy")
        times["first_output"] = time.monotonic() - since
        client.wait_for_output(running, EVERYTHING, seconds=300)
        times["everything_read"] = time.monotonic() - since
        for line in running.output.splitlines()[:3]:
            console.print(f"   [dim]{line}[/]")
    return times


def start_accelerated(client: cri.Client, node: nodes.Node, reference: str) -> dict[str, float]:
    """The manifest appears on the node, the agent registers the image, then the kubelet starts."""
    pod = manifest("accelerated", reference, accelerated=True)
    drop_caches()
    since = time.monotonic()
    node.schedule(pod)
    while client.image_status(reference) is None:
        if time.monotonic() - since > 30:
            raise processes.LabError(f"never registered:\n{node.agent.said()}")
        time.sleep(0.002)
    ready = time.monotonic() - since
    console.print(f"   image ready {ready * 1000:.0f} ms after the manifest appeared")
    return {"ready": ready} | start(client, pod, since=since)


def drop_caches() -> None:
    """A cold page cache for both."""
    subprocess.run(["sync"], check=True)
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def rows(
    ordinary: dict[str, float], pulled: dict[str, float], accelerated: dict[str, float]
) -> Iterator[tuple[str, ...]]:
    """The lines of the table."""
    for title, one, other in (
        ("image ready", ordinary["pull"], accelerated["ready"]),
        ("first output", ordinary["first_output"], accelerated["first_output"]),
        ("everything read", ordinary["everything_read"], accelerated["everything_read"]),
    ):
        yield title, f"{one:.2f} s", f"{other:.2f} s", f"{one / other:.1f} x"
    one, other = pulled["first_output"], accelerated["first_output"]
    yield "already pulled, cold", f"{one:.2f} s", f"{other:.2f} s", f"{one / other:.2f} x"


def show(
    ordinary: dict[str, float], pulled: dict[str, float], accelerated: dict[str, float]
) -> None:
    """The table."""
    table = rich.table.Table(title="From the pod's manifest to ... (cold page cache)")
    for column in ("", "ordinary", "uimgacc", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows(ordinary, pulled, accelerated):
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print(
        "already pulled, cold: the first output of a second ordinary pod, whose image is on the"
        " local disk (overlayfs), beside that of the uimgacc pod in step 4, for which the image is"
        " new. The page cache was dropped before each. uimgacc / already pulled:"
        f" [bold]{accelerated['first_output'] / pulled['first_output']:.2f}[/], meant to be"
        f" {ALREADY_PULLED_BAR} at most"
    )


if __name__ == "__main__":
    main()
