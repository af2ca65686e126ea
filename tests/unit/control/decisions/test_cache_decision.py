"""What is done about a cache in every situation: pure, so all of them can be had."""

import dataclasses
import datetime
from typing import Any

import pytest

from agent.control.caches import cache_object, cache_state, status_format
from agent.control.decisions import cache_decision, outcome, retention
from agent.control.gc import roster
from agent.control.jobs import job_manifest, job_state
from agent.model import caches, keys, records, reports, times

NOW = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
RULES = retention.Rules()
AMD, ARM = "linux/amd64", "linux/arm64"
Verb, Phase = outcome.Verb, cache_state.Phase


def later(**delta: float) -> datetime.datetime:
    return NOW + datetime.timedelta(**delta)


def body(group: str = "uimgacc.io", **changes: Any) -> dict[str, Any]:
    meta = {
        "name": "tools",
        "uid": "u",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": "2026-07-01T11:00:00Z",
        "finalizers": [keys.FINALIZER],
        **changes.pop("metadata", {}),
    }
    spec = {"images": ["nginx:1"], **changes.pop("spec", {})}
    return {"apiVersion": f"{group}/v1", "kind": "ImageCache", "metadata": meta, "spec": spec}


def cache_of(state: cache_state.State | None = None, **changes: Any) -> cache_object.CacheObject:
    found = cache_object.parse(body(**changes))
    return dataclasses.replace(found, state=state or cache_state.State())


def record(image: str = "docker.io/library/nginx:1", **changes: Any) -> records.CacheRecord:
    digest = f"sha256:{'1' * 64}"
    held = records.CachedImage(ref=image, target=digest, size=7, layers=[digest])
    return records.CacheRecord(
        **{
            "id": caches.id_of_name("tools"),
            "name": "tools",
            "images": [held],
            "size": 5,
            "capacity": 20 << 30,
            "created": "2026-07-01T11:30:00Z",
            "build_seconds": 2.0,
            **changes,
        }
    )


def ready(**changes: Any) -> cache_state.State:
    """The state after a build of the spec of `cache_of` for AMD."""
    build = cache_state.Build(
        spec=cache_of().spec_hash,
        platforms=(AMD,),
        time=datetime.datetime(2026, 7, 1, 11, 30, tzinfo=datetime.UTC),
    )
    return cache_state.State(**{"phase": Phase.READY, "build": build, **changes})


def seen(**changes: Any) -> outcome.Seen:
    return outcome.Seen(**{"now": NOW, "platforms": (AMD,), **changes})


def stored(**changes: Any) -> outcome.Stored:
    return outcome.Stored(record=record(**changes), platforms=(AMD,))


def job_of(cache: cache_object.CacheObject, **changes: Any) -> dict[str, job_state.Job]:
    platforms = cache_decision.platforms_of(cache, (AMD,))
    name = changes.pop("name", job_manifest.name_of(cache, platforms))
    job = job_state.Job(
        **{
            "name": name,
            "uid": "j",
            "cache_id": cache.cache_id,
            "spec": cache.spec_hash,
            "owner": "uimgacc.io/tools",
            "platforms": platforms,
            "created": NOW,
            **changes,
        }
    )
    return {name: job}


def verbs(step: outcome.Decision) -> list[Verb]:
    return [action.verb for action in step.actions]


def decide(cache: cache_object.CacheObject, what: outcome.Seen) -> outcome.Decision:
    return cache_decision.decide(cache, what, RULES)


def test_a_new_cache_is_held_and_its_build_begins() -> None:
    step = decide(cache_of(metadata={"finalizers": ["other"]}), seen())

    assert (verbs(step), step.state.phase) == ([Verb.HOLD, Verb.START], Phase.CREATING)
    assert step.state.cache_id == caches.id_of_name("tools")
    assert [event.reason for event in step.events] == ["BuildStarted"]


def test_without_a_slot_it_waits() -> None:
    step = decide(cache_of(), seen(slot=False))

    assert (verbs(step), step.state.phase) == ([], Phase.PENDING)


