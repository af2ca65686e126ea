"""The policy that sends pods to our snapshotter: who is moved, and that nobody is stopped by it."""

import copy
import itertools
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from agent.matching import annotations, runtimes
from agent.model import keys, pods
from tests.manifests import admission, cases, rendering

HANDLER = "io.containerd.cri.runtime-handler"
LABELS = (keys.CAPABLE, keys.CAPABLE_UCLOUD)


@pytest.fixture(scope="module")
def policy() -> admission.Mutator:
    return admission.Mutator(rendering.together("runtimeclass", "nvidia"), "uimgacc")


@pytest.mark.parametrize("asking", cases.ASKING.values(), ids=cases.ASKING)
def test_a_pod_that_asks_is_sent_to_the_twin(
    policy: admission.Mutator, asking: dict[str, Any]
) -> None:
    found = policy.admitted(asking)

    wanted = copy.deepcopy(asking)
    wanted["metadata"].setdefault("annotations", {})[HANDLER] = "uimgacc"
    wanted["spec"]["runtimeClassName"] = "uimgacc"
    assert found == wanted


@pytest.mark.parametrize("asking", cases.ASKING.values(), ids=cases.ASKING)
def test_a_pod_of_another_class_is_sent_to_the_twin_of_that(
    policy: admission.Mutator, asking: dict[str, Any]
) -> None:
    asking = copy.deepcopy(asking)
    asking["spec"]["runtimeClassName"] = "nvidia"

    found = policy.admitted(asking)

    assert found["spec"]["runtimeClassName"] == "uimgacc-nvidia"
    assert found["metadata"]["annotations"][HANDLER] == "uimgacc-nvidia"


@pytest.mark.parametrize("name", ["uimgacc", "uimgacc-nvidia"])
def test_a_pod_that_names_our_class_itself_gets_the_annotation(
    policy: admission.Mutator, name: str
) -> None:
    found = policy.admitted(cases.pod(runtimeClassName=name))

    assert found == cases.pod({HANDLER: name}, runtimeClassName=name)
    assert policy.admitted(found) == found


@pytest.mark.parametrize("other", cases.LEFT_ALONE.values(), ids=cases.LEFT_ALONE)
def test_any_other_pod_stays_as_it_is(policy: admission.Mutator, other: dict[str, Any]) -> None:
    assert policy.admitted(other) == other


@pytest.mark.parametrize("namespace", ["kube-system", "uimgacc-system"])
def test_pods_that_must_start_without_us_stay_as_they_are(
    policy: admission.Mutator, namespace: str
) -> None:
    asking = cases.pod({keys.CACHE: "auto"})

    assert policy.admitted(asking, namespace=namespace) == asking


def test_an_overhead_that_the_twin_has_as_well_is_no_obstacle(
    policy: admission.Mutator,
) -> None:
    asking = cases.pod(cases.AUTO, overhead={"memory": "64Mi"})
    twin = {**policy.params[0], "overhead": {"podFixed": {"memory": "64Mi"}}}

    assert policy.matches(asking, twin, "same-overhead")


KEYS = (
    keys.CACHE,
    keys.ALIBABA_PIN,
    keys.ALIBABA_PIN_LEGACY,
    keys.ALIBABA_AUTO,
    keys.ALIBABA_AUTO_LEGACY,
    keys.ALIBABA_PERFECT,
    keys.ALIBABA_COUNT,
    keys.TENCENT_CACHE,
    "unrelated.example.com/key",
)
VALUES = ("true", "false", "auto", "imc-1", "", " ", " True ", "FALSE", "0", "3", "0007", "12345")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt")


@strategies.composite
def requirements(draw: strategies.DrawFn) -> dict[str, Any]:
    operator = draw(strategies.sampled_from(OPERATORS))
    key = draw(strategies.sampled_from((*LABELS, "uimgacc.io/handler", "zone")))
    found: dict[str, Any] = {"key": key, "operator": operator}
    if operator in ("In", "NotIn", "Gt"):
        values = strategies.sampled_from(("true", "false", "1"))
        found["values"] = draw(strategies.lists(values, min_size=1, max_size=2))
    return found


