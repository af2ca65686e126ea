"""Whose build is next: namespaces take turns, and one that fails waits."""

import dataclasses
import datetime

from agent.control.caches import cache_object, cache_state
from agent.control.decisions import build_turns
from tests.unit.control.decisions import test_cache_decision as deciding

NOW = deciding.NOW


def cache(
    name: str, tenant: str = "", *, failures: int = 0, started: float | None = None, age: float = 60
) -> cache_object.CacheObject:
    """A cache that is not built yet; `started` is how many seconds ago a build of it began."""
    made = deciding.cache_of(metadata={"name": name})
    build = cache_state.Build(failures=failures, failed=made.spec_hash if failures else "")
    began = None if started is None else NOW - datetime.timedelta(seconds=started)
    return dataclasses.replace(
        made,
        auto=bool(tenant),
        tenant=tenant,
        created=NOW - datetime.timedelta(seconds=age),
        state=cache_state.State(phase=cache_state.Phase.PENDING, started=began, build=build),
    )


def turns(
    known: list[cache_object.CacheObject], *, parallel: int = 4, running: dict[str, int]
) -> list[str]:
    """The names of the caches that may begin now; all of them wait."""
    slots = build_turns.Slots(parallel=parallel, running=running)
    line = line_of(known, waiting=known)
    begin = [each.key.name for each in known if line.turn_of(each.key, slots, now=NOW).now]

    # What is due where a build ends is what would begin.
    assert sorted(begin) == sorted(key.name for key in line.next_ones(slots, now=NOW))
    return begin


def line_of(
    known: list[cache_object.CacheObject], *, waiting: list[cache_object.CacheObject]
) -> build_turns.Turns:
    """All caches, of which some wait."""
    line = build_turns.Turns()
    for each in known:
        line.put(each)
    for each in waiting:
        line.wait(each.key)
    return line


def test_a_namespace_beside_one_with_a_hundred_caches_is_next() -> None:
    """The attack: a hundred pods with images that need not exist, before the one that works."""
    bad = [cache(f"bad-{number}", "bad", age=600) for number in range(100)]
    good = cache("good", "good", age=1)

    assert turns([*bad, good], running={"bad": 3}) == ["good"]


def test_a_namespace_alone_has_all_slots_but_one() -> None:
    bad = [cache(f"bad-{number}", "bad") for number in range(10)]

    assert len(turns(bad, running={})) == 3
    assert turns(bad, running={"bad": 3}) == []
    assert len(turns(bad, parallel=1, running={})) == 1


def test_caches_of_people_have_all_slots_where_none_else_waits() -> None:
    made = [cache(f"made-{number}") for number in range(10)]

    assert len(turns(made, running={})) == 4
    assert turns([*made, cache("one", "team")], running={"": 3}) == ["one"]


def test_of_equals_the_one_whose_last_build_began_longer_ago_is_next() -> None:
    first, second = cache("first", "a", started=5), cache("second", "b", started=50)

    assert turns([first, second], parallel=1, running={}) == ["second"]


def test_within_a_namespace_what_has_not_failed_is_first_then_the_oldest() -> None:
    known = [
        cache("failed", "a", failures=1, age=900),
        cache("young", "a", age=1),
        cache("old", "a", age=2),
    ]

    assert turns(known, parallel=2, running={}) == ["old"]


def test_a_namespace_whose_builds_fail_waits_longer_the_more_do() -> None:
    failed = [cache(f"bad-{number}", "bad", failures=1, started=15) for number in range(20)]
    slots = build_turns.Slots(parallel=4, running={})

    def turn(count: int) -> build_turns.Turn:
        return line_of(failed[:count], waiting=[]).turn_of(failed[0].key, slots, now=NOW)

    assert turn(3).now
    assert turn(4).now  # ten seconds after the last one
    assert turn(5) == build_turns.Turn(now=False, not_before=NOW + datetime.timedelta(seconds=5))
    assert turn(20).not_before == NOW + datetime.timedelta(seconds=155)
    assert turns([*failed, cache("good", "good")], running={}) == ["good"]


def test_the_wait_ends() -> None:
    failed = [cache(f"bad-{number}", "bad", failures=9, started=301) for number in range(99)]

    assert len(turns(failed, running={})) == 3


def test_no_more_begin_than_slots_are_free() -> None:
    known = [cache(f"c-{name}", name) for name in "abcdef"]

    assert len(turns(known, running={"x": 2})) == 2
    assert turns(known, running={"x": 3, "y": 1}) == []


def serving(made: cache_object.CacheObject) -> cache_object.CacheObject:
    """The same, as it is while it is to be built again."""
    state = dataclasses.replace(made.state, phase=cache_state.Phase.UPDATING)
    return dataclasses.replace(made, state=state)


def test_a_build_that_pods_wait_for_comes_before_the_refreshes_of_all_tenants() -> None:
    """Although its namespace has more builds that run, and began the last one just now."""
    nightly = [serving(cache(f"nightly-{number}", age=900)) for number in range(9)]
    waited_for = cache("new", "team", started=1, age=1)

    assert turns([*nightly, waited_for], running={"team": 2, "": 1}) == ["new"]
    assert turns([*nightly, waited_for], parallel=1, running={}) == ["new"]


def test_refreshes_leave_a_slot_to_builds_that_pods_wait_for() -> None:
    nightly = [serving(cache(f"nightly-{number}", age=900)) for number in range(9)]
    new = cache("new")
    line = line_of([*nightly, new], waiting=nightly)
    running = nightly[:3]
    slots = build_turns.slots_of(running, parallel=4)

    assert len(turns(nightly, running={})) == 3
    assert len(turns(nightly, parallel=1, running={})) == 1
    assert not line.turn_of(nightly[3].key, slots, now=NOW).now
    assert line.turn_of(new.key, slots, now=NOW).now


def test_of_the_caches_of_people_a_new_one_is_built_before_one_that_serves() -> None:
    known = [serving(cache("old", age=900)), cache("new", age=1)]

    assert turns(known, parallel=1, running={}) == ["new"]


def test_a_build_whose_object_is_gone_counts_for_people() -> None:
    slots = build_turns.slots_of([None, cache("a", "team")], parallel=4)

    assert (slots.running, slots.rebuilds) == ({"": 1, "team": 1}, 0)


def test_what_changes_of_a_cache_that_waits_changes_its_place() -> None:
    known = [cache("a", age=2), cache("b", age=1)]
    line = line_of(known, waiting=known)
    slots = build_turns.Slots(parallel=1, running={})

    line.put(cache("a", failures=1, age=2))
    failed = line.next_ones(slots, now=NOW)
    line.put(known[0])
    well = line.next_ones(slots, now=NOW)
    gone = line.drop(known[0].key), line.drop(known[0].key)

    assert [[key.name for key in keys] for keys in (failed, well)] == [["b"], ["a"]]
    assert gone == (True, False)
    assert line.next_ones(slots, now=NOW) == [known[1].key]
    assert line.give_way(known[1].key)
    assert not line.give_way(known[1].key)
    assert line.next_ones(slots, now=NOW) == []


def test_a_namespace_without_caches_is_forgotten() -> None:
    failed = [cache(f"bad-{number}", "bad", failures=1, started=1) for number in range(9)]
    line = line_of(failed, waiting=failed)
    for each in failed:
        line.drop(each.key)
    line.put(cache("new", "bad"))
    slots = build_turns.Slots(parallel=4, running={})

    assert line.turn_of(cache("new", "bad").key, slots, now=NOW).now
    assert not line.turn_of(failed[0].key, slots, now=NOW).now
