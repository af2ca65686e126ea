"""Which nodes a deletion waits for, and the message about it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.gc import roster
from agent.model import keys, records, reports

GRACE = 100.0


def known(acknowledged: int, seen: float = 0.0) -> records.KnownNode:
    return records.KnownNode(acknowledged=acknowledged, seen=seen)


def test_the_annotations_are_those_that_agents_write() -> None:
    assert (keys.GENERATION, keys.HELD) == (keys.GENERATION, keys.HELD)


def test_a_node_is_read_from_its_annotations() -> None:
    held = json.dumps(["imc-a/sha256:x: ns/pod"])
    annotations = {keys.GENERATION: "7", keys.HELD: held}

    assert roster.node_of("n", annotations) == roster.Node("n", 7, ("imc-a/sha256:x: ns/pod",))
    assert roster.node_of("n", {"other": "1"}) == roster.Node("n", None)


@given(st.text() | st.text("0123456789"), st.text() | st.integers(1, 50_000).map("[".__mul__))
def test_whatever_stands_in_annotations_acknowledges_at_most_what_it_says(number, held) -> None:
    node = roster.node_of("n", {keys.GENERATION: number, keys.HELD: held})

    assert node.acknowledged in (0, int(number) if number.isascii() and number.isdigit() else 0)


@given(st.integers(0, 10**18 - 1))
def test_every_number_of_a_generation_is_understood(number: int) -> None:
    assert roster.node_of("n", {keys.GENERATION: str(number)}).acknowledged == number


def test_who_is_gone_is_waited_for_until_the_end_of_its_grace() -> None:
    """It begins when the absence is noticed: who notices it may have been away for long."""
    found = roster.merge({"gone": known(1, seen=-9e9)}, [], now=5.0, grace=GRACE)
    later = roster.merge(found, [], now=5.0 + GRACE, grace=GRACE)

    assert found == later == {"gone": records.KnownNode(acknowledged=1, seen=-9e9, absent=5.0)}
    assert roster.merge(later, [], now=6.0 + GRACE, grace=GRACE) == {}


def test_who_lost_its_annotation_is_waited_for_as_if_it_were_gone() -> None:
    before = {"n": known(1)}

    assert roster.merge(before, [roster.Node("n", None)], now=50.0, grace=GRACE) == {
        "n": records.KnownNode(acknowledged=1, seen=0.0, absent=50.0)
    }


def test_the_roster_changes_only_when_something_happens() -> None:
    before = {"n": known(1)}

    assert roster.merge(before, [roster.Node("n", 1)], now=9.0, grace=GRACE) == before
    assert roster.merge(before, [roster.Node("n", 1)], now=11.0, grace=GRACE) == {"n": known(1, 11)}
    assert roster.merge(before, [roster.Node("n", 2)], now=9.0, grace=GRACE) == {"n": known(2)}


def test_who_comes_back_counts_with_what_it_says_now() -> None:
    assert roster.merge({"n": known(5)}, [roster.Node("n", 0)], now=1.0, grace=GRACE) == {
        "n": known(0)
    }


@given(st.lists(st.integers(min_value=0, max_value=9)), st.integers(min_value=0, max_value=9))
def test_the_floor_is_what_all_have_acknowledged(said: list[int], newest: int) -> None:
    found = roster.floor([known(number) for number in said], newest)

    assert found <= newest
    assert all(found <= number for number in said)


def test_who_acknowledges_what_does_not_exist_acknowledges_nothing() -> None:
    assert roster.floor([known(3), known(9)], 3) == 0
    assert roster.floor([], 3) == 3
    assert not math.isinf(roster.floor([], 3))


NODES = [
    roster.Node("b", 1, ("imc-a/sha256:x: ns/two", "-/sha256:y: container c1")),
    roster.Node("a", 1, ("imc-a/sha256:z: ns/one", "imc-b/sha256:q: ns/other", "and 3 more")),
]


def test_holders_are_named_by_pod_and_node() -> None:
    assert roster.holders(NODES, "imc-a") == ["pod ns/one on a", "pod ns/two on b"]
    assert roster.held_layers(NODES) == {"sha256:x", "sha256:y", "sha256:z", "sha256:q"}


def test_holders_that_have_tags_are_counted() -> None:
    one, two = reports.pod_tag("1"), reports.pod_tag("2")
    entries = (f"imc-a/3f: {one}", f"imc-a/4e: {one}", f"imc-a/4e: {two}", "imc-a/4e: a mount")
    nodes = [roster.Node("b", 1, entries), roster.Node("a", 1, (f"imc-a/3f: {two}",))]

    assert roster.holders(nodes, "imc-a") == ["1 pod on a", "2 pods on b", "a mount on b"]
    assert roster.held_layers(nodes) == {"3f", "4e"}


@pytest.mark.parametrize(
    ("who", "silent", "words"),
    [
        (["pod ns/one on a"], ["b"], "held by pod ns/one on a."),
        ([f"pod {number}" for number in range(7)], [], "pod 4 and 2 more."),
        ([], ["b"], "waiting for b."),
        ([], [], ""),
    ],
)
def test_a_deletion_says_what_it_waits_for(who, silent, words: str) -> None:
    assert roster.waiting_sentence("imc-a", who, silent).endswith(words)
