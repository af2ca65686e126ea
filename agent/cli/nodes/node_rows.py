"""The rows of `uimgacc node list`, from the Node objects and the slots; pure."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.model import keys, reports
from agent.setup.slots import slot_rules


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A node. `state` is one of serves, local, no, waits, restarts, stuck, disabled, gone.

    `changed` is when that last changed, RFC 3339, "" where it is not known; `reason` says why it
    does not serve.
    """

    name: str
    enabled: bool
    state: str
    containerd: str = ""
    slot: str = ""
    slot_seconds: float = 0.0
    changed: str = ""
    reason: str = ""


def rows(nodes: Iterable[Mapping[str, Any]], slots: Sequence[slot_rules.Slot]) -> Sequence[Row]:
    """All nodes by name, and those that hold a slot though they have left the cluster."""
    held = {slot.holder: slot for slot in slots if slot.holder}
    found = [_row(node, held.pop(str(node["metadata"]["name"]), None)) for node in nodes]
    found += [
        Row(
            name=name,
            enabled=True,
            state="gone",
            slot=slot.name,
            slot_seconds=slot.seconds,
            reason=_why_gone(slot),
        )
        for name, slot in held.items()
    ]
    return sorted(found, key=lambda row: row.name)


def _why_gone(slot: slot_rules.Slot) -> str:
    """Kubernetes frees the slot of a node that has left, but where it had said what is wrong."""
    problem = f"{slot.problem}; " if slot.problem else ""
    return f"{problem}has left the cluster with its slot: `uimgacc node resume {slot.holder}`"


def is_disabled(node: Mapping[str, Any]) -> bool:
    """Whether the DaemonSets leave a node out."""
    return (node["metadata"].get("labels") or {}).get(keys.ENABLED) == "false"


def condition(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the agent says of its node; empty where none has said anything."""
    for each in (node.get("status") or {}).get("conditions") or ():
        if each.get("type") == keys.NODE_CONDITION:
            return dict(each)
    return {}


def serves(node: Mapping[str, Any]) -> bool:
    """Whether a node serves images, from the store or from its own copies."""
    return bool((node["metadata"].get("labels") or {}).get(keys.CAPABLE))


def _row(node: Mapping[str, Any], slot: slot_rules.Slot | None) -> Row:
    said = condition(node)
    info = (node.get("status") or {}).get("nodeInfo") or {}
    state, reason = _state(node, slot, str(said.get("message") or ""))
    return Row(
        name=str(node["metadata"]["name"]),
        enabled=not is_disabled(node),
        state=state,
        containerd=str(info.get("containerRuntimeVersion") or "").removeprefix("containerd://"),
        slot=slot.name if slot else "",
        slot_seconds=slot.seconds if slot else 0.0,
        changed=str(said.get("lastTransitionTime") or ""),
        reason=reason,
    )


def _state(node: Mapping[str, Any], slot: slot_rules.Slot | None, message: str) -> tuple[str, str]:
    name = node["metadata"]["name"]
    if slot and slot.is_stuck:
        reason = slot.problem or "not back in time, and silent"
        return "stuck", f"{reason}: see to the node, then `uimgacc node resume {name}`"
    if slot:
        return "restarts", ""
    if is_disabled(node):
        return "disabled", ""
    if serves(node):
        label = node["metadata"]["labels"][keys.CAPABLE]
        return ("local", message) if label == keys.CAPABLE_LOCAL else ("serves", "")
    if reports.SETUP_WAITS in message:
        return "waits", message
    return "no", message or "no agent has said anything: does its pod of uimgacc-node run?"