def test_what_the_store_has_already_is_not_built_again() -> None:
    """A status that was lost, a controller that ended too early, a cache from the command line."""
    step = decide(cache_of(), seen(stored=stored()))

    assert (verbs(step), step.state.phase) == ([], Phase.READY)
    assert step.state.build == ready().build


@pytest.mark.parametrize(
    "other",
    [
        stored(image="docker.io/library/nginx:2"),
        stored(capacity=30 << 30),
        stored(namespaces=["default"]),
    ],
)
def test_what_the_store_has_of_another_spec_is(other: outcome.Stored) -> None:
    step = decide(cache_of(), seen(stored=other))

    assert (verbs(step), step.state.phase) == ([Verb.START], Phase.UPDATING)


def test_ready_and_nothing_new_writes_nothing() -> None:
    first = decide(cache_of(ready()), seen(stored=stored())).state
    again = decide(cache_of(first), seen(stored=stored(), now=later(hours=5)))

    assert (again.state, again.actions, again.events) == (first, (), ())
    status = status_format.patch_of(first, caches.Dialect.NATIVE, {})
    assert status_format.of_status(status, caches.Dialect.NATIVE) == first
    assert status_format.patch_of(again.state, caches.Dialect.NATIVE, status) == {}


def test_a_build_shows_its_progress_and_what_its_pod_waits_for() -> None:
    cache = cache_of(cache_state.State(phase=Phase.CREATING, started=NOW))
    report = reports.Report(percent=42, images=["a"], step="b: 1 of 2 layers are there")

    step = decide(cache, seen(jobs=job_of(cache), report=report))
    assert (step.state.progress, step.sentence) == (42, f"It is being built: {report.step}.")
    assert [event.message for event in step.state.events] == ["Success pull image a"]
    once_more = decide(dataclasses.replace(cache, state=step.state),
                       seen(jobs=job_of(cache), report=report))  # fmt: skip
    assert once_more.state.events == step.state.events

    stuck = decide(cache, seen(jobs=job_of(cache, reason="the builder's pod finds no node")))
    assert "finds no node" in stuck.state.message
    moved = decide(cache, seen(jobs=job_of(cache, setback="the builder was evicted")))
    assert moved.state.message.endswith(" Before, the builder was evicted.")


def test_ready_as_soon_as_the_builder_says_so() -> None:
    cache = cache_of(cache_state.State(phase=Phase.CREATING, started=NOW))
    report = reports.Report(percent=100, result=reports.Result(cache=record()))

    step = decide(cache, seen(jobs=job_of(cache), report=report))

    assert (step.state.phase, step.state.progress) == (Phase.READY, 100)
    assert step.state.build == ready().build
    assert [action.verb for action in step.afterwards] == [Verb.SETTLE]
    # The Job that is about to end is not taken for one of another spec.
    done = dataclasses.replace(cache, state=step.state)
    after = decide(done, seen(jobs=job_of(cache), stored=stored()))
    assert (verbs(after), after.state.phase) == ([], Phase.READY)


def test_a_failure_says_why_and_when_it_is_tried_again() -> None:
    cache = cache_of(cache_state.State(phase=Phase.CREATING))
    step = decide(cache, seen(jobs=job_of(cache, failed=True, reason="no such image.")))

    assert step.state.phase is Phase.FAILED
    assert step.sentence == (
        "The build failed: no such image. It is tried again at 12:00:10 UTC (failure 1)."
    )
    failed = dataclasses.replace(cache, state=step.state)
    waiting = decide(failed, seen(jobs=job_of(cache, failed=True), now=later(seconds=4)))
    assert (verbs(waiting), waiting.again) == ([], 6.0)
    again = decide(failed, seen(jobs=job_of(cache, failed=True), now=later(seconds=11)))
    assert verbs(again) == [Verb.START]
    assert again.actions[0].subject.endswith("-1")


