"""Events of pods and of the node, as users of their clouds and `kubectl describe` look for them."""

import datetime

import pytest

from agent.clients.kube import event_writer
from agent.matching import decisions
from agent.model import pods
from agent.node.report import kube_events

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
HIT = decisions.Event(reason="SuccessfulHitImageCache", message="Successfully hit image cache imc.")


def pod_of(annotation: str) -> pods.Pod:
    return pods.Pod(namespace="team", name="pod", uid="u-1", annotations={annotation: "true"})


@pytest.mark.parametrize(
    ("annotation", "component", "message"),
    [
        ("uimgacc.io/image-cache", "uimgacc", "Successfully hit image cache imc."),
        (
            "k8s.aliyun.com/eci-image-cache",
            "EciService",
            "[eci.imagecache]Successfully hit image cache imc.",
        ),
        (
            "eks.tke.cloud.tencent.com/use-image-cache",
            "eklet",
            "Successfully hit image cache imc.",
        ),
    ],
)
def test_the_source_is_the_one_that_users_of_the_cloud_know(annotation, component, message) -> None:
    record = kube_events.pod_event(pod_of(annotation), HIT, "node-1")
    event = event_writer.manifest(record, NOW)

    assert event["source"] == {"component": component, "host": "node-1"}
    assert event["reportingComponent"] == "uimgacc"
    assert event["message"] == message


def test_an_event_of_the_node_is_where_kubectl_describe_looks() -> None:
    lost = decisions.Event(reason="ImageAccelerationLost", message="m", warning=True)
    event = event_writer.manifest(kube_events.node_event("node-1", "u-9", lost), NOW)

    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-1",
        "uid": "u-9",
    }
    assert (event["type"], event["firstTimestamp"]) == ("Warning", "2026-01-02T03:04:05Z")
