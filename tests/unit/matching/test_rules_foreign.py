"""The decision for a pod whose runtime does not use the store."""

import pytest

from agent.matching import annotations, decisions, rules
from tests.unit.matching import making

ASKED = {
    "native": {"uimgacc.io/image-cache": "auto"},
    "a pin": {"uimgacc.io/image-cache": "imc-a12"},
    "alibaba": {"k8s.aliyun.com/eci-image-cache": "true"},
    "alibaba's pin": {"k8s.aliyun.com/eci-imc-id": "imc-a12"},
    "tencent": {"eks.tke.cloud.tencent.com/use-image-cache": "auto"},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_a_pod_of_another_runtime_gets_one_warning_with_the_remedy(asked) -> None:
    pod = making.pod("nginx", "redis", annotated=asked, runtime_class="nvidia")
    decision = rules.decide_foreign(pod, annotations.request_of(pod), handler="nvidia")

    (event,) = decision.events
    assert (event.type, event.reason) == ("Warning", "ImageCacheMissed")
    assert "runtime (nvidia) does not use uimgacc" in event.message
    assert "runtimeClassName that does, such as uimgacc-nvidia," in event.message
    # Alibaba's text comes first, to the letter.
    assert event.message.startswith("Missed image cache. ") is ("aliyun" in str(asked))
    assert (decision.outcome, decision.reported) == (decisions.Outcome.MISS, "")
    assert {image.outcome for image in decision.images} == {decisions.Outcome.MISS}
    assert decision.auto_create is None


def test_the_default_runtime_has_no_name() -> None:
    pod = making.pod("nginx", annotated=ASKED["native"], runtime_class="")
    decision = rules.decide_foreign(pod, annotations.request_of(pod), handler="")

    assert "runtime (the default one) does not use uimgacc" in decision.summary
    assert "such as uimgacc," in decision.summary


@pytest.mark.parametrize("mounts", [True, False])
def test_a_pod_with_an_image_volume_is_advised_to_select_nodes_that_mount_it(mounts: bool) -> None:
    pod = making.pod("nginx", annotated=ASKED["native"], volume="llama:1")
    request = annotations.request_of(pod)
    decision = rules.decide_foreign(pod, request, handler="", mounts_volumes=mounts)

    assert 'the node selector uimgacc.io/image-volumes: "true"' in decision.events[0].message
    assert ("on this node it would not start" in decision.events[0].message) is not mounts


def test_a_pod_that_asks_for_nothing_gets_no_event() -> None:
    pod = making.pod("nginx", annotated={}, runtime_class="")
    decision = rules.decide_foreign(pod, annotations.request_of(pod), handler="")

    assert (decision.outcome, decision.events) == (decisions.Outcome.NOT_ASKED, ())
