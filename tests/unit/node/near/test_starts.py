"""When copying may begin, and what pods say of their layers."""

import datetime
import math

import pytest

from agent.matching import annotations, decisions
from agent.model import caches, pods, times
from agent.node.near import pauses, starts
from agent.node.pods import prepare, served_pods

LAYER, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
POD = pods.Pod(namespace="default", name="pod", uid="1")


def served(*images: tuple[caches.LocalMode | None, str]) -> served_pods.Served:
    """A pod whose images have one layer each."""
    decision = decisions.Decision(
        pod=POD,
        request=annotations.Request(),
        outcome=decisions.Outcome.HIT,
        summary="",
        images=tuple(
            decisions.ImageDecision(
                image=layer,
                reference=None,
                outcome=decisions.Outcome.HIT,
                reason="",
                layers=(layer,),
                local=mode,
            )
            for mode, layer in images
        ),
    )
    result = prepare.Result(decision=decision, sentence="")
    return served_pods.Served(POD, result=result)


@pytest.fixture
def known() -> served_pods.ServedPods:
    return served_pods.ServedPods()


def test_the_pod_that_wants_a_layer_soonest_decides(known) -> None:
    known.add("a", served(("off", LAYER), ("off", OTHER)))
    known.add("b", served(("before-start", LAYER)))

    wishes = starts.PodWishes(known, "after-start").layers()
    assert wishes == {LAYER: "before-start", OTHER: "off"}


def test_a_pod_that_does_not_say_is_as_the_node(known) -> None:
    known.add("a", served(("off", LAYER)))
    known.add("b", served((None, LAYER)))

    assert starts.PodWishes(known, "after-start").layers() == {LAYER: "after-start"}


def test_a_pod_that_has_ended_wants_nothing(known) -> None:
    pod = served(("before-start", LAYER))
    pod.ended = times.now()
    known.add("a", pod)

    assert starts.PodWishes(known, "after-start").layers() == {}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("agent.node.near.starts.time.monotonic", clock.monotonic)
    return clock


def test_a_node_is_calm_some_seconds_after_the_last_change(known, clock) -> None:
    looked = starts.Starts(known)
    assert looked.look()
    assert not looked.are_calm
    clock.now += 16
    assert not looked.look()
    assert looked.are_calm

    known.add("a", served())
    assert looked.look()
    assert not looked.are_calm


def test_a_node_where_pods_start_all_the_time_copies_all_the_same(known, clock) -> None:
    looked = starts.Starts(known)
    calm = []
    for number in range(40):
        known.add(str(number), served())
        looked.look()
        calm.append(looked.are_calm)
        clock.now += 10

    assert calm == [False] * 30 + [True] * 10


def test_a_pod_that_waits_for_its_images_is_noticed_for_a_while(known) -> None:
    looked = starts.Starts(known)
    pod = served_pods.Served(POD)
    known.add("a", pod)
    assert looked.is_preparing

    pod.since -= datetime.timedelta(minutes=1)
    assert not looked.is_preparing


def test_pauses_grow_with_each_failure(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr("agent.node.near.pauses.time.monotonic", clock.monotonic)
    held = pauses.Pauses((10.0, 100.0))
    held.hold("disk")
    assert held.holds("disk")
    clock.now += 13
    assert not held.holds("disk")

    assert held.next_end == math.inf

    held.hold("disk")
    clock.now += 70
    assert held.holds("disk")
    assert clock.now < held.next_end <= clock.now + 55
    held.end("disk")
    assert not held.holds("disk")
