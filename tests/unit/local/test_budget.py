"""What is copied and removed, whatever a node runs and however full its disk is."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.local import budget

HOUR = 3600.0
DAY = 24 * HOUR


def room(free: int = 1000, *, take: int = 100, floor: int = 200) -> budget.Room:
    return budget.Room(budget=take, floor=floor, free=free, whole=1000)


def copy(name: str, size: int = 10, *, used_at: float = 0.0, in_use: bool = False) -> budget.Copy:
    return budget.Copy(name=name, size=size, used_at=used_at, in_use=in_use)


def wanted(name: str, size: int = 10, *, users: int = 1) -> budget.Wanted:
    return budget.Wanted(name=name, size=size, users=users)


def test_what_most_containers_stand_on_is_copied_first_then_what_is_small() -> None:
    layers = [wanted("large", 20), wanted("base", 30, users=3), wanted("small", 5)]
    order = []
    while layers:
        plan = budget.plan(layers, [], room(), now=DAY)
        order.append(plan.copy)
        layers = [each for each in layers if each.name != plan.copy]

    assert order == ["base", "small", "large"]


def test_a_layer_that_is_larger_than_the_budget_is_never_begun() -> None:
    plan = budget.plan([wanted("huge", 101)], [copy("idle", 100)], room(), now=DAY)

    assert plan == budget.Plan(sentence=plan.sentence)
    assert plan.sentence.startswith("1 layer has no room")


def test_one_that_does_not_fit_does_not_keep_others_from_being_copied() -> None:
    plan = budget.plan([wanted("huge", 101, users=9), wanted("small")], [], room(), now=DAY)

    assert plan.copy == "small"


def test_a_copy_that_is_begun_is_finished_first() -> None:
    """What it has on the disk already is not needed once more."""
    begun = budget.Wanted(name="begun", size=50, users=1, begun=40)
    plan = budget.plan([wanted("base", users=3), begun], [], room(220), now=DAY)

    assert plan.copy == "begun"


def test_what_was_used_last_long_ago_goes_first() -> None:
    copies = [copy("b", 40, used_at=2.0), copy("a", 40, used_at=1.0), copy("c", 20, used_at=3.0)]
    plan = budget.plan([wanted("new", 50)], copies, room(), now=DAY)

    assert plan == budget.Plan(evict=(("a", "budget"), ("b", "budget")), copy="new")


def test_what_is_in_use_or_was_lately_does_not_go_for_others() -> None:
    copies = [copy("running", 50, in_use=True), copy("ended", 50, used_at=DAY - 60)]
    plan = budget.plan([wanted("new", 50, users=9)], copies, room(), now=DAY)

    assert (plan.evict, plan.copy) == ((), None)


def test_a_full_disk_takes_copies_those_in_use_last() -> None:
    copies = [copy("running", 50, in_use=True), copy("ended", 20, used_at=DAY)]

    assert budget.plan([wanted("new")], copies, room(195), now=DAY).evict == (
        ("ended", "pressure"),
    )
    assert budget.plan([wanted("new")], copies, room(150), now=DAY).evict == (
        ("ended", "pressure"),
        ("running", "pressure"),
    )


def test_nothing_is_copied_while_the_disk_is_short() -> None:
    plan = budget.plan([wanted("new")], [], room(199), now=DAY)

    assert plan.copy is None
    assert plan.sentence.startswith("The disk has 199 B free, and 200 B are to stay")


def test_a_copy_that_was_removed_for_the_disk_is_not_made_again_at_once() -> None:
    """With what it has given free, and as much as it took, the disk would be short again."""
    copies = [copy("a", 10)]
    plan = budget.plan([], copies, room(199), now=DAY)
    after = room(199 + 10)

    assert plan.evict == (("a", "pressure"),)
    assert budget.plan([wanted("a", 10)], [], after, now=DAY).copy is None


def test_a_smaller_budget_is_kept_at_once() -> None:
    copies = [copy("running", 50, in_use=True), copy("ended", 50, used_at=DAY)]
    plan = budget.plan([], copies, room(take=60), now=DAY)

    assert plan.evict == (("ended", "budget"),)


def test_what_the_store_has_deleted_goes_when_nothing_uses_it() -> None:
    copies = [copy("a", used_at=DAY), copy("b", in_use=True), copy("c", used_at=DAY)]
    plan = budget.plan([], copies, room(), now=DAY, deleted={"a", "b"})

    assert plan.evict == (("a", "deleted"),)


def test_what_runs_on_a_deleted_layer_keeps_its_copy_whatever_is_short() -> None:
    copies = [copy("a", 60, in_use=True), copy("b", 40, in_use=True)]
    short = budget.plan([], copies, room(0, floor=500), now=DAY, deleted={"a"})
    over = budget.plan([], copies, room(take=1), now=DAY, deleted={"a"})

    assert short.evict == (("b", "pressure"),)
    assert over.evict == (("b", "budget"),)


NAMES = st.sampled_from("abcdefgh")
COPIES = st.lists(
    st.builds(
        copy,
        NAMES,
        st.integers(1, 60),
        used_at=st.floats(0, DAY),
        in_use=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.name,
)
LAYERS = st.lists(
    st.builds(wanted, NAMES, st.integers(1, 120), users=st.integers(0, 5)),
    max_size=8,
    unique_by=lambda each: each.name,
)
ROOMS = st.builds(room, st.integers(0, 1000), take=st.integers(0, 200), floor=st.integers(0, 500))


@given(LAYERS, COPIES, ROOMS, st.sets(NAMES))
def test_both_bounds_are_kept_whatever_there_is(layers, copies, disk, deleted) -> None:
    present = {each.name: each for each in copies}
    layers = [each for each in layers if each.name not in present]
    plan = budget.plan(layers, copies, disk, now=DAY, deleted=deleted)
    going = [name for name, _ in plan.evict]
    freed = sum(present[name].size for name in going)
    taken = sum(each.size for each in copies) - freed

    assert len(going) == len(set(going))
    assert all(
        name in deleted and not present[name].in_use for name, why in plan.evict if why == "deleted"
    )
    if plan.copy is None:
        kept = {each.name for each in copies if each.in_use and each.name in deleted}
        assert taken <= disk.budget or disk.is_short or set(going) == present.keys() - kept
        return
    size = next(each.size for each in layers if each.name == plan.copy)
    assert taken + size <= disk.budget
    assert disk.free + freed - size >= disk.floor


@given(LAYERS, COPIES, ROOMS)
def test_what_is_valuable_never_goes_for_a_copy(layers, copies, disk) -> None:
    """Only where a bound is broken already does anything go that is in use, or was lately."""
    present = {each.name: each for each in copies}
    if disk.is_short or sum(each.size for each in copies) > disk.budget:
        return
    plan = budget.plan(layers, copies, disk, now=DAY)

    assert all(
        not present[name].in_use and present[name].used_at < DAY - 1800 for name, _ in plan.evict
    )


@settings(max_examples=50)
@given(
    st.dictionaries(NAMES, st.integers(1, 60), min_size=1),
    st.lists(st.sets(NAMES, max_size=4), min_size=1, max_size=30),
)
def test_copies_do_not_take_turns(sizes, history) -> None:
    """Containers come and go, a minute each; no layer is copied twice within the half hour for
    which a copy is kept."""
    copies: dict[str, budget.Copy] = {}
    made: dict[str, float] = {}
    now = DAY
    for used in history:
        now += 60
        copies = {
            name: dataclasses.replace(
                each, in_use=name in used, used_at=now if name in used else each.used_at
            )
            for name, each in copies.items()
        }
        for _ in range(len(sizes) + 1):
            missing = [wanted(name, sizes[name]) for name in used & sizes.keys() - copies.keys()]
            plan = budget.plan(missing, list(copies.values()), room(), now=now)
            for name, _ in plan.evict:
                del copies[name]
            if plan.copy is None:
                break
            assert now - made.get(plan.copy, 0.0) > 1800
            made[plan.copy] = now
            copies[plan.copy] = copy(plan.copy, sizes[plan.copy], used_at=now, in_use=True)
        else:
            raise AssertionError("it does not come to an end")


def test_nothing_goes_for_a_layer_that_no_container_stands_on() -> None:
    """Warm images that do not all fit would push each other out, for ever."""
    plan = budget.plan([wanted("warm", 50, users=0)], [copy("old", 80)], room(), now=DAY)
    fitting = budget.plan([wanted("warm", 20, users=0)], [copy("old", 80)], room(), now=DAY)

    assert (plan.evict, plan.copy, fitting.copy) == ((), None, "warm")
