"""What the agent writes to its own node object, and nothing else; pure.

It writes a few labels, annotations under `uimgacc.io/`, one condition, and removes one
startup taint. A ValidatingAdmissionPolicy in the manifests allows nothing else. The
node as it was read goes in, the smallest patch comes out: a node that is as it should
be gives none, and edits by others are undone.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from agent.model import keys, times
from agent.node.health import capability

# Each one is a change of the node, which goes to everything that watches nodes.
_HEARTBEAT = datetime.timedelta(hours=6)
_MESSAGE_LIMIT = 1024
_READY = "StoreServesImages"
LOCAL = "ServedLocally"

REASONS = {
    capability.Check.STORE: "StoreUnavailable",
    capability.Check.CONTAINERD: "ContainerdUnavailable",
    capability.Check.PLUGIN: "SnapshotterNotConfigured",
    capability.Check.HANDLER: "RuntimeHandlerMissing",
    capability.Check.SNAPSHOTTER: "SnapshotterUnavailable",
    capability.Check.KERNEL: "KernelNotSuitable",
    capability.Check.SWITCH: "SwitchedOff",
}
"""The condition's reason where a check fails."""


_HANDLED_BY = {
    capability.Check.PLUGIN,
    capability.Check.HANDLER,
    capability.Check.SNAPSHOTTER,
}
"""What pods of the uimgacc runtime handlers need to start at all."""


