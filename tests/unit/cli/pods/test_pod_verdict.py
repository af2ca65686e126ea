"""What became of a pod, from what can be read of it."""

import dataclasses
import itertools

import pytest

from agent.cli.pods import pod_evidence, pod_verdict
from agent.matching import annotations, decisions, events, pod_moves
from agent.model import caches, keys, pods, times


def evidence(**more) -> pod_evidence.Evidence:
    annotated = {keys.CACHE: "auto"}
    document = {
        "metadata": {"name": "app", "namespace": "team", "annotations": annotated},
        "spec": {
            "nodeName": "n",
            "runtimeClassName": "uimgacc",
            "containers": [{"name": "c", "image": "registry.example.com/app:1"}],
        },
    }
    made = pod_evidence.Evidence(document=document, pod=pods.parse_pod(document))
    return dataclasses.replace(made, **more)


def an_event(reason: str, *, minute: int = 0, warning: bool = False) -> pod_evidence.PodEvent:
    return pod_evidence.PodEvent(
        reason=reason,
        message=f"{reason} said.",
        at=times.EPOCH.replace(minute=minute),
        warning=warning,
        by_uimgacc=True,
    )


def test_every_event_of_a_decision_has_a_meaning() -> None:
    emitted = set()
    for dialect, mode, outcome in itertools.product(
        caches.Dialect, annotations.Mode, decisions.Outcome
    ):
        for building in (False, True):
            given = events.Circumstances(
                request=annotations.Request(mode=mode, dialect=dialect, key="k"),
                outcome=outcome,
                building=building,
            )
            emitted |= {each.reason for each in events.events_of(given)}

    assert emitted - pod_verdict.EVENT_KINDS.keys() == set()


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        (["ImageCacheHit"], pod_verdict.Kind.ACCELERATED),
        (["SuccessfulHitImageCache", "ImageCachePartial"], pod_verdict.Kind.PARTLY),
        (["ImageCacheMissed", "ImageCacheAutoCreated"], pod_verdict.Kind.PULLED),
        (["ImageCacheUnavailable"], pod_verdict.Kind.PULLED),
    ],
)
def test_events_say_what_became_of_it(reasons, kind) -> None:
    seen = [an_event(reason, minute=minute) for minute, reason in enumerate(reasons)]

    assert pod_verdict.judge(evidence(events=seen)).kind is kind


def test_the_agent_knows_better_than_an_event() -> None:
    said = pod_evidence.AgentPod(
        namespace="team", name="app", served=True, sentence="As it is now.", outcome="partial"
    )
    agent = pod_evidence.AgentStatus(pods=[said])

    verdict = pod_verdict.judge(evidence(events=[an_event("ImageCacheHit")], agent=agent))

    assert (verdict.kind, verdict.because) == (pod_verdict.Kind.PARTLY, "As it is now")


def test_nothing_that_could_be_read_is_no_verdict() -> None:
    unread = {"events": "not read: 403", "caches": "not read: 403"}

    verdict = pod_verdict.judge(evidence(unread=unread))

    assert verdict.kind is pod_verdict.Kind.UNKNOWN
    assert "neither its agent nor an event says" in verdict.because
    texts = {link.name: link.text for link in verdict.links}
    assert (texts["event"], texts["cache"]) == ("not read: 403", "not read: 403")


def test_a_namespace_asks_for_its_pods() -> None:
    made = evidence(namespace_label="auto")
    document = {**made.document, "metadata": {"name": "app", "namespace": "team"}}
    plain = pods.parse_pod(document)

    verdict = pod_verdict.judge(dataclasses.replace(made, document=document, pod=plain))

    assert "by the label of namespace team" in verdict.links[0].text


def with_volume(**spec) -> pod_evidence.Evidence:
    made = evidence()
    volumes = [{"name": "model", "image": {"reference": "registry.example.com/llama:1"}}]
    spec = {**made.document["spec"], "volumes": volumes, **spec}
    document = {**made.document, "spec": spec}
    return dataclasses.replace(made, document=document, pod=pods.parse_pod(document))


@pytest.mark.parametrize("mounts", [True, False])
def test_a_pod_waits_whose_image_volume_its_node_does_not_mount(mounts: bool) -> None:
    node = pod_evidence.Node(name="n", labelled="true", handler=True, mounts_volumes=mounts)
    seen = [an_event("ImageCacheMissed", warning=True)]

    verdict = pod_verdict.judge(dataclasses.replace(with_volume(), node=node, events=seen))

    said = [link for link in verdict.links if link.name == "volume"]
    assert (verdict.kind is pod_verdict.Kind.WAITING, bool(said)) == (not mounts, not mounts)
    assert all(keys.IMAGE_VOLUMES_LABEL in link.remedy for link in said)


def test_a_pod_that_was_not_moved_for_its_image_volume_says_so() -> None:
    twin = pod_moves.Twin(name="uimgacc", of="", handler="uimgacc")
    made = dataclasses.replace(with_volume(runtimeClassName=None), twins=[twin])

    (link,) = [each for each in pod_verdict.judge(made).links if each.name == "moved"]

    assert "it has an image volume, and no node with the label" in link.text