def test_a_build_that_has_just_failed_may_end_by_itself() -> None:
    """Its report comes before its Job has ended; it is stopped only if it does not end."""
    cache = cache_of(cache_state.State(phase=Phase.CREATING))
    report = reports.Report(result=reports.Result(reason="no room"))
    running = job_of(cache)
    failed = decide(cache, seen(jobs=running, report=report))
    assert failed.state.phase is Phase.FAILED

    cache = dataclasses.replace(cache, state=failed.state)
    for seconds in (0, 15):  # the next one is due after ten
        waiting = decide(cache, seen(jobs=running, now=later(seconds=seconds)))
        assert (verbs(waiting), waiting.state) == ([], failed.state)
    assert verbs(decide(cache, seen(jobs=running, now=later(minutes=1)))) == [Verb.STOP]


def test_what_was_ready_goes_on_serving_while_a_new_build_fails() -> None:
    cache = cache_of(ready(), spec={"images": ["nginx:2"]})
    step = decide(cache, seen(jobs=job_of(cache, failed=True, reason="r"), stored=stored()))

    assert (step.state.phase, step.state.serving) == (Phase.UPDATE_FAILED, True)
    assert step.state.build.spec == ready().build.spec


def test_another_try_begins_from_the_first_failure_when_the_spec_changes() -> None:
    build = cache_state.Build(failures=5, failed="other", retry=later(hours=1))
    step = decide(cache_of(cache_state.State(phase=Phase.FAILED, build=build)), seen())

    assert verbs(step) == [Verb.START]
    assert step.actions[0].subject.endswith("-0")


def test_a_build_of_what_is_not_wanted_any_more_ends_first() -> None:
    cache = cache_of(cache_state.State(phase=Phase.CREATING), spec={"images": ["nginx:2"]})
    old = job_of(cache_of())
    step = decide(cache, seen(jobs=old))
    assert [(action.verb, action.subject) for action in step.actions] == [
        (Verb.STOP, next(iter(old)))
    ]

    assert [event.reason for event in step.events] == ["BuildStopped"]

    going = job_of(cache_of(), deleting=True)
    waiting = decide(dataclasses.replace(cache, state=step.state), seen(jobs=going))
    assert (verbs(waiting), waiting.events) == ([], ())
    assert verbs(decide(cache, seen(jobs={}))) == [Verb.START]


def test_back_to_what_is_built_ends_the_build_of_the_other() -> None:
    other = cache_of(ready(), spec={"images": ["nginx:2"]})
    step = decide(cache_of(ready()), seen(jobs=job_of(other), stored=stored()))

    assert verbs(step) == [Verb.STOP]


def test_a_node_of_a_new_kind_has_the_cache_built_for_it_too() -> None:
    step = decide(cache_of(ready()), seen(stored=stored(), platforms=(AMD, ARM)))
    assert (verbs(step), step.state.phase) == ([Verb.START], Phase.UPDATING)

    gone = decide(cache_of(ready()), seen(stored=stored(), platforms=()))
    assert (verbs(gone), gone.state.phase) == ([], Phase.READY)


