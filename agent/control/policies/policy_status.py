"""The status of an ImageCachePolicy; pure.

It is written where it says something else than before; `lastEvaluationTime` alone, once an hour.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from agent.control.caches import cache_state
from agent.control.policies import policy_object, policy_plan
from agent.kits import units
from agent.model import times

_LISTED = 100
"""Images, and images that are left out, which a status names."""
_EVERY = datetime.timedelta(hours=1)
_FIGURES = ("lastEvaluationTime",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a policy is carried out: else the reason, in one word and in a sentence."""

    ready: bool
    reason: str
    message: str


CARRIED_OUT = Verdict(ready=True, reason="CarriedOut", message="Images are cached as it says.")


def changed(
    policy: policy_object.Policy,
    verdict: Verdict,
    plan: policy_plan.Plan | None,
    *,
    now: datetime.datetime,
) -> Mapping[str, Any] | None:
    """The status to write; None where the present one says the same. `plan` None: none was made."""
    before = policy.status
    after = {
        **({} if plan is not None else before),
        **(_planned(policy.spec, plan, now) if plan is not None and policy.spec else {}),
        "observedGeneration": policy.generation,
        "conditions": _conditions(policy, verdict, plan, now),
        "lastEvaluationTime": times.stamp(now),
    }
    last = times.parse(before.get("lastEvaluationTime"))
    if _without_figures(before) == _without_figures(after) and last and now - last < _EVERY:
        return None
    # A merge patch removes what is null.
    return {**dict.fromkeys(set(before) - set(after)), **after}


def _without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key not in _FIGURES}


def _planned(
    spec: policy_object.Spec, plan: policy_plan.Plan, now: datetime.datetime
) -> dict[str, Any]:
    built = [each for each in plan.held if each.cache.state.serving]
    next_refresh = spec.schedule.after(now) if spec.schedule is not None else None
    return {
        "selected": len(plan.held) + len(plan.created) + len(plan.left_out),
        "caches": len(plan.held) + len(plan.created),
        "ready": len(built),
        "bytes": plan.size,
        "budgetBytes": spec.budget,
        "used": f"{units.size(plan.size)} / {units.size(spec.budget)}",
        "images": [_image(each) for each in _by_name(plan.held)[:_LISTED]],
        "leftOut": [_left_out(each) for each in plan.left_out[:_LISTED]],
        "belowShare": plan.unimportant,
        **({"nextRefreshTime": times.stamp(next_refresh)} if next_refresh else {}),
    }


def _by_name(held: Sequence[policy_plan.Held]) -> list[policy_plan.Held]:
    return sorted(held, key=lambda each: each.image)


def _image(held: policy_plan.Held) -> dict[str, Any]:
    return {
        "image": held.image,
        "imageCache": held.cache.key.name,
        "phase": (held.cache.state.phase or cache_state.Phase.PENDING).value,
        "bytes": held.size,
        "lastUsedTime": times.stamp(held.used),
    }


def _left_out(left: policy_plan.LeftOut) -> dict[str, Any]:
    return {"image": left.image, "reason": left.reason, "pullSeconds": _rounded(left.seconds)}


def _rounded(seconds: float) -> int:
    """Two digits: the status is not written for each second that an image is pulled."""
    whole = round(seconds)
    return round(whole, 2 - len(str(whole)))


def _conditions(
    policy: policy_object.Policy,
    verdict: Verdict,
    plan: policy_plan.Plan | None,
    now: datetime.datetime,
) -> list[dict[str, Any]]:
    found = [_condition("Ready", verdict)]
    if plan is not None:
        found.append(_condition("WithinBudget", _within(plan)))
    else:
        found += [
            {key: each[key] for key in ("type", "status", "reason", "message")}
            for each in policy.status.get("conditions") or ()
            if each.get("type") == "WithinBudget"
        ]
    known = {each.get("type"): each for each in policy.status.get("conditions") or ()}
    return [
        {
            **each,
            "observedGeneration": policy.generation,
            "lastTransitionTime": _since(each, known.get(each["type"]), now),
        }
        for each in found
    ]


def _condition(kind: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if verdict.ready else "False",
        "reason": verdict.reason,
        "message": verdict.message,
    }


def _since(
    condition: Mapping[str, Any], before: Mapping[str, Any] | None, now: datetime.datetime
) -> str:
    if before is not None and before.get("status") == condition["status"]:
        return str(before.get("lastTransitionTime") or times.stamp(now))
    return times.stamp(now)


def _within(plan: policy_plan.Plan) -> Verdict:
    over = [each for each in plan.left_out if each.reason in ("OverBudget", "TooManyCaches")]
    if not over:
        return Verdict(ready=True, reason="AllFit", message="No image is left out for its size.")
    return Verdict(
        ready=False,
        reason=over[0].reason,
        message=f"{len(over)} selected image{'s are' if len(over) > 1 else ' is'} left out,"
        " see status.leftOut: raise spec.budget or spec.maxCaches, or select fewer.",
    )
