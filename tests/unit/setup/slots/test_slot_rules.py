"""How many slots there are, and which of them a node may take."""

import pytest

from agent.setup.slots import slot_rules

Slot = slot_rules.Slot


def held(index: int, node: str, **more) -> Slot:
    return Slot(name=slot_rules.name_of(index), holder=node, limit=300, **more)


@pytest.mark.parametrize(
    ("setting", "nodes", "count"),
    [
        ("5%", 0, 1),
        ("5%", 19, 1),
        ("5%", 39, 1),
        ("5%", 40, 2),
        ("5%", 1000, 50),
        ("100%", 7, 7),
        ("3", 1000, 3),
        ("3", 0, 3),
        ("0", 1000, 0),
        ("0%", 1000, 0),
        (" 10% ", 100, 10),
    ],
)
def test_slots_are_a_part_of_the_nodes_or_a_number(setting: str, nodes: int, count: int) -> None:
    assert slot_rules.count(setting, nodes) == count


@pytest.mark.parametrize("setting", ["", "%", "five", "-1", "5.5%", "101%", "5 %", "5%%"])
def test_what_is_neither_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="such as 3, or a percentage such as 5%"):
        slot_rules.check(setting)


def test_a_slot_without_a_holder_may_be_taken() -> None:
    slots = [held(0, "a"), Slot(name=slot_rules.name_of(1))]

    assert slot_rules.free(slots, 3, "b") == ["uimgacc-setup-slot-1", "uimgacc-setup-slot-2"]


def test_a_slot_is_not_free_because_it_is_old() -> None:
    assert slot_rules.free([held(0, "a", seconds=1e9)], 1, "b") == ()


def test_a_node_has_one_slot_only() -> None:
    slots = [held(0, "a"), held(1, "b")]

    assert slot_rules.free(slots, 5, "b") == ["uimgacc-setup-slot-1"]


def test_where_there_were_more_slots_before_they_count_while_they_are_held() -> None:
    slots = [Slot(name=slot_rules.name_of(0)), held(4, "a"), held(7, "b")]

    assert slot_rules.free(slots, 2, "c") == ()
    assert slot_rules.free(slots[:2], 2, "c") == ["uimgacc-setup-slot-0", "uimgacc-setup-slot-1"]


def test_a_node_that_holds_several_slots_keeps_one_other_node_from_a_turn_only() -> None:
    slots = [held(0, "evil"), held(1, "evil"), held(2, "evil")]

    assert slot_rules.free(slots, 2, "a") == ["uimgacc-setup-slot-3"]
    assert slot_rules.free([*slots, held(3, "a")], 2, "b") == ()
    assert slot_rules.taken([*slots, held(3, "a")], 2).startswith("2 of 2 slots are taken: evil")


def test_as_many_lost_nodes_as_slots_stop_all_others() -> None:
    slots = [held(index, f"lost-{index}", seconds=1e6) for index in range(2)]

    assert slot_rules.free(slots, 2, "next") == ()
    assert all(slot.is_stuck for slot in slots)
    assert slot_rules.taken(slots, 2) == (
        "2 of 2 slots are taken: lost-0 for 11 d 13 h, lost-1 for 11 d 13 h"
    )


def test_a_slot_is_stuck_after_its_time_or_where_its_node_says_so() -> None:
    assert not held(0, "a", seconds=299).is_stuck
    assert held(0, "a", seconds=301).is_stuck
    assert held(0, "a", seconds=1, problem="containerd: refused").is_stuck
    assert not Slot(name="s", seconds=1e6).is_stuck


def test_what_is_stuck_is_named_first_and_with_its_reason() -> None:
    slots = [held(index, f"n{index}", seconds=5) for index in range(4)]
    slots.append(held(4, "lost", seconds=9, problem="the agent is not ready"))

    assert slot_rules.taken(slots, 5) == (
        "5 of 5 slots are taken: lost for 9 s (the agent is not ready), n0 for 5 s, n1 for 5 s,"
        " and 2 more"
    )
    assert "UIMGACC_SETUP_SLOTS is 0" in slot_rules.taken([], 0)


@pytest.mark.parametrize(
    ("labels", "taints", "age", "needs_none"),
    [
        ({}, [], 60, True),
        ({}, [], 601, False),
        ({}, [{"key": "uimgacc.io/starting", "effect": "NoSchedule"}], 1e6, True),
        ({}, [{"key": "example.com/other", "effect": "NoSchedule"}], 1e6, False),
        ({"node-role.kubernetes.io/control-plane": ""}, [], 60, False),
    ],
)
def test_a_new_node_needs_no_slot(labels, taints, age: float, needs_none: bool) -> None:
    node = {"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}}
    standing = slot_rules.standing(node, age)

    assert slot_rules.needs_none(standing, young=600) is needs_none


def test_other_leases_are_no_slots() -> None:
    names = ["uimgacc-controller", "uimgacc-setup-slot-", "uimgacc-setup-slot-1x"]

    assert not any(map(slot_rules.is_slot, names))
    assert slot_rules.is_slot(slot_rules.name_of(12))
