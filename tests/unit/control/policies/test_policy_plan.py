"""What a policy caches, keeps, leaves out and deletes."""

import dataclasses
import datetime
from typing import Any

import pytest

from agent.control.caches import cache_object
from agent.control.policies import policy_cache, policy_object, policy_plan
from agent.control.pulls import image_costs
from tests.unit.control.policies import worlds
from tests.unit.control.policies.worlds import cache, cost, costs, image, policy

Of = tuple[policy_object.Policy, policy_object.Spec]


def plan(of: Of, given: image_costs.Costs, *own: cache_object.CacheObject, **more: Any):
    seen = policy_plan.Seen(
        now=worlds.NOW,
        costs=given,
        recent=more.pop("recent", {each.image for each in given.images}),
        namespaces=more.pop("namespaces", None),
        own=own,
        elsewhere=more.pop("elsewhere", ()),
    )
    return policy_plan.plan(*of, seen)


def created(found: policy_plan.Plan) -> list[str]:
    return [each.image for each in found.created]


def left(found: policy_plan.Plan) -> dict[str, str]:
    return {each.image: each.reason for each in found.left_out}


def dropped(found: policy_plan.Plan) -> list[str]:
    return [each.held.image for each in found.dropped]


def test_images_are_selected_by_pattern_the_most_expensive_first() -> None:
    of = policy(images=["r.io/*"], excludedImages=["*/b:*"])
    given = costs(cost("a", 10), cost("b", 50), cost("c", 30), cost("other.io/d:1", 90))

    assert created(plan(of, given)) == [image("c"), image("a")]


def test_a_pattern_without_a_wildcard_is_a_name_as_people_write_it() -> None:
    given = costs(cost("docker.io/library/nginx:1"), cost("docker.io/library/nginx:2"))

    assert created(plan(policy(images=["nginx:1"]), given)) == ["docker.io/library/nginx:1"]


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [(None, ["a", "b"]), ({"team"}, ["a", "b"]), ({"other"}, ["b"]), (set(), [])],
)
def test_images_are_selected_by_the_namespaces_that_pull_them(namespaces, expected) -> None:
    given = costs(
        cost("a", 3),
        cost("b", 2, namespaces=("team", "other")),
        cost("s", namespaces=("kube-system",)),
    )

    found = plan(policy(), given, namespaces=namespaces)
    assert created(found) == [image(each) for each in expected]


def test_images_are_selected_by_their_share_of_the_pull_time() -> None:
    given = costs(cost("a", 90), cost("b", 9), cost("c", 1))
    found = plan(policy(minPullShare="9%"), given)

    assert created(found) == [image("a"), image("b")]
    assert found.unimportant == 1


def test_what_was_never_downloaded_or_not_lately_is_no_candidate() -> None:
    found_only = dataclasses.replace(cost("a"), downloads=0)
    found = plan(policy(), costs(found_only, cost("b"), cost("c")), recent={image("c")})

    assert created(found) == [image("c")]


def test_what_other_caches_have_is_left_to_them() -> None:
    found = plan(policy(), costs(cost("a"), cost("b")), elsewhere={image("a")})

    assert created(found) == [image("b")]
    assert left(found) == {image("a"): "CachedAlready"}


def test_the_budget_counts_what_is_built_and_estimates_the_rest() -> None:
    """An image counts twice its download until it is built; one of unknown size 1 GiB."""
    of = policy(budget="10Gi")
    built = cache("built", of=of, gib=3)
    given = costs(cost("a", 50, gib=2), cost("b", 40, gib=2), cost("c", 30, gib=0), cost("d", 20))
    found = plan(of, given, built)

    assert created(found) == [image("a"), image("c"), image("d")]
    assert left(found) == {image("b"): "OverBudget"}
    assert found.size == 10 * worlds.GIB


def test_the_number_of_caches_is_bounded() -> None:
    of = policy(maxCaches=2)
    found = plan(of, costs(cost("a", 3), cost("b", 2)), cache("built", of=of, gib=1))

    assert created(found) == [image("a")]
    assert left(found) == {image("b"): "TooManyCaches"}


def test_few_are_created_at_a_time_and_few_wait_to_be_built() -> None:
    many = costs(*(cost(f"i{number:02}") for number in range(20)))
    assert len(plan(policy(), many).created) == 5
    assert set(left(plan(policy(), many)).values()) == {"Waiting"}

    of = policy()
    waiting = [cache(f"w{number}", of=of) for number in range(8)]
    assert len(plan(of, many, *waiting).created) == 2


