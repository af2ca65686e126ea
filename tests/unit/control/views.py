"""A view of the controller's page with something of everything."""

import datetime
from typing import Any

from agent.control.caches import cache_object, cache_state
from agent.control.page import page_data
from agent.control.pulls import image_costs
from agent.model import reports

NOW = datetime.datetime(2026, 11, 21, 13, 0, tzinfo=datetime.UTC)


def cache(
    name: str = "tools", *, message: str = "Ready: 1 image.", **status
) -> cache_object.CacheObject:
    return cache_object.parse(body(name, message=message, **status))


def body(name: str = "tools", *, message: str = "Ready: 1 image.", **status) -> dict[str, Any]:
    return {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-20T13:00:00Z",
            **({"deletionTimestamp": "2026-11-21T12:00:00Z"} if status.pop("going", 0) else {}),
        },
        "spec": {"images": status.pop("images", ["registry.example.com/team/tools:1"])},
        "status": {"phase": "Ready", "progress": "100%", "message": message, "size": 5_000_000_000}
        | status,
    }


def busy(text: str = "") -> page_data.View:
    """Caches in every phase, nodes of every kind; `text` is in whatever others can write."""
    message = text or "the registry does not have manifest 1 of registry.example.com/team/none:1"
    caches = [
        cache(f"cache-{phase.value.lower()}", phase=phase.value, progress="40%", message=message)
        for phase in cache_state.Phase
    ]
    caches += [cache("going", going=True), cache("large", images=[f"r.io/{n}:1" for n in range(9)])]
    saved = reports.Saved(
        seconds=5400.0, size=80 << 30, images={"hit": 12, "miss": 0, "partial": 3}
    )
    fleet = page_data.Fleet(most=2)
    for node in (
        page_data.Node(name="gpu-worker-18", capable=True, reason="served", saved=saved),
        page_data.Node(name="gpu-worker-19", capable=True, reason="served"),
        page_data.Node(
            name=text or "gpu-worker-with-a-long-name-17", capable=False, reason=message
        ),
        page_data.Node(name="gpu-worker-20", capable=True, reason="served"),
    ):
        fleet.add(node)
    pods = {"team": "app-0"}
    costs = image_costs.Costs(
        since=NOW - datetime.timedelta(days=1),
        images=(
            image_costs.ImageCost(
                image=text or "registry.example.com/a-team-with-a-long-name/training:2026.11.20",
                pulls=120,
                downloads=96,
                seconds=5760.0,
                typical=60.0,
                size=3 << 30,
                downloaded=288 << 30,
                nodes=96,
                pods=pods,
            ),
            image_costs.ImageCost(
                image="registry.example.com/team/tools:1", pulls=3, downloads=0, seconds=2.0
            ),
        ),
    )
    return page_data.View(caches=caches, fleet=fleet, pulls=costs)
