"""A status as a busy node has it, for tests of what shows it."""

import datetime

from agent.matching import estimates as arithmetic
from agent.node.health import capability
from agent.node.images import containerd_watch, retirement
from agent.node.near import copies, warm_images
from agent.node.report import status

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
PULLS = {"bytes": 1.2e9, "bytes_per_second": 40e6, "samples": 5}
BUILD = {"bytes": 3e8, "build_seconds": 61.0, "fetched_bytes": 6e8}


def pod(name: str, outcome: str | None = "hit", **more) -> status.Pod:
    fields = {
        "namespace": "team",
        "since": NOW - datetime.timedelta(minutes=3),
        "ended": None,
        "served": outcome is not None,
        "sentence": "All images are in cache imc-tools. Registered 1.",
        "cache": "imc-tools",
        "images": [
            status.Image(
                image=f"registry.example.com/team/{name}:1.27",
                outcome=outcome or "",
                reason="all 12 layers are in the store",
                cache="imc-tools",
            )
        ],
        "registered": [f"registry.example.com/team/{name}:1.27"] if outcome == "hit" else [],
        "laid_out": [],
        "seconds": 0.041 if outcome == "hit" else None,
    }
    return status.Pod(name=name, outcome=outcome, **{**fields, **more})


def saving(image: str, method: str, inputs: dict[str, float], expected: float | None):
    return status.Saving(
        image=image,
        when=NOW - datetime.timedelta(hours=2),
        seconds=max(0.0, (expected or 0) - 0.06),
        bytes=int(inputs.get("bytes", 5e6)),
        actual_seconds=0.06,
        expected_seconds=expected,
        method=method,
        inputs=inputs,
    )


def busy(*, problem: str = "", capable: bool = True, **more) -> status.Status:
    """A node with pods of every outcome; with `problem`, its store is away."""
    problems = {capability.Check.STORE: problem} if problem else {}
    verdict = capability.Verdict(capable=capable, problems=problems)
    started = NOW - datetime.timedelta(hours=5)
    fields = {
        "node": status.node_of(verdict, name="gpu-worker-17", started=started),
        "containerd": containerd_watch.State(
            connected=True, version="v2.1.9", pid=812, sentence="3 images looked after"
        ),
        "store": status.Store(
            path="/run/uimgacc/store",
            source="nfs.example.com:/export/images",
            kind="nfs4",
            probe_seconds=0.0012,
            problem=problem,
        ),
        "mounts": status.Mounts(
            folder="/var/lib/containerd/io.containerd.snapshotter.v1.uimgacc/layers",
            layers={
                f"{number:016x}": f"/run/uimgacc/store/sha256/ab/{number:064x}.erofs"
                for number in range(1, 40)
            },
        ),
        "pods": [
            pod("trainer-0"),
            pod(
                "notebook-with-a-rather-long-name-7c9f8d6b5-x2x4q",
                "partial",
                sentence="Cache imc-base holds 9 of 12 layers (3.1 of 4.0 GB).",
            ),
            pod("batch", "miss", sentence="No cache holds its image.", cache=None),
            pod("private", "forbidden", sentence="The cache serves other namespaces."),
            pod("new", "not_ready", sentence="Cache imc-new is being built."),
            pod("dns", "not_asked", sentence="The pod asks for no cache.", images=[], cache=None),
            pod("later", None, sentence="waiting", images=[], cache=None),
        ],
        "ended_pods": [
            pod(
                "nightly-report-28391040-x7k2p",
                "miss",
                sentence="No cache holds its image.",
                cache=None,
                ended=NOW - datetime.timedelta(minutes=1),
            )
        ],
        "manifest_problems": {"broken.yaml": "spec.containers: expected a list"},
        "savings": status.Savings(
            seconds=4210.0,
            bytes=182_000_000_000,
            images={"hit": 41, "partial": 3, "miss": 6},
            bytes_per_second=40e6,
            samples=[arithmetic.Sample(400_000_000, 10.0)] * 5,
            last=[
                saving("registry.example.com/team/old:1", "none", {}, None),
                saving("registry.example.com/team/built:2", "build", BUILD, 30.5),
                saving("registry.example.com/team/trainer:1.27", "pulls", PULLS, 30.0),
            ],
        ),
        "deletions": retirement.State(
            generation=7,
            acknowledged=6,
            held=["imc-old/0123456789abcdef: team/trainer-0"],
            sentence="Nothing is held of generation 6 and before; 7 is the newest.",
        ),
        "warm": warm_images.State(
            images=[
                warm_images.Image(
                    image="registry.example.com/team/trainer:1.27",
                    cache="imc-tools",
                    state="registered",
                    reason="",
                ),
                warm_images.Image(
                    image="registry.example.com/team/new:1",
                    cache="",
                    state="missing",
                    reason="no cache of the store has it",
                ),
            ],
            sentence="1 of 2 images are warm.",
        ),
        "local": copies.State(
            copies=9,
            size=4_200_000_000,
            budget=20_000_000_000,
            used_local=3_100_000_000,
            used_store=900_000_000,
            containers_local=3,
            containers_store=1,
            sentence="Copying layer 0123456789ab: 1.2 GiB of 2.8 GiB.",
        ),
    }
    return status.Status(**{**fields, **more})
