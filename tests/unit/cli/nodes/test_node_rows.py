"""What `uimgacc node list` says of each node."""

import pytest

from agent.cli.nodes import node_rows
from agent.setup.slots import slot_rules

TURN = "node set-up: containerd is restarted when it is this node's turn: see `uimgacc node list`"


def node(name: str, *, labels=None, message: str = "", status: str = "False"):
    said = {"type": "ImageAcceleration", "status": status, "message": message}
    said["lastTransitionTime"] = "2026-07-01T00:00:00Z"
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {
            "nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4"},
            "conditions": [{"type": "Ready", "status": "True"}, *([said] if message else [])],
        },
    }


def only(body, *slots: slot_rules.Slot) -> node_rows.Row:
    (row,) = node_rows.rows([body], slots)
    return row


@pytest.mark.parametrize(
    ("body", "state", "reason"),
    [
        (node("a", labels={"uimgacc": "true"}, message="images are served"), "serves", ""),
        (node("a", labels={"uimgacc": "local"}, message="no store"), "local", "no store"),
        (node("a", message="the store does not answer"), "no", "the store does not answer"),
        (node("a", message=f"no plugin; {TURN}"), "waits", f"no plugin; {TURN}"),
        (node("a", labels={"uimgacc.io/enabled": "false"}), "disabled", ""),
    ],
)
def test_the_state_follows_from_label_and_condition(body, state: str, reason: str) -> None:
    row = only(body)

    assert (row.state, row.reason, row.containerd) == (state, reason, "2.1.4")
    assert row.enabled is (state != "disabled")


def test_a_node_of_which_no_agent_has_said_anything_says_so() -> None:
    assert "does its pod of uimgacc-node run?" in only(node("a")).reason


def test_a_slot_says_more_than_the_label() -> None:
    body = node("a", labels={"uimgacc": "true"}, message="images are served")
    slot = slot_rules.Slot(name="uimgacc-setup-slot-2", holder="a", seconds=20, limit=300)
    row = only(body, slot)

    assert (row.state, row.slot, row.slot_seconds, row.reason) == (
        "restarts",
        "uimgacc-setup-slot-2",
        20,
        "",
    )


def test_a_stuck_slot_names_its_reason_and_the_way_on() -> None:
    body = node("a", message="containerd: not connected")
    said = slot_rules.Slot(name="s", holder="a", seconds=900, limit=300, problem="not Ready")
    silent = slot_rules.Slot(name="s", holder="a", seconds=900, limit=300)

    assert only(body, said).state == "stuck"
    assert only(body, said).reason == "not Ready: see to the node, then `uimgacc node resume a`"
    assert only(body, silent).reason.startswith("not back in time, and silent: ")


def test_a_node_that_left_the_cluster_with_a_slot_is_listed() -> None:
    slots = [slot_rules.Slot(name="s", holder="gone-1"), slot_rules.Slot(name="free")]
    rows = node_rows.rows([node("z"), node("a")], slots)

    assert [(row.name, row.state) for row in rows] == [("a", "no"), ("gone-1", "gone"), ("z", "no")]
    assert "uimgacc node resume gone-1" in rows[1].reason


def test_why_a_node_that_left_had_not_come_back_is_said() -> None:
    slot = slot_rules.Slot(name="s", holder="gone-1", problem="containerd: connection refused")
    (row,) = node_rows.rows([], [slot])

    assert row.reason.startswith("containerd: connection refused; has left the cluster")