def test_a_cache_whose_image_is_pulled_no_more_stays_while_pods_use_it() -> None:
    of = policy(unusedDays=7)
    used = cache("used", of=of, days=30, matched=6, gib=1)
    unused = cache("unused", of=of, days=30, matched=7, gib=1)
    new = cache("new", of=of, days=6.9, gib=1)
    found = plan(of, costs(), used, unused, new)

    assert dropped(found) == [image("unused")]
    assert {each.image for each in found.held} == {image("used"), image("new")}
    assert "7 days" in found.dropped[0].why


def test_what_is_not_selected_any_more_goes() -> None:
    of = policy()
    kept = cache("a", of=of, gib=1)
    found = plan(policy(excludedImages=["*/a:*"]), costs(), kept)

    assert dropped(found) == [image("a")]


def test_an_image_takes_the_place_of_those_unused_for_the_longest() -> None:
    of = policy(budget="10Gi")
    caches = [
        cache("old", of=of, days=9, matched=3, gib=4),
        cache("older", of=of, days=9, matched=4, gib=4),
        cache("fresh", of=of, days=9, matched=0.5, gib=2),
    ]
    found = plan(of, costs(cost("new", gib=1.5)), *caches)

    assert dropped(found) == [image("older")]
    assert created(found) == [image("new")]
    assert found.size == 9 * worlds.GIB


def test_no_image_pushes_out_one_that_was_used_within_a_day() -> None:
    of = policy(budget="4Gi", maxCaches=1)
    found = plan(of, costs(cost("new")), cache("used", of=of, days=9, matched=0.9, gib=3))

    assert (dropped(found), created(found)) == ([], [])
    assert left(found) == {image("new"): "OverBudget"}


def test_nothing_goes_for_an_image_that_does_not_fit_anyway() -> None:
    of = policy(budget="10Gi")
    idle = cache("idle", of=of, days=9, matched=5, gib=4)
    found = plan(of, costs(cost("large", gib=6)), idle)

    assert (dropped(found), left(found)) == ([], {image("large"): "OverBudget"})


def test_beyond_the_budget_the_least_recently_used_goes_even_if_it_is_in_use() -> None:
    """Images turn out larger than they were estimated, or a budget is made smaller."""
    of = policy(budget="5Gi")
    caches = [
        cache("a", of=of, days=9, matched=0.1, gib=3),
        cache("b", of=of, days=9, matched=0.2, gib=3),
    ]
    assert dropped(plan(of, costs(), *caches)) == [image("b")]


def test_one_that_cannot_be_built_goes_first() -> None:
    of = policy(maxCaches=1)
    failing = cache("failing", of=of, phase="Failed")
    good = cache("good", of=of, days=9, matched=2, gib=1)

    assert dropped(plan(of, costs(), failing, good)) == [image("failing")]


def test_a_cache_that_is_being_deleted_is_made_again_only_afterwards() -> None:
    of = policy()
    going = dataclasses.replace(cache("a", of=of, gib=1), deleted=worlds.NOW)

    assert left(plan(of, costs(cost("a")), going)) == {image("a"): "Waiting"}


def test_another_template_is_applied_to_the_caches_that_there_are() -> None:
    own = [cache(f"c{number}", of=policy(), gib=1) for number in range(7)]
    found = plan(policy(template={"keepWarm": True}), costs(), *own)

    assert len(found.changed) == 5
    assert plan(policy(), costs(), *own).changed == ()


def test_drops_beyond_one_round_come_before_anything_new() -> None:
    of = policy(excludedImages=["*/old*"])
    own = [cache(f"old{number}", of=policy(), gib=1) for number in range(7)]
    found = plan(of, costs(cost("new")), *own)

    assert (len(found.dropped), left(found)) == (5, {image("new"): "Waiting"})


def test_the_caches_of_a_policy_are_known_by_their_names() -> None:
    of = policy()
    own = cache("a", of=of)
    body = worlds.cache_body("a", of=of)
    body["metadata"]["name"] = "mine"

    assert policy_cache.image_of(own) == image("a")
    assert policy_cache.image_of(cache_object.parse(body)) == ""
    assert policy_cache.name_of("p", image("a")) != policy_cache.name_of("q", image("a"))
    assert len(policy_cache.name_of("p" * 63, f"r.io/{'a' * 200}")) <= 120


def test_two_images_do_not_push_each_other_out_in_turn() -> None:
    """Round after round with room for one of two that are both pulled every day."""
    of = policy(maxCaches=1)
    now, held = worlds.NOW, cache("a", of=of, days=3, matched=0.2, gib=1)
    for _ in range(10):
        now += datetime.timedelta(hours=6)
        held = dataclasses.replace(held, matched=now - datetime.timedelta(hours=6))
        seen = policy_plan.Seen(
            now=now,
            costs=costs(cost("b", 1000)),
            recent={image("b")},
            namespaces=None,
            own=[held],
            elsewhere=(),
        )
        assert policy_plan.plan(*of, seen).dropped == ()
