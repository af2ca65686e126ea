"""Clusters as `uimgacc status` has read them: one that is well, and one of 5,000 nodes."""

import datetime
from typing import Any

from agent.cli.cluster import cache_tally, node_tally, policy_tally, survey
from agent.control.caches import cache_object
from agent.model import keys, reports

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY = "2026-03-01"
IMAGE = "registry.example.com/uimgacc:0.1.0"


def node(name: str, reason: str = "", message: str = "", **labels: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
    if reason:
        conditions.append(
            {"type": keys.NODE_CONDITION, "status": "False", "reason": reason, "message": message}
        )
    return {"metadata": {"name": name, "labels": labels}, "status": {"conditions": conditions}}


def cache(
    name: str, phase: str = "Ready", message: str = "", **more: Any
) -> cache_object.CacheObject:
    status = {"phase": phase, "message": message, "progress": "100%", **more.pop("status", {})}
    meta = {
        "name": name,
        "uid": name,
        "resourceVersion": "1",
        "creationTimestamp": "2026-02-01T00:00:00Z",
        **more,
    }
    body = {
        "apiVersion": keys.API_VERSION,
        "kind": "ImageCache",
        "metadata": meta,
        "spec": {"images": [f"registry.example.com/{name}:1"]},
        "status": status if phase else {},
    }
    return cache_object.parse(body)


def nodes(*bodies: dict[str, Any], capable: int = 0) -> node_tally.Nodes:
    tally = node_tally.Nodes()
    for number in range(capable):
        tally.label({"name": f"well-{number}", "labels": {keys.CAPABLE: "true"}})
    for body in bodies:
        tally.label(body["metadata"])
        tally.explain(body)
    return tally


def caches(*each: cache_object.CacheObject) -> cache_tally.Caches:
    tally = cache_tally.Caches(NOW)
    for one in each:
        tally.add(one)
    return tally


def saved(seconds: float, size: int, *images: str, day: str = DAY) -> reports.Saved:
    share = [
        reports.SavedImage(image=image, seconds=seconds / 2**at, size=size >> at, count=1)
        for at, image in enumerate(images, 1)
    ]
    today = reports.SavedDay(day=day, seconds=seconds, size=size, count=3, images=share)
    return reports.Saved(
        seconds=10 * seconds, size=10 * size, images={"hit": 25, "miss": 5}, today=today
    )


def policy(
    name: str, *, caches: int = 0, ready: int = 0, size: int = 0, over: int = 0, problem: str = ""
) -> policy_tally.Policy:
    """A policy as its status says, of which `over` images are over the budget."""
    carried_out = {"type": "Ready", "status": "False" if problem else "True"}
    said = {"reason": "InvalidSpec" if problem else "CarriedOut", "message": problem}
    within = {"type": "WithinBudget", "status": "False" if over else "True"}
    left = [{"image": f"r/{at}:1", "reason": "OverBudget"} for at in range(over)]
    status = {
        "conditions": [carried_out | said, within],
        "caches": caches,
        "ready": ready,
        "bytes": size,
        "budgetBytes": 1 << 40,
        "leftOut": [*left, {"image": "r/mine:1", "reason": "CachedAlready"}],
    }
    return policy_tally.of_object({"metadata": {"name": name}, "status": status})


def small() -> survey.Survey:
    """Three nodes, and all is well."""
    return survey.Survey(
        namespace="uimgacc-system",
        version="0.1.0",
        now=NOW,
        agents=survey.Workload(wanted=3, ready=3, updated=3, image=IMAGE),
        controller=survey.Workload(wanted=2, ready=2, updated=2, image=IMAGE),
        leader=survey.Leader(holder="uimgacc-controller-7c9f-x2k4q", age=2.0),
        nodes=nodes(capable=3),
        caches=caches(cache("tools", status={"size": 12 << 30})),
        policies=[policy("teams", caches=12, ready=12, size=181 << 30)],
        savings=node_tally.saved_by(
            [saved(84.0, 3 << 30, "registry.example.com/team/trainer:1.27")], day=DAY
        ),
        requests=11,
    )


def large() -> survey.Survey:
    """5,000 nodes and 10,000 caches, and some of everything that may be wrong."""
    store = [
        node(f"gpu-{n}", "StoreUnavailable", "read did not answer within 2 s") for n in range(7)
    ]
    handler = [
        node(f"new-{n}", "RuntimeHandlerMissing", "containerd has no runtime handler uimgacc")
        for n in range(40)
    ]
    local = [
        node(
            f"edge-{n}",
            "ServedLocally",
            "read did not answer within 2 s; 12 images are served"
            " locally, from this node's own copies",
            **{keys.CAPABLE: keys.CAPABLE_LOCAL},
        )
        for n in range(3)
    ]
    kernels = [node("old-1", "KernelNotSuitable", "kernel 5.4 is too old")]
    plain = [node(f"windows-{n}") for n in range(12)]
    builds = [
        *(cache(f"app-{n}", status={"size": 1 << 30}) for n in range(60)),
        *(
            cache(
                f"gone-{n}",
                "Failed",
                "The build failed: 404 manifest unknown. It is tried again"
                " at 12:05:00 UTC (failure 3).",
            )
            for n in range(25)
        ),
        *(
            cache(f"full-{n}", "Failed", "The build failed: no space left on device.")
            for n in range(4)
        ),
        *(
            cache(
                f"slow-{n}",
                "Creating",
                "It is being built: layer 3 of 12.",
                status={"startTime": "2026-03-01T08:00:00Z"},
            )
            for n in range(2)
        ),
        *(
            cache(
                f"queued-{n}",
                "Pending",
                "It waits for a free slot: it is built when it is the turn of its namespace.",
            )
            for n in range(30)
        ),
        cache(
            "moved",
            status={
                "tags": {
                    "moved": [
                        {
                            "image": "registry.example.com/moved:latest",
                            "cached": "sha256:a",
                            "digest": "sha256:b",
                            "noticedTime": "2026-03-01T10:00:00Z",
                        }
                    ]
                }
            },
        ),
        cache(
            "old",
            deletionTimestamp="2026-03-01T11:00:00Z",
            message="Cache imc-x is deleted; its layers stay until they are released: they are"
            " held by 2 pods on gpu-3.",
        ),
        cache("fresh", "", creationTimestamp="2026-03-01T11:00:00Z"),
    ]
    images = [
        f"registry.example.com/team-{n}/a-rather-long-name-of-a-trainer:2026.{n}" for n in range(14)
    ]
    return survey.Survey(
        namespace="uimgacc-system",
        version="0.1.0",
        now=NOW,
        agents=survey.Workload(wanted=4988, ready=4940, updated=4500, image=IMAGE),
        controller=survey.Workload(wanted=2, ready=1, updated=2, image=f"{IMAGE}-rc1"),
        leader=survey.Leader(holder="uimgacc-controller-7c9f-x2k4q", age=500.0),
        waiting=[
            survey.Waiting(reason="agent: ImagePullBackOff", count=30, example="uimgacc-node-a1"),
            survey.Waiting(
                reason="node-setup: CrashLoopBackOff", count=18, example="uimgacc-node-b2"
            ),
        ],
        nodes=nodes(*store, *handler, *local, *kernels, *plain, capable=4937),
        pods={"gpu-0": "uimgacc-node-c3", "new-0": "uimgacc-node-d4"},
        caches=caches(*builds),
        policies=sorted(
            [
                policy("gpu", caches=40, ready=31, size=900 << 30, over=3),
                policy("teams", caches=12, ready=12, size=181 << 30),
                policy("broken", problem="spec.minPullShare: expected a percentage"),
                policy("web", caches=2, ready=2, size=3 << 30),
            ],
            key=policy_tally.urgency,
        ),
        savings=node_tally.saved_by(
            (
                saved(412.0 + n % 7, (90 << 30) + n, *images[n % 5 : n % 5 + 10])
                for n in range(4937)
            ),
            day=DAY,
        ),
        unread={"leader": "GET /apis/coordination.k8s.io/v1/...: 403 Forbidden"},
        requests=104,
    )
