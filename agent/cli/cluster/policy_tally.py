"""The ImageCachePolicies of a cluster, as their statuses say; pure."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

_LEFT_TO_OTHERS = "CachedAlready"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy: its caches, how many of them serve, and their bytes, of how many.

    `reason` and `message` say why it is not carried out, "" where it is. `left_out` are images
    without a cache, by reason, but those that another cache has; `fits` is False where
    that is for the budget or the number.
    """

    name: str
    caches: int = 0
    serving: int = 0
    size: int = 0
    budget: int = 0
    reason: str = ""
    message: str = ""
    fits: bool = True
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)


def of_object(body: Mapping[str, Any]) -> Policy:
    """The policy of an object; one that no controller has looked at has the reason NotLookedAt."""
    status = body.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    ready = conditions.get("Ready", {"reason": "NotLookedAt"})
    carried_out = ready.get("status") == "True"
    left = collections.Counter(str(each.get("reason")) for each in status.get("leftOut") or ())
    del left[_LEFT_TO_OTHERS]
    return Policy(
        name=str(body["metadata"]["name"]),
        caches=int(status.get("caches") or 0),
        serving=int(status.get("ready") or 0),
        size=int(status.get("bytes") or 0),
        budget=int(status.get("budgetBytes") or 0),
        reason="" if carried_out else str(ready.get("reason") or ""),
        message="" if carried_out else str(ready.get("message") or ""),
        fits=conditions.get("WithinBudget", {}).get("status") != "False",
        left_out=left,
    )


def urgency(policy: Policy) -> tuple[bool, bool, int, str]:
    """To sort by: those that are not carried out first, then those over budget, then by bytes."""
    return not policy.reason, policy.fits, -policy.size, policy.name
