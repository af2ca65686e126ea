"""What is done where a registry has another image under a tag: pure, through the whole decision."""

import dataclasses
import datetime

import msgspec
import pytest

from agent.control.caches import cache_object, cache_state, status_format
from agent.control.decisions import build_turns, cache_decision, outcome, retention
from agent.control.jobs import job_manifest
from agent.model import caches, keys, reports, times
from tests.unit.control.decisions import test_cache_decision as deciding

REF = "docker.io/library/nginx:1"
OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
NOW, Verb, Phase = deciding.NOW, outcome.Verb, cache_state.Phase
ASKED = NOW - datetime.timedelta(minutes=1)


def cache_of(policy: str = "", group: str = "uimgacc.io", **state: object):
    annotations = {keys.SERVE_STALE: policy} if policy else {}
    made = deciding.cache_of(group=group, metadata={"annotations": annotations})
    build = dataclasses.replace(deciding.ready().build, spec=made.spec_hash)
    state = {"phase": Phase.READY, "build": build, **state}
    return dataclasses.replace(made, state=cache_state.State(**state))


def decide(
    cache: cache_object.CacheObject,
    answer: outcome.TagAnswer | None,
    *,
    now: datetime.datetime = NOW,
    rules: retention.Rules | None = None,
    **seen: object,
) -> outcome.Decision:
    wanted = {"stored": deciding.stored(id=cache.cache_id), "now": now, **seen}
    what = deciding.seen(tags={} if answer is None else {REF: answer}, **wanted)
    return cache_decision.decide(cache, what, rules or deciding.RULES)


def moved(at: datetime.datetime = ASKED) -> outcome.TagAnswer:
    return outcome.TagAnswer(at=at, digest=NEW)


def adjusted(step: outcome.Decision) -> list[tuple[str, bool]]:
    """What nodes are told of tags, and whether they are to leave them to pulls."""
    return [
        (each.target, each.withheld)
        for action in step.actions
        if action.verb is Verb.ADJUST
        for each in action.moved
    ]


def test_a_tag_that_is_as_it_was_is_confirmed() -> None:
    step = decide(cache_of(), outcome.TagAnswer(at=ASKED, digest=OLD))

    assert (step.state.phase, step.actions) == (Phase.READY, ())
    assert step.state.tags == cache_state.Tags(confirmed=ASKED)


def test_a_tag_that_has_moved_is_built_again_and_served_meanwhile() -> None:
    step = decide(cache_of(), moved())

    assert [action.verb for action in step.actions] == [Verb.START, Verb.ADJUST]
    assert adjusted(step) == [(NEW, False)]
    assert step.state.phase is Phase.UPDATING
    (event, begun) = step.events
    assert (event.reason, begun.reason) == ("TagMoved", "BuildStarted")
    assert NEW in event.message
    assert "last confirmed at 11:29:58 UTC" in event.message


@pytest.mark.parametrize(
    ("policy", "minutes", "withheld", "again"),
    [
        ("never", 1, True, None),
        ("for 10m", 1, False, 540.0),
        ("for 10m", 10, True, None),
        ("until-rebuilt", 600, False, None),
    ],
)
def test_pods_get_the_cached_image_by_the_policy(
    policy: str, minutes: int, withheld: bool, again: float | None
) -> None:
    """The build waits for its turn, so that nothing else is due."""
    now = ASKED + datetime.timedelta(minutes=minutes)
    step = decide(cache_of(policy), moved(), now=now, slot=False)

    assert adjusted(step) == [(NEW, withheld)]
    assert step.again == again


def test_it_is_withheld_from_when_it_was_noticed_also_by_another_controller() -> None:
    """The first question of a controller that has just begun comes later."""
    first = decide(cache_of("for 10m"), moved(), slot=False)
    status = status_format.to_status(first.state, caches.Dialect.NATIVE)
    state = status_format.of_status(status, caches.Dialect.NATIVE)
    later = NOW + datetime.timedelta(minutes=9, seconds=1)
    cache = dataclasses.replace(cache_of("for 10m"), state=state)

    assert state.tags == first.state.tags
    assert adjusted(decide(cache, None, now=later, slot=False)) == [(NEW, True)]


def test_a_build_that_pods_wait_for_is_no_mere_refresh() -> None:
    served, withheld = (
        dataclasses.replace(cache, state=decide(cache, moved(), slot=False).state)
        for cache in (cache_of(), cache_of("never"))
    )

    assert build_turns.is_rebuild(served)
    assert not build_turns.is_rebuild(withheld)


@pytest.mark.parametrize(
    "cache",
    [
        cache_of("always"),
        cache_of(group="eci.alibabacloud.com"),
        cache_of(group="eks.cloud.tencent.com"),
    ],
)
def test_the_caches_of_clouds_stay_what_they_are(cache: cache_object.CacheObject) -> None:
    """They are snapshots, until a policy says otherwise."""
    step = decide(cache, moved())

    assert Verb.START not in [action.verb for action in step.actions]
    assert step.state.phase is Phase.READY
    assert [each.digest for each in step.state.tags.moved] == [NEW]


def test_the_policy_of_the_cluster_counts_for_caches_without_one_of_all_dialects() -> None:
    rules = retention.Rules(serve_stale=caches.serve_stale("never"))
    cloud = cache_of(group="eci.alibabacloud.com")

    assert adjusted(decide(cloud, moved(), rules=rules)) == [(NEW, True)]
    assert adjusted(decide(cache_of("until-rebuilt"), moved(), rules=rules)) == [(NEW, False)]