@strategies.composite
def any_pods(draw: strategies.DrawFn) -> dict[str, Any]:
    """Pods that ask in several words at once, or in none, and select nodes in every way."""
    term = strategies.fixed_dictionaries(
        {},
        optional={
            "matchExpressions": strategies.lists(requirements(), max_size=2),
            "matchFields": strategies.just(
                [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]
            ),
        },
    )
    preference = strategies.fixed_dictionaries({"weight": strategies.just(1), "preference": term})
    rules = strategies.fixed_dictionaries(
        {},
        optional={
            cases.REQUIRED: strategies.fixed_dictionaries(
                {"nodeSelectorTerms": strategies.lists(term, min_size=1, max_size=2)}
            ),
            cases.PREFERRED: strategies.lists(preference, max_size=2),
        },
    )
    selector = strategies.dictionaries(
        strategies.sampled_from((*LABELS, "uimgacc.io/handler")),
        strategies.sampled_from(("true", "false")),
        max_size=2,
    )
    spec = draw(
        strategies.fixed_dictionaries(
            {},
            optional={
                "runtimeClassName": strategies.sampled_from(
                    ("nvidia", "kata", "uimgacc", "uimgacc-nvidia")
                ),
                "nodeSelector": selector,
                "affinity": strategies.one_of(
                    strategies.just({}),
                    strategies.fixed_dictionaries({"nodeAffinity": rules}),
                    strategies.just({"podAffinity": {}}),
                ),
                "overhead": strategies.just({"memory": "64Mi"}),
                "hostUsers": strategies.booleans(),
                "nodeName": strategies.sampled_from(("", "node-1")),
            },
        )
    )
    annotated = strategies.dictionaries(
        strategies.sampled_from((*KEYS, HANDLER)), strategies.sampled_from(VALUES), max_size=4
    )
    return cases.pod(draw(strategies.none() | annotated), **spec)


def test_who_asks_in_every_combination_of_words(policy: admission.Mutator) -> None:
    names = (
        keys.CACHE,
        keys.ALIBABA_AUTO,
        keys.ALIBABA_AUTO_LEGACY,
        keys.ALIBABA_PERFECT,
        keys.ALIBABA_COUNT,
    )
    for values in itertools.product((None, "true", "False", "1"), repeat=len(names)):
        said = {key: value for key, value in zip(names, values, strict=True) if value is not None}
        for spec in ({}, {"nodeSelector": {keys.CAPABLE: "true"}}):
            wanted = annotations.request_of(pods.parse_pod(cases.pod(said, **spec))).asks

            assert policy.matches(cases.pod(said, **spec), policy.params[0], "asks") == wanted, said


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(any_pods())
def test_who_asks_is_what_matching_says(policy: admission.Mutator, any_pod: dict[str, Any]) -> None:
    """Two statements of the same rules: one in CEL for the API server, one for the agent."""
    read = pods.parse_pod(any_pod)
    asks = annotations.request_of(read).asks
    hypothesis.target(float(asks))
    (twin,) = [each for each in policy.params if each["handler"] == runtimes.DEFAULT_TWIN]
    if read.runtime_class in ("uimgacc", "uimgacc-nvidia"):
        return

    assert policy.matches(any_pod, twin, "asks") == asks


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(any_pods())
def test_a_pod_is_moved_only_where_it_asks_and_can_go(
    policy: admission.Mutator, any_pod: dict[str, Any]
) -> None:
    found = policy.admitted(copy.deepcopy(any_pod))

    if found == any_pod:
        return
    read = pods.parse_pod(any_pod)
    # What is to run on our snapshotter must be pulled into it, even where no cache is wanted.
    assert annotations.request_of(read).asks or runtimes.is_twin(read.runtime_class)
    name = found["spec"]["runtimeClassName"]
    assert name == runtimes.twin_of(read.runtime_class)
    # Nothing but the two fields is changed.
    stripped = copy.deepcopy(found)
    expected = copy.deepcopy(any_pod)
    for each in (stripped, expected):
        each["spec"].pop("runtimeClassName", None)
        each["metadata"].setdefault("annotations", {}).pop(HANDLER, None)
    assert stripped == expected
    # What the API server's RuntimeClass admission and the scheduler would refuse.
    (twin,) = [each for each in policy.params if each["metadata"]["name"] == name]
    for key, value in twin["scheduling"]["nodeSelector"].items():
        assert any_pod["spec"].get("nodeSelector", {}).get(key, value) == value
    assert "overhead" not in any_pod["spec"]
    assert not any_pod["spec"].get("nodeName")
    assert not any("matchFields" in term for term in admission.terms(any_pod))
    # And it is settled: a second look changes nothing.
    assert policy.admitted(found) == found


def test_the_policy_cannot_stop_a_pod() -> None:
    documents = rendering.together("runtimeclass", "nvidia")

    policy = rendering.only(documents, "MutatingAdmissionPolicy", "uimgacc")
    assert policy["spec"]["failurePolicy"] == "Ignore"
    binding = rendering.only(documents, "MutatingAdmissionPolicyBinding", "uimgacc-pods")
    assert binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Allow"