def test_an_object_that_names_its_platform_gets_only_that_one() -> None:
    annotations = {"k8s.aliyun.com/imc-cpu-arch": "arm64"}
    cache = cache_of(group="eci.alibabacloud.com", metadata={"annotations": annotations})

    assert cache_decision.platforms_of(cache, (AMD,)) == (ARM,)
    template = job_manifest.Template(namespace="n", image="i", store="/store", volume={})
    made = job_manifest.manifest(cache, cache.request, (ARM,), template=template)
    arguments = made["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--platform=linux/arm64" in arguments
    assert "--some-platform" not in arguments


DAILY = "30 11 * * *"
"""The last build was done at that time, in UTC."""


@pytest.mark.parametrize(
    ("annotations", "refresh_hours", "hours", "built"),
    [
        ({}, 0, 1000, False),
        ({keys.REFRESH: "x"}, 0, 0, True),
        ({keys.REFRESH_HOURS: "24"}, 0, 23, False),
        ({keys.REFRESH_HOURS: "24"}, 0, 24, True),
        ({}, 24, 24, True),
        ({keys.REFRESH_HOURS: "soon"}, 0, 1000, False),
        ({keys.REFRESH_SCHEDULE: DAILY}, 0, 23, False),
        ({keys.REFRESH_SCHEDULE: DAILY}, 0, 24, True),
        ({keys.REFRESH_SCHEDULE: DAILY, keys.REFRESH_ZONE: "Asia/Shanghai"}, 0, 15, False),
        ({keys.REFRESH_SCHEDULE: DAILY, keys.REFRESH_ZONE: "Asia/Shanghai"}, 0, 16, True),
        ({keys.REFRESH_SCHEDULE: DAILY, keys.REFRESH_HOURS: "2"}, 0, 2, True),
        ({keys.REFRESH_SCHEDULE: "soon"}, 0, 1000, False),
    ],
)
def test_tags_are_looked_up_again(annotations, refresh_hours, hours, built) -> None:
    rules = dataclasses.replace(RULES, refresh_hours=refresh_hours)
    cache = cache_of(ready(), metadata={"annotations": annotations})
    now = ready().build.time + datetime.timedelta(hours=hours)

    step = cache_decision.decide(cache, seen(stored=stored(), now=now), rules)

    assert verbs(step) == ([Verb.START] if built else [])


def test_after_a_refresh_the_next_one_is_due_from_then() -> None:
    cache = cache_of(ready(), metadata={"annotations": {keys.REFRESH_HOURS: "1"}})
    now = later(hours=1)
    new = record(created="2026-07-01T12:59:00Z")
    report = reports.Report(result=reports.Result(cache=new))
    step = decide(cache, seen(jobs=job_of(cache), stored=stored(), report=report, now=now))
    assert step.state.build.time == times.parse(new.created)

    done = dataclasses.replace(cache, state=step.state)
    after = decide(done, seen(stored=outcome.Stored(record=new), now=now))
    assert (verbs(after), after.again) == ([], 59 * 60)


def test_without_the_store_nothing_happens_to_what_is_ready() -> None:
    before = decide(cache_of(ready()), seen(stored=stored())).state
    step = decide(cache_of(before), seen(problem="it hangs"))
    assert (step.state, verbs(step)) == (before, [])

    new = decide(cache_of(), seen(problem="it hangs"))
    assert (new.state.phase, "it hangs" in new.state.message) == (Phase.PENDING, True)


def test_a_spec_that_only_we_can_tell_is_wrong() -> None:
    cache = cache_of(spec={"images": ["not an image"]})
    step = decide(cache, seen())

    assert step.state.phase is Phase.FAILED
    assert "spec.images[0]" in step.state.message
    said = decide(dataclasses.replace(cache, state=step.state), seen())
    assert said.events == ()


def deleted(state: cache_state.State | None = None, **changes: Any) -> cache_object.CacheObject:
    meta = {"deletionTimestamp": "2026-07-01T12:00:00Z", **changes.pop("metadata", {})}
    return cache_of(state or ready(), metadata=meta, **changes)


def test_a_deletion_takes_the_record_then_waits_for_the_layers() -> None:
    step = decide(deleted(), seen(stored=stored()))
    assert verbs(step) == [Verb.REMOVE]

    waiting = decide(deleted(), seen(going=True, holders="held by pod a/b on node-1"))
    assert (verbs(waiting), waiting.state.message) == ([], "held by pod a/b on node-1")
    assert verbs(decide(deleted(), seen())) == [Verb.RELEASE]
    assert verbs(decide(deleted(metadata={"finalizers": []}), seen())) == []


def test_a_deletion_that_waits_says_for_whom_and_not_again_for_each_who_lets_go() -> None:
    cache, events = deleted(), []
    for who, silent in (
        ([], ["node-1", "node-2"]),
        ([], ["node-2"]),
        (["pod a/b on node-1", "pod a/c on node-2"], []),
        (["pod a/c on node-2"], []),
    ):
        holders = roster.waiting_sentence(cache.cache_id, who, silent)
        step = decide(cache, seen(going=True, holders=holders))
        events += step.events
        cache = dataclasses.replace(cache, state=step.state)

    assert [event.reason for event in events] == ["DeletionWaits"] * 2
    assert events[0].message.endswith("waiting for node-1, node-2.")
    assert events[1].message.endswith("held by pod a/b on node-1, pod a/c on node-2.")
    assert cache.state.message.endswith("held by pod a/c on node-2.")


@pytest.mark.parametrize("what", [{"problem": "away"}, {"going": True}, {"stored": stored()}])
def test_no_deletion_waits_for_ever(what) -> None:
    step = decide(deleted(), seen(now=later(minutes=10), **what))

    assert verbs(step)[-1] is Verb.RELEASE
    assert [event.warning for event in step.events] == [True]


def test_a_deletion_ends_the_build_before_it_takes_the_record() -> None:
    cache = cache_of()
    step = decide(deleted(cache_state.State()), seen(jobs=job_of(cache), stored=stored()))

    assert verbs(step) == [Verb.STOP]


AUTO = {"labels": {keys.AUTO_CREATED: "true"}}


def automatic(state: cache_state.State, **annotations: str) -> cache_object.CacheObject:
    reference = cache_of().request.images
    name = caches.name_of_auto_cache(caches.id_of_images(reference))
    return cache_of(
        state,
        metadata={
            "name": name,
            "labels": {keys.AUTO_CREATED: "true"},
            "annotations": {keys.LAST_MATCHED: annotations["matched"]} if annotations else {},
        },
    )


def expiry(cache: cache_object.CacheObject) -> datetime.datetime | None:
    return decide(cache, seen(stored=stored())).state.expires


def test_lifetimes() -> None:
    created = datetime.datetime(2026, 7, 1, 11, tzinfo=datetime.UTC)

    assert expiry(cache_of(ready())) is None
    kept = cache_of(ready(), spec={"retentionDays": 3})
    assert expiry(kept) == created + datetime.timedelta(days=3)
    assert expiry(automatic(ready())) == created + datetime.timedelta(days=7)
    used = automatic(ready(), matched="2026-07-01T11:45:00Z")
    assert expiry(used) == datetime.datetime(2026, 7, 31, 11, 45, tzinfo=datetime.UTC)
    over = decide(kept, seen(stored=stored(), now=later(days=3)))
    assert verbs(over) == [Verb.EXPIRE]


@pytest.mark.parametrize(
    ("group", "kept"), [("eci.alibabacloud.com", True), ("eks.cloud.tencent.com", False)]
)
def test_what_cannot_be_built_is_kept_for_a_day_where_the_cloud_does(group, kept) -> None:
    cache = cache_of(cache_state.State(phase=Phase.CREATING), group=group)
    first = decide(cache, seen(jobs=job_of(cache, failed=True, reason="r"))).state
    assert first.expires == (later(hours=24) if kept else None)

    # A retry that fails as well does not start the day again.
    once = dataclasses.replace(cache, state=first)
    again = decide(once, seen(jobs=job_of(once, failed=True, reason="r"), now=later(hours=5)))
    assert again.state.expires == first.expires
    end = decide(dataclasses.replace(once, state=again.state), seen(now=later(hours=25)))
    assert (Verb.EXPIRE in verbs(end)) is kept


def test_the_automatic_cache_unused_for_the_longest_goes_when_there_are_too_many() -> None:
    old = automatic(ready(), matched="2026-06-01T00:00:00Z")
    new = dataclasses.replace(
        automatic(ready()), key=cache_object.Key("uimgacc.io", "new"), created=later(hours=-1)
    )
    named = cache_of(ready())

    rules = dataclasses.replace(RULES, auto_caches=1)
    assert [each.cache for each in retention.surplus([new, named, old], rules)] == [old]
    assert retention.surplus([new, named], rules) == []
    none = dataclasses.replace(RULES, auto_caches=0)
    assert [each.cache for each in retention.surplus([new, named, old], none)] == [old, new]
    assert retention.surplus([new, named, old], RULES) == []


def test_a_namespace_keeps_within_its_number_and_its_bytes() -> None:
    def of(tenant: str, number: int, size: int) -> cache_object.CacheObject:
        state = dataclasses.replace(ready(), size=size)
        return dataclasses.replace(
            automatic(state),
            key=cache_object.Key("uimgacc.io", f"{tenant}-{number:03}"),
            tenant=tenant,
            created=later(hours=number),
        )

    large = [of("large", number, 100) for number in range(10)]
    many = [of("many", number, 1) for number in range(30)]
    small = [of("small", number, 10) for number in range(3)]

    def going(**limits: int) -> list[str]:
        rules = dataclasses.replace(RULES, **limits)
        return [each.cache.key.name for each in retention.surplus([*many, *large, *small], rules)]

    assert going(auto_namespace=28) == ["many-000", "many-001"]
    assert going(auto_share=800) == ["large-000", "large-001"]
    assert going(auto_share=0) == []
    assert going(auto_bytes=900) == ["large-000", "large-001"]
    assert going(auto_bytes=0) == []
    assert going(auto_namespace=29, auto_share=900, auto_caches=40) == [
        "large-000",
        "many-000",
        "many-001",
    ]


def test_of_many_automatic_caches_as_many_go_as_are_too_many() -> None:
    known = [
        dataclasses.replace(
            automatic(dataclasses.replace(ready(), size=1)),
            key=cache_object.Key("uimgacc.io", f"a{number:05}"),
            tenant=f"team-{number % 50}",
        )
        for number in range(2000)
    ]
    rules = dataclasses.replace(RULES, auto_caches=1000, auto_bytes=500)

    assert len(retention.surplus(known, rules)) == 1500


def test_what_a_person_has_edited_since_is_a_cache_of_its_name() -> None:
    cache = cache_of(metadata={**AUTO, "generation": 2})

    assert (cache.auto, cache.cache_id) == (False, caches.id_of_name("tools"))
    assert Verb.START in verbs(decide(cache, seen()))


def test_an_agent_gives_no_cache_another_name() -> None:
    """It would be kept for ever, and an attacker on a node could fill the store."""
    cache = cache_of(metadata=AUTO)
    step = decide(cache, seen())

    assert Verb.START not in verbs(step)
    assert "take the label" in step.sentence
    assert step.state.expires == later(hours=24)


def wanted_by_a_pod(state: cache_state.State | None = None) -> cache_object.CacheObject:
    """As an agent makes it, with a pull secret."""
    spec = {"imagePullSecrets": ["team/pull"]}
    request = dataclasses.replace(cache_of(spec=spec).request, auto=True)
    meta = {**AUTO, "name": caches.name_of_auto_cache(request.cache_id)}
    return cache_of(state, spec=spec, metadata=meta)


def test_an_automatic_cache_uses_secrets_for_a_pod_that_has_them_only() -> None:
    cache = wanted_by_a_pod()
    for origin in ("the pod team/app is gone", None):
        step = decide(cache, seen(origin=origin))
        assert (verbs(step), step.state.phase) == ([], Phase.FAILED)
        assert (step.sentence.count(origin or "no pod"), step.events[0].warning) == (1, True)
        # The next pod that wants it shall not find this one in its way for long.
        assert step.state.expires == later(minutes=10)
        refused = dataclasses.replace(cache, state=step.state)
        assert decide(refused, seen(origin=origin)).events == ()
        gone = decide(refused, seen(origin=origin, now=later(minutes=10)))
        assert verbs(gone) == [Verb.EXPIRE]

    step = decide(cache, seen(origin=""))
    assert (verbs(step), step.state.verified) == ([Verb.START], True)


def test_a_pod_that_was_seen_may_go() -> None:
    cache = wanted_by_a_pod(cache_state.State(phase=Phase.PENDING, verified=True))

    assert verbs(decide(cache, seen())) == [Verb.START]
    # The pod is there, and the store is not: that it was there is noted all the same.
    blind = decide(wanted_by_a_pod(), seen(origin="", problem="away"))
    assert (verbs(blind), blind.state.verified) == ([], True)


def test_what_serves_already_goes_on_serving_when_its_pod_is_gone() -> None:
    """A version that noted nothing has written it: it is only not built again."""
    cache = wanted_by_a_pod(ready())
    step = decide(cache, seen(origin="the pod is gone", stored=stored(), jobs=job_of(cache)))

    assert (verbs(step), step.state.phase) == ([Verb.STOP], Phase.UPDATE_FAILED)
    assert step.state.expires == later(days=7, hours=-1)


def test_what_was_built_is_signed_before_it_is_ready() -> None:
    cache = cache_of()
    report = reports.Report(percent=100, result=reports.Result(cache=record()))
    jobs = job_of(cache, attested=f"sha256:{'1' * 64}")
    step = cache_decision.decide(cache, seen(jobs=jobs, report=report, signs=True), RULES)

    assert verbs(step) == [Verb.SIGN]
    assert [action.verb for action in step.afterwards] == [Verb.SETTLE]
    assert step.state.phase is Phase.READY


def test_what_was_built_waits_for_what_its_pod_vouches_for() -> None:
    """The report is in the store; what is signed must come by another way."""
    cache = cache_of()
    report = reports.Report(percent=100, result=reports.Result(cache=record()))
    step = cache_decision.decide(cache, seen(jobs=job_of(cache), report=report, signs=True), RULES)

    assert verbs(step) == []
    assert step.state.phase is Phase.CREATING
    assert step.again == 1.0


def test_a_build_that_has_ended_and_vouches_for_nothing_has_failed() -> None:
    """Its pod is gone, or its builder is of a version that does not sign."""
    cache = cache_of()
    jobs = job_of(cache, succeeded=True)
    step = cache_decision.decide(
        cache, seen(jobs=jobs, stored=stored(created=times.stamp(NOW)), signs=True), RULES
    )

    assert step.state.phase is Phase.UPDATE_FAILED
    assert "vouch" in step.sentence


def test_a_cache_that_is_not_signed_says_so_once_and_serves() -> None:
    cache = cache_of(ready())
    unsigned = seen(stored=stored(), signs=True, unsigned=True)
    step = cache_decision.decide(cache, unsigned, RULES)

    assert step.state.phase is Phase.READY
    assert "not signed" in step.sentence
    assert [event.reason for event in step.events] == ["NotSigned"]

    again = cache_decision.decide(dataclasses.replace(cache, state=step.state), unsigned, RULES)
    assert again.events == ()


def test_what_was_refused_a_signature_is_not_taken_for_the_build_of_a_lost_status() -> None:
    """It would be Ready with the next step."""
    unsigned = seen(stored=stored(), signs=True, unsigned=True)
    build = cache_state.Build(spec="", failures=1, failed=cache_of().spec_hash, retry=NOW)
    failed = cache_of(cache_state.State(phase=Phase.FAILED, build=build))

    assert verbs(cache_decision.decide(failed, unsigned, RULES)) == [Verb.START]
    # Of a store that is older than its key.
    assert cache_decision.decide(cache_of(), unsigned, RULES).state.phase is Phase.READY


@pytest.mark.parametrize(
    ("spec", "annotation", "recorded", "expected"),
    [
        ({}, "", {}, []),
        ({"keepWarm": True}, "", {}, [Verb.ADJUST]),
        ({"keepWarm": True}, "", {"keep_warm": True}, []),
        ({}, "", {"keep_warm": True}, [Verb.ADJUST]),
        (
            {"keepWarm": True, "nodeSelector": {"pool": "gpu"}},
            "",
            {"keep_warm": True, "node_selector": {"pool": "cpu"}},
            [Verb.ADJUST],
        ),
        ({}, "before-start", {}, [Verb.ADJUST]),
        ({}, "before-start", {"local": "before-start"}, []),
        ({}, "nonsense", {}, []),
    ],
)
def test_what_nodes_keep_warm_is_written_without_a_build(
    spec: dict[str, Any], annotation: str, recorded: dict[str, Any], expected: list[Verb]
) -> None:
    annotations = {keys.LOCAL: annotation} if annotation else {}
    cache = cache_of(ready(), spec=spec, metadata={"annotations": annotations})

    step = decide(cache, seen(stored=stored(**recorded)))

    assert (verbs(step), step.state.phase) == (expected, Phase.READY)


def test_nothing_is_adjusted_of_a_cache_that_goes() -> None:
    spec, deleted = {"keepWarm": True}, {"deletionTimestamp": "2026-07-01T11:59:00Z"}
    cache = cache_of(ready(), spec=spec, metadata=deleted)

    assert Verb.ADJUST not in verbs(decide(cache, seen(stored=stored())))


def test_an_automatic_cache_warms_no_node() -> None:
    """Its author is an agent, which speaks for the pods of its own node."""
    meta = {"labels": {keys.AUTO_CREATED: "true"}, "annotations": {keys.LOCAL: "before-start"}}

    request = cache_of(spec={"keepWarm": True}, metadata=meta).request

    assert request is None or (request.keep_warm, request.local) == (False, None)


def of_tenant(name: str, tenant: str = "team", **state: Any) -> cache_object.CacheObject:
    made = dataclasses.replace(cache_of(metadata={"name": name}), auto=True, tenant=tenant)
    return dataclasses.replace(made, state=cache_state.State(**state))


def test_an_automatic_cache_may_grow_to_what_its_namespace_has_left() -> None:
    mine = of_tenant("mine", phase=Phase.PENDING, size=1 << 30)
    known = [
        mine,
        of_tenant("ready", phase=Phase.READY, size=40 << 30),
        of_tenant("new", phase=Phase.CREATING),
        of_tenant("waits", phase=Phase.PENDING),
        of_tenant("other", "another", phase=Phase.READY, size=500 << 30),
        dataclasses.replace(of_tenant("people's", phase=Phase.READY, size=500 << 30), auto=False),
    ]

    def most(share: int) -> int:
        return retention.most_of(mine, known, retention.Rules(auto_share=share << 30))

    assert most(100) == (100 - 40 - 20) << 30
    assert most(50) == 0


@pytest.mark.parametrize("auto", [True, False])
def test_the_builder_of_an_automatic_cache_is_told_how_far_it_may_grow(auto: bool) -> None:
    growth = job_manifest.Growth(factor=2.5, most=7 << 30) if auto else None
    template = job_manifest.Template(namespace="n", image="i", store="/s", volume={"name": "s"})
    cache = cache_of()
    assert cache.request is not None
    made = job_manifest.manifest(cache, cache.request, (AMD,), template=template, growth=growth)
    arguments = made["spec"]["template"]["spec"]["containers"][0]["args"]

    assert [each for each in arguments if "capacity" in each] == [
        "--capacity-gib=20",
        *(["--capacity-factor=2.5", f"--capacity-most={7 << 30}"] if auto else []),
    ]


@pytest.mark.parametrize("may", [True, False])
@pytest.mark.parametrize("auto", [True, False])
def test_an_automatic_cache_has_native_layers_only_where_the_cluster_says_so(
    auto: bool, may: bool
) -> None:
    template = job_manifest.Template(
        namespace="n", image="i", store="/s", volume={"name": "s"}, auto_native=may
    )
    cache = cache_of()
    assert cache.request is not None
    request = dataclasses.replace(cache.request, auto=auto)
    made = job_manifest.manifest(cache, request, (AMD,), template=template)
    arguments = made["spec"]["template"]["spec"]["containers"][0]["args"]

    assert ("--no-native-layers" in arguments) == (auto and not may)


def test_an_automatic_cache_that_has_grown_is_not_built_again() -> None:
    """After a status that was lost."""
    cache = cache_of()
    assert cache.request is not None
    auto = dataclasses.replace(cache, request=dataclasses.replace(cache.request, auto=True))
    held = stored(id=auto.cache_id, capacity=90 << 30)

    assert decide(auto, seen(stored=held)).state.phase is Phase.READY
    assert decide(cache, seen(stored=stored(capacity=90 << 30))).state.phase is Phase.UPDATING
