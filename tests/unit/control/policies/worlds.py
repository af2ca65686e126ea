"""Policies, what pulls cost, and caches, as values."""

import datetime
from collections.abc import Mapping
from typing import Any

from agent.control.caches import cache_object
from agent.control.policies import policy_cache, policy_object
from agent.control.pulls import image_costs

NOW = datetime.datetime(2026, 7, 10, 12, tzinfo=datetime.UTC)
GIB = 1 << 30


def policy_body(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "uimgacc.io/v1alpha1",
        "kind": "ImageCachePolicy",
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"},
        "spec": {"images": ["r.io/*"], "budget": "100Gi", **spec},
    }


def policy(name: str = "p", **spec: Any) -> tuple[policy_object.Policy, policy_object.Spec]:
    found = policy_object.parse(policy_body(name, **spec))
    assert found.spec is not None, found.problem
    return found, found.spec


def image(name: str) -> str:
    return f"r.io/{name}:1"


def cost(
    name: str, seconds: float = 100.0, *, gib: float = 1, namespaces: tuple[str, ...] = ("team",)
) -> image_costs.ImageCost:
    """An image's pulls; `name` may be a full name."""
    return image_costs.ImageCost(
        image=name if "/" in name else image(name),
        pulls=4,
        downloads=2,
        seconds=seconds,
        typical=seconds / 2,
        size=int(gib * GIB),
        pods=dict.fromkeys(namespaces, "pod"),
    )


def costs(*each: image_costs.ImageCost) -> image_costs.Costs:
    return image_costs.Costs(since=NOW, images=each)


def cache_body(
    name: str,
    *,
    of: tuple[policy_object.Policy, policy_object.Spec],
    days: float = 0,
    matched: float | None = None,
    gib: float | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A cache of a policy, made and matched so many days ago; built where `gib` says its size."""
    body = policy_cache.manifest(*of, image(name), size_gib=20)
    meta = body["metadata"]
    meta |= {"uid": name, "resourceVersion": "1", "generation": 1}
    meta["creationTimestamp"] = (NOW - datetime.timedelta(days=days)).isoformat()
    if matched is not None:
        moment = NOW - datetime.timedelta(days=matched)
        meta["annotations"]["uimgacc.io/last-matched"] = moment.isoformat()
    built: Mapping[str, Any] = {}
    if gib is not None:
        built = {"phase": "Ready", "size": int(gib * GIB)}
    body["status"] = {**built, **status}
    return body


def cache(name: str, **more: Any) -> cache_object.CacheObject:
    return cache_object.parse(cache_body(name, **more))
