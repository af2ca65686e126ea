"""What `uimgacc why` is asked about, by its name."""

import pytest

from agent.cli.pods import why_subject
from agent.model import manifests

POD, WORKLOAD = why_subject.Kind.POD, why_subject.Kind.WORKLOAD
CACHE, IMAGE = why_subject.Kind.CACHE, why_subject.Kind.IMAGE


@pytest.mark.parametrize(
    ("text", "kind", "name", "namespace"),
    [
        ("tools", POD, "tools", "here"),
        ("team/tools", POD, "tools", "team"),
        ("pod/tools", POD, "tools", "here"),
        ("deployment/web", WORKLOAD, "web", "here"),
        ("Deploy/web", WORKLOAD, "web", "here"),
        ("deployments.apps/web", WORKLOAD, "web", "here"),
        ("sts/db", WORKLOAD, "db", "here"),
        ("ds/logs", WORKLOAD, "logs", "here"),
        ("rs/web-5d", WORKLOAD, "web-5d", "here"),
        ("job/train", WORKLOAD, "train", "here"),
        ("imc/tools", CACHE, "tools", ""),
        ("imagecaches.uimgacc.io/imc-1", CACHE, "imc-1", ""),
        ("nginx:1.27", IMAGE, "nginx:1.27", ""),
        ("registry.example.com/app", IMAGE, "registry.example.com/app", ""),
        ("localhost:5000/app", IMAGE, "localhost:5000/app", ""),
        ("team/sub/app", IMAGE, "team/sub/app", ""),
        ("deployment/web:1", WORKLOAD, "web:1", "here"),
        ("deployments.example.com/web", IMAGE, "deployments.example.com/web", ""),
    ],
)
def test_a_subject_is_read_as_kubectl_names_it(
    text: str, kind: why_subject.Kind, name: str, namespace: str
) -> None:
    subject = why_subject.parse(text, "here")

    assert (subject.kind, subject.name, subject.namespace) == (kind, name, namespace)
    assert (subject.resource is not None) == (kind is WORKLOAD)


def test_a_label_selector_is_asked_as_the_api_takes_it() -> None:
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1", "2"]},
            {"key": "b", "operator": "NotIn", "values": ["3"]},
            {"key": "c", "operator": "Exists"},
            {"key": "d", "operator": "DoesNotExist"},
        ],
    }

    assert manifests.Field(selector).label_selector() == "app=web,a in (1,2),b notin (3),c,!d"
    assert manifests.Field(None).label_selector() == ""