def test_a_tag_that_has_moved_back_needs_no_build() -> None:
    cache = cache_of()
    cache = dataclasses.replace(cache, state=decide(cache, moved(), slot=False).state)
    step = decide(cache, outcome.TagAnswer(at=NOW, digest=OLD))

    assert (step.state.phase, step.state.tags.moved) == (Phase.READY, ())
    assert Verb.START not in [action.verb for action in step.actions]


def test_a_build_that_has_begun_is_followed_also_where_the_tag_has_moved_back() -> None:
    """What it publishes is to be signed."""
    cache = cache_of()
    cache = dataclasses.replace(cache, state=decide(cache, moved()).state)
    step = decide(cache, outcome.TagAnswer(at=NOW, digest=OLD), jobs=deciding.job_of(cache))

    assert step.state.phase is Phase.UPDATING


def test_a_new_build_settles_it() -> None:
    cache = cache_of("never")
    cache = dataclasses.replace(cache, state=decide(cache, moved()).state)
    record = deciding.record(id=cache.cache_id, created="2026-07-01T12:05:00Z")
    image = msgspec.structs.replace(record.images[0], target=NEW)
    record = msgspec.structs.replace(record, images=[image])
    later = NOW + datetime.timedelta(minutes=6)
    step = decide(cache, moved(), now=later, stored=outcome.Stored(record=record))

    assert step.state.tags.moved == ()
    assert adjusted(step) == []


def ended(answer: outcome.TagAnswer | None, **seen: object) -> outcome.Decision:
    """The step at the end of a build of OLD, whose record is not signed yet: only its report has
    it."""
    cache = cache_of()
    result = reports.Result(cache=deciding.record(id=cache.cache_id))
    return decide(
        cache,
        answer,
        stored=None,
        jobs=deciding.job_of(cache, created=ASKED),
        report=reports.Report(percent=100, result=result),
        **seen,
    )


def test_a_new_build_says_at_once_of_when_its_tags_are() -> None:
    """No second step, which would write the status of each cache once more."""
    step = ended(None)

    assert step.state.phase is Phase.READY
    assert step.state.tags == cache_state.Tags(
        confirmed=datetime.datetime(2026, 7, 1, 11, 29, 58, tzinfo=datetime.UTC)
    )
    assert step.again is None


def test_a_push_while_a_build_runs_is_not_forgotten_at_its_end() -> None:
    """No other step is due, and without an interval no other answer comes."""
    step = ended(moved())

    assert step.state.phase is Phase.READY
    assert [each.digest for each in step.state.tags.moved] == [NEW]
    assert [event.reason for event in step.events] == ["TagMoved", "Ready"]
    assert step.again == 1.0


def test_an_answer_from_before_the_build_is_no_news() -> None:
    """The tag has moved once more since; the builder has seen that, the controller not yet."""
    early = datetime.datetime(2026, 7, 1, 11, 29, tzinfo=datetime.UTC)
    step = decide(cache_of(), moved(early))

    assert (step.state.phase, step.state.tags.moved) == (Phase.READY, ())


@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0, 1.2])
def test_an_answer_of_the_second_in_which_a_quick_build_ended_is_one_after_it(seconds) -> None:
    """All times are rounded down, and without an interval nothing is looked up a second time."""
    ended = datetime.datetime(2026, 7, 1, 11, 29, 30, tzinfo=datetime.UTC)
    cache = cache_of()
    record = deciding.record(id=cache.cache_id, created=times.stamp(ended), build_seconds=seconds)
    step = decide(cache, moved(ended), stored=outcome.Stored(record=record))

    assert [each.digest for each in step.state.tags.moved] == [NEW]
    assert Verb.START in [action.verb for action in step.actions]


def test_a_registry_that_refuses_makes_no_cache_fail() -> None:
    refused = outcome.TagAnswer(at=ASKED, problem="the registry refuses it (403)")
    cache = cache_of()
    step = decide(cache, refused)
    again = decide(dataclasses.replace(cache, state=step.state), refused)

    assert (step.state.phase, step.actions) == (Phase.READY, ())
    assert step.state.tags.problem == f"{REF}: the registry refuses it (403)"
    assert [event.reason for event in step.events] == ["TagsNotConfirmed"]
    assert again.events == ()


def test_a_refresh_that_fails_is_tried_later_and_the_cache_serves() -> None:
    cache = cache_of()
    cache = dataclasses.replace(cache, state=decide(cache, moved()).state)
    name = job_manifest.name_of(cache, (deciding.AMD,))
    step = decide(cache, moved(), jobs=deciding.job_of(cache, name=name, failed=True))
    after = dataclasses.replace(cache, state=step.state)

    assert step.state.phase is Phase.UPDATE_FAILED
    assert Verb.START not in [action.verb for action in decide(after, moved()).actions]


def test_times_alone_are_written_now_and_then() -> None:
    """The statuses of ten thousand caches would be written each ten minutes."""
    cache = cache_of(tags=cache_state.Tags(confirmed=ASKED))

    def confirmed(seconds: float) -> datetime.datetime | None:
        at = ASKED + datetime.timedelta(seconds=seconds)
        answer = outcome.TagAnswer(at=at, digest=OLD)
        return decide(cache, answer, tags_written_every=1000.0).state.tags.confirmed

    assert confirmed(999) == ASKED
    assert confirmed(1000) == ASKED + datetime.timedelta(seconds=1000)
