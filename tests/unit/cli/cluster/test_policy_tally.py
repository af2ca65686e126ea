"""Policies on the screen of `uimgacc status`, and what is wrong with them."""

import dataclasses

import pytest

from agent.cli.cluster import policy_tally, problems, status_view
from tests.unit.cli.cluster import surveys


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (surveys.policy("p", caches=2, ready=1, size=5), None),
        (surveys.policy("p", over=2), "policy-over-budget"),
        (surveys.policy("p", problem="spec.budget: missing"), "policy-invalid"),
        (policy_tally.of_object({"metadata": {"name": "p"}}), "policy-stopped"),
    ],
)
def test_what_is_wrong_with_a_policy_comes_with_its_command(
    policy: policy_tally.Policy, problem: str | None
) -> None:
    read = dataclasses.replace(surveys.small(), policies=[policy])

    found = problems.of_survey(read)

    assert [each.remedy.key for each in found] == ([problem] if problem else [])
    assert all(each.command.endswith(" imcp p") for each in found)


def test_a_policy_says_what_it_has_and_what_it_leaves_out() -> None:
    made = surveys.policy("p", caches=3, ready=2, size=7, over=4)
    read = dataclasses.replace(surveys.small(), policies=[made])

    (said,) = status_view.to_json(read, [])["policies"]  # type: ignore[misc]

    assert said == {
        "name": "p",
        "notCarriedOut": None,
        "caches": 3,
        "serving": 2,
        "bytes": 7,
        "budgetBytes": 1 << 40,
        "withinBudget": False,
        "leftOut": {"OverBudget": 4},
    }
