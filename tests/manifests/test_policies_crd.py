"""The kind of policies: what the schema takes and refuses, and that the product agrees."""

import pytest
import yaml

from agent.control.policies import policy_object
from tests.manifests import crds, rendering

EXAMPLE = rendering.MANIFESTS / "examples/cache-policy.yaml"


def test_the_example_is_taken_whole() -> None:
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"]["uid"] = "u"
    found = policy_object.parse(body)

    assert (crds.unknown(body), crds.faults(body), found.problem) == ([], [], "")
    assert found.spec is not None
    assert found.spec.selector == "example.com/image-caches=yes"


@pytest.mark.parametrize(
    "spec",
    crds.POLICY_SPECS,
    ids=str,
)
def test_what_both_take(spec: crds.Object) -> None:
    body = crds.policy(**spec)

    assert crds.faults(body) == []
    assert crds.unknown(body) == []
    assert policy_object.parse(body).problem == ""


@pytest.mark.parametrize(
    ("spec", "field"),
    crds.POLICY_BOUNDS,
    ids=str,
)
def test_what_the_schema_refuses(spec: crds.Object, field: str) -> None:
    found = crds.faults(crds.policy(**spec))

    assert [each.partition(":")[0] for each in found] == [field]


def test_a_name_fits_into_a_label() -> None:
    assert crds.faults(crds.policy("a" * 63)) == []
    assert crds.faults(crds.policy("a" * 64))[0].endswith("at most 63 characters")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"refresh": {"schedule": "61 * * * *"}}, "spec.refresh.schedule"),
        ({"refresh": {"schedule": "0 3 * * *", "timeZone": "Mars/Sea"}}, "spec.refresh.schedule"),
        ({"budget": "1.5.5Gi"}, "spec.budget"),
        ({"template": {"annotations": {"a": 1}}}, "spec.template.annotations.a"),
    ],
    ids=str,
)
def test_what_only_the_product_finds_is_said(spec: crds.Object, field: str) -> None:
    found = policy_object.parse(crds.policy(**spec))

    assert found.spec is None
    assert found.problem.startswith(field)