class TaintError(ValueError):
    """A taint is not written as KEY[=VALUE]:EFFECT."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps pods away until the node is capable."""

    key: str
    value: str
    effect: str

    def is_that(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of `spec.taints` is this one."""
        key = (entry.get("key"), entry.get("value") or "", entry.get("effect"))
        return key == (self.key, self.value, self.effect)


def parse_taint(text: str) -> Taint:
    """Read KEY[=VALUE]:EFFECT, as kubectl writes taints; raise TaintError."""
    named, colon, effect = text.rpartition(":")
    key, _, value = named.partition("=")
    if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise TaintError(
            f"{text!r}: expected KEY[=VALUE]:EFFECT with NoSchedule, PreferNoSchedule or NoExecute"
        )
    return Taint(key, value, effect)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the node object should say.

    `capable` is None before that is known: its labels, condition and taint are then left
    as they are; `handlers` likewise for its own label, those of the `twins` and, with
    `maps_ids` and `mounts_volumes`, those of user namespaces and image volumes. `local` is for a
    node that is not capable, but serves images from its own copies. `reason` and `message` are the
    condition's. An annotation whose value is None should not be there.
    """

    capable: bool | None = None
    local: bool = False
    handlers: bool | None = None
    twins: frozenset[str] = frozenset()
    maps_ids: bool = False
    mounts_volumes: bool = False
    reason: str = ""
    message: str = ""
    annotations: Mapping[str, str | None] = dataclasses.field(default_factory=dict, hash=False)


def of_verdict(wanted: Wanted, verdict: capability.Verdict) -> Wanted:
    """What follows from a verdict; the reason is that of the first check that fails.

    Problems of a node that still counts as capable are not shown (and the reverse): the
    condition changes together with the labels, never before.
    """
    if verdict.capable:
        message = capability.Verdict(capable=True, remark=verdict.remark).sentence
        return dataclasses.replace(
            wanted,
            capable=True,
            local=False,
            handlers=True,
            twins=verdict.twins,
            maps_ids=verdict.maps_ids,
            mounts_volumes=verdict.mounts_volumes,
            reason=_READY,
            message=_shortened(message),
        )
    failing = [check for check in capability.Check if check in verdict.problems]
    if not failing:
        return wanted
    # What containerd has is not known while it does not answer.
    asked = capability.Check.CONTAINERD not in failing
    return dataclasses.replace(
        wanted,
        capable=False,
        local=verdict.is_local,
        handlers=not _HANDLED_BY.intersection(failing) if asked else None,
        twins=verdict.twins,
        maps_ids=verdict.maps_ids,
        mounts_volumes=verdict.mounts_volumes,
        reason=LOCAL if verdict.is_local else REASONS[failing[0]],
        message=_shortened(verdict.sentence),
    )


def metadata_patch(node: Mapping[str, Any], wanted: Wanted) -> dict[str, Any] | None:
    """A JSON merge patch of labels and annotations; None where they are right.

    Each key stands for itself, so the patch needs no resourceVersion: it cannot undo a
    change by another client.
    """
    metadata = node.get("metadata") or {}
    labels: dict[str, str | None] = {}
    if wanted.capable is not None:
        value = "true" if wanted.capable else keys.CAPABLE_LOCAL if wanted.local else None
        labels |= dict.fromkeys(keys.CAPABLE_LABELS, value)
    if wanted.handlers is not None:
        labels |= dict.fromkeys(
            (key for key in metadata.get("labels") or {} if key.startswith(keys.TWIN_LABEL)), None
        )
        twins = wanted.twins if wanted.handlers else ()
        labels |= {f"{keys.TWIN_LABEL}{twin}": "true" for twin in twins}
        labels[keys.HANDLER_LABEL] = "true" if wanted.handlers else None
        able = {
            keys.USER_NAMESPACES_LABEL: wanted.maps_ids,
            keys.IMAGE_VOLUMES_LABEL: wanted.mounts_volumes,
        }
        labels |= {
            key: "true" if wanted.handlers and is_so else None for key, is_so in able.items()
        }
    parts = {
        "labels": _differing(metadata.get("labels") or {}, labels),
        "annotations": _differing(metadata.get("annotations") or {}, wanted.annotations),
    }
    changed = {name: part for name, part in parts.items() if part}
    return {"metadata": changed} if changed else None


def taint_patch(
    node: Mapping[str, Any], wanted: Wanted, taint: Taint | None
) -> dict[str, Any] | None:
    """A JSON merge patch without the startup taint; None where that is not due.

    A merge patch replaces the list of taints as a whole, so it holds only for the
    version of the node that was read: the API server answers Conflict for any other.
    """
    taints: Sequence[Mapping[str, Any]] = (node.get("spec") or {}).get("taints") or ()
    if taint is None or not wanted.capable or not any(map(taint.is_that, taints)):
        return None
    left = [dict(entry) for entry in taints if not taint.is_that(entry)]
    return {
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
        "spec": {"taints": left or None},
    }


def status_patch(
    node: Mapping[str, Any], wanted: Wanted, now: datetime.datetime
) -> dict[str, Any] | None:
    """A strategic merge patch of the condition; None where it is right and fresh enough.

    Conditions merge by their type, so those of the kubelet are not touched.
    """
    if wanted.capable is None:
        return None
    current = _condition(node)
    status = "True" if wanted.capable else "False"
    same = current.get("status") == status
    worded = (current.get("reason"), current.get("message")) == (wanted.reason, wanted.message)
    # A time in the future was written by a clock that has been set since.
    if (
        same
        and worded
        and abs(now - (times.parse(current.get("lastHeartbeatTime")) or times.EPOCH)) < _HEARTBEAT
    ):
        return None
    changed_at = current.get("lastTransitionTime") if same else None
    condition = {
        "type": keys.NODE_CONDITION,
        "status": status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastHeartbeatTime": times.stamp(now),
        "lastTransitionTime": changed_at or times.stamp(now),
    }
    return {"status": {"conditions": [condition]}}


def was_capable(node: Mapping[str, Any]) -> bool | None:
    """What the condition on the node says; None where it has none."""
    return {"True": True, "False": False}.get(_condition(node).get("status", ""))


def was_local(node: Mapping[str, Any]) -> bool:
    """Whether the condition on the node says that it serves images from its own copies."""
    return _condition(node).get("reason") == LOCAL


def _condition(node: Mapping[str, Any]) -> Mapping[str, Any]:
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition.get("type") == keys.NODE_CONDITION:
            return dict(condition)
    return {}


def _differing(
    current: Mapping[str, str], wanted: Mapping[str, str | None]
) -> dict[str, str | None]:
    return {key: value for key, value in wanted.items() if current.get(key) != value}


def _shortened(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else f"{text[: _MESSAGE_LIMIT - 3]}..."
