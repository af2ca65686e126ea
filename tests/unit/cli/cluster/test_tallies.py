"""Nodes and their savings, summed up one by one."""

from agent.cli.cluster import node_tally
from agent.model import reports
from tests.unit.cli.cluster import surveys


def test_reasons_are_bounded_and_the_rest_is_counted() -> None:
    tally = surveys.nodes(*(surveys.node(f"n{at}", f"Reason{at}") for at in range(500)))

    assert len(tally.groups) <= 21
    assert sum(group.count for group in tally.groups) == 500


def test_what_was_saved_on_another_day_is_not_of_today() -> None:
    savings = node_tally.saved_by(
        [surveys.saved(10.0, 100, "a"), surveys.saved(20.0, 200, "a", day="2026-02-28")],
        day=surveys.DAY,
    )

    assert (savings.today.seconds, savings.today.size) == (10.0, 100)
    assert savings.ever.seconds == 300.0


def test_images_of_all_nodes_are_added_up_and_bounded() -> None:
    nodes = [surveys.saved(10.0, 100, f"image-{at}", "shared") for at in range(5000)]

    savings = node_tally.saved_by(nodes, day=surveys.DAY)

    first = savings.most(1)[0]
    assert (first.image, first.count) == ("shared", 5000)
    assert len(savings.most(10_000)) <= 4096


def test_an_agent_of_an_earlier_version_says_nothing_of_today() -> None:
    savings = node_tally.saved_by([reports.Saved(seconds=5.0, size=7)], day=surveys.DAY)

    assert (savings.nodes, savings.ever.size, savings.today.size) == (1, 7, 0)
    assert savings.most(10) == []
