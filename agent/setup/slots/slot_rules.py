"""Which node may restart containerd now; pure.

There are as many slots as nodes may be without their containerd at once: a part of the nodes, at
least one. A node takes a slot before it changes the configuration of containerd, and leaves it
when it is back. A slot does not expire: a node that never came back keeps it, so a change that
breaks nodes stops by itself after as many as there are slots.

What counts is how many nodes hold slots: one that was taken over and takes all of them has no more
weight than one that does not come back.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.kits import units
from agent.model import keys

_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_NAMED = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A slot as its Lease says. `holder` is a node, "" where it is free.

    It was taken `seconds` ago by the API server's clock, and `limit` is how long the node should
    need. `problem` is what the node says of itself where it takes longer.
    """

    name: str
    holder: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    problem: str = ""

    @property
    def is_stuck(self) -> bool:
        """Whether its node did not come back in time."""
        return bool(self.holder) and (bool(self.problem) or self.seconds > self.limit)

    @property
    def sentence(self) -> str:
        """Who has it, for how long, and why still."""
        said = f"{self.holder} for {units.span(self.seconds)}"
        return f"{said} ({self.problem})" if self.problem else said


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What decides whether a node needs a slot; `age` is in seconds."""

    is_control_plane: bool = False
    is_starting: bool = False
    age: float = 0.0


def check(setting: str) -> None:
    """Raise ValueError where a setting is neither a number nor a percentage."""
    count(setting, 0)


def count(setting: str, nodes: int) -> int:
    """How many slots there are: "5%" of the nodes, rounded down, at least 1; or a number.

    0 is none: no node restarts containerd until that is changed.
    """
    text = setting.strip()
    number = text.removesuffix("%")
    if not number.isdecimal() or (text != number and int(number) > 100):
        raise ValueError("expected a number of nodes such as 3, or a percentage such as 5%")
    if text == number or int(number) == 0:
        return int(number)
    return max(1, nodes * int(number) // 100)


def name_of(index: int) -> str:
    """The name of a slot's Lease."""
    return f"{keys.SETUP_SLOT}{index}"


def is_slot(name: str) -> bool:
    """Whether a Lease is a slot."""
    return name.startswith(keys.SETUP_SLOT) and name.removeprefix(keys.SETUP_SLOT).isdecimal()


def free(slots: Sequence[Slot], slot_count: int, node: str) -> Sequence[str]:
    """Names of slots that a node may take; none where it has to wait.

    Its own is the only one, if it has one. Held ones count also where there are fewer slots now.
    """
    if own := [slot.name for slot in slots if slot.holder == node]:
        return own[:1]
    held = {slot.name for slot in slots if slot.holder}
    nodes = len({slot.holder for slot in slots if slot.holder})
    if nodes >= slot_count:
        return ()
    numbers = range(slot_count + len(held) - nodes)
    return [name for name in map(name_of, numbers) if name not in held]


def needs_none(node: Standing, *, young: float) -> bool:
    """Whether a node may restart containerd at once: nothing that matters runs on it yet.

    It has a startup taint of uimgacc, or has joined within the last `young` seconds. A node of the
    control plane always takes a slot: with containerd the API server may restart.
    """
    return not node.is_control_plane and (node.is_starting or node.age < young)


def standing(node: Mapping[str, Any], age: float) -> Standing:
    """The same of a Node object that is `age` seconds old."""
    taints = (node.get("spec") or {}).get("taints") or ()
    return Standing(
        is_control_plane=_CONTROL_PLANE in (node["metadata"].get("labels") or {}),
        is_starting=any(str(each.get("key")).startswith(keys.PREFIX) for each in taints),
        age=age,
    )


def taken(slots: Sequence[Slot], slot_count: int) -> str:
    """Why a node has to wait, for its log."""
    if not slot_count:
        return "UIMGACC_SETUP_SLOTS is 0: no node restarts containerd"
    by_node = {slot.holder: slot for slot in slots if slot.holder}
    held = sorted(by_node.values(), key=lambda slot: not slot.is_stuck)
    more = f", and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
    named = ", ".join(slot.sentence for slot in held[:_NAMED])
    return f"{len(held)} of {slot_count} slots are taken: {named}{more}"
