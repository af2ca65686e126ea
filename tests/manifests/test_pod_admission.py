"""What sends pods to our snapshotter, the policy or the webhook: who is moved, none is stopped."""

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from agent.control.admission import webhook_server
from agent.matching import annotations, pod_moves, runtimes
from agent.model import keys, pods
from tests.manifests import admission, calling, cases, rendering

HANDLER = "io.containerd.cri.runtime-handler"
LABELS = (keys.CAPABLE, keys.CAPABLE_UCLOUD)


Admission = admission.Mutator | calling.WebhookCaller


@pytest.fixture(scope="module", params=["policy", "webhook"])
def policy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Admission]:
    """The policy by CEL, and the webhook's own HTTPS server: the same cases for both."""
    if request.param == "policy":
        yield admission.Mutator(rendering.together("runtimeclass", "nvidia"))
        return
    documents = rendering.together("runtimeclass", "nvidia", "controller", "webhook")
    with calling.running(documents) as caller:
        yield caller


@pytest.mark.parametrize("asking", cases.ASKING.values(), ids=cases.ASKING)
def test_a_pod_that_asks_is_sent_to_the_twin(policy: Admission, asking: dict[str, Any]) -> None:
    found = policy.admitted(asking)

    wanted = copy.deepcopy(asking)
    wanted["metadata"].setdefault("annotations", {})[HANDLER] = "uimgacc"
    wanted["spec"]["runtimeClassName"] = "uimgacc"
    assert found == wanted


@pytest.mark.parametrize("asking", cases.ASKING.values(), ids=cases.ASKING)
def test_a_pod_of_another_class_is_sent_to_the_twin_of_that(
    policy: Admission, asking: dict[str, Any]
) -> None:
    asking = copy.deepcopy(asking)
    asking["spec"]["runtimeClassName"] = "nvidia"

    found = policy.admitted(asking)

    assert found["spec"]["runtimeClassName"] == "uimgacc-nvidia"
    assert found["metadata"]["annotations"][HANDLER] == "uimgacc-nvidia"


@pytest.mark.parametrize("name", ["uimgacc", "uimgacc-nvidia"])
def test_a_pod_that_names_our_class_itself_gets_the_annotation(
    policy: Admission, name: str
) -> None:
    found = policy.admitted(cases.pod(runtimeClassName=name))

    assert found == cases.pod({HANDLER: name}, runtimeClassName=name)
    assert policy.admitted(found) == found


@pytest.mark.parametrize("other", cases.LEFT_ALONE.values(), ids=cases.LEFT_ALONE)
def test_any_other_pod_stays_as_it_is(policy: Admission, other: dict[str, Any]) -> None:
    assert policy.admitted(other) == other


ABLE = cases.NEEDS["both"][1]


@functools.cache
def labelled(*components: str) -> Sequence[rendering.Document]:
    """Documents whose classes have nodes that can show layers to user namespaces, and mount images.

    Not to be changed: all tests share them.
    """
    documents: list[Any] = copy.deepcopy(
        list(rendering.together("runtimeclass", "nvidia", *components))
    )
    for document in rendering.of_kind(documents, "RuntimeClass"):
        document["metadata"]["labels"] |= ABLE
    return tuple(documents)


@pytest.fixture(scope="module", params=["policy", "webhook"])
def mapping(request: pytest.FixtureRequest) -> Iterator[Admission]:
    if request.param == "policy":
        yield admission.Mutator(labelled())
        return
    with calling.running(labelled("controller", "webhook")) as caller:
        yield caller


@pytest.mark.parametrize(("had", "needed"), cases.NEEDS.values(), ids=cases.NEEDS)
@pytest.mark.parametrize("twin", ["uimgacc", "uimgacc-nvidia"])
@pytest.mark.parametrize("selected", [{}, {"zone": "a"}], ids=["any zone", "a zone"])
def test_a_pod_goes_to_the_nodes_that_can_serve_what_it_has(
    mapping: Admission,
    had: dict[str, Any],
    needed: dict[str, str],
    twin: str,
    selected: dict[str, str],
) -> None:
    of_class = {"runtimeClassName": "nvidia"} if twin == "uimgacc-nvidia" else {}
    of_zone = {"nodeSelector": selected} if selected else {}
    asking = cases.pod(cases.AUTO, **had, **of_zone, **of_class)

    found = mapping.admitted(asking)

    assert found["spec"]["runtimeClassName"] == twin
    assert found["metadata"]["annotations"][HANDLER] == twin
    assert found["spec"]["nodeSelector"] == {**selected, **needed}
    assert mapping.admitted(found) == found


@pytest.mark.parametrize(("had", "needed"), cases.NEEDS.values(), ids=cases.NEEDS)
def test_a_pod_may_select_such_nodes_itself(
    policy: Admission, had: dict[str, Any], needed: dict[str, str]
) -> None:
    found = policy.admitted(cases.pod(cases.AUTO, **had, nodeSelector=needed))

    assert found["spec"]["runtimeClassName"] == "uimgacc"
    assert found["spec"]["nodeSelector"] == needed


@pytest.mark.parametrize(("had", "needed"), cases.NEEDS.values(), ids=cases.NEEDS)
def test_a_pod_that_wants_none_of_these_nodes_stays_as_it_is(
    mapping: Admission, had: dict[str, Any], needed: dict[str, str]
) -> None:
    for key in needed:
        for spec in ({"nodeSelector": {key: "false"}}, cases.affine(key, "DoesNotExist")):
            other = cases.pod(cases.AUTO, **had, **spec)
            assert mapping.admitted(other) == other


@pytest.mark.parametrize("missing", ABLE)
def test_a_pod_that_has_both_needs_both(missing: str) -> None:
    documents: list[Any] = copy.deepcopy(list(labelled("controller", "webhook")))
    policies: list[Any] = copy.deepcopy(list(labelled()))
    for document in rendering.of_kind((*documents, *policies), "RuntimeClass"):
        del document["metadata"]["labels"][missing]
    both = cases.pod(cases.AUTO, **cases.NEEDS["both"][0])

    assert admission.Mutator(policies).admitted(both) == both
    assert calling.decided(documents, both) == both


def test_a_pod_with_an_image_volume_that_names_the_class_goes_to_the_nodes_that_mount_it(
    mapping: Admission,
) -> None:
    found = mapping.admitted(cases.pod(runtimeClassName="uimgacc", volumes=cases.IMAGE_VOLUME))

    assert found["metadata"]["annotations"] == {HANDLER: "uimgacc"}
    assert found["spec"]["nodeSelector"] == cases.NEEDS["an image volume"][1]


def test_other_pods_go_to_all_nodes_as_before(mapping: Admission) -> None:
    other = [{"name": "scratch", "emptyDir": {}}]
    found = mapping.admitted(cases.pod(cases.AUTO, hostUsers=True, volumes=other))

    assert found["spec"]["runtimeClassName"] == "uimgacc"
    assert "nodeSelector" not in found["spec"]


@pytest.mark.parametrize("namespace", ["kube-system", "uimgacc-system"])
def test_pods_that_must_start_without_us_stay_as_they_are(
    policy: Admission, namespace: str
) -> None:
    asking = cases.pod({keys.CACHE: "auto"})

    assert policy.admitted(asking, namespace=namespace) == asking


def test_an_overhead_that_the_twin_has_as_well_is_no_obstacle(
    policy: Admission,
) -> None:
    asking = cases.pod(cases.AUTO, overhead={"memory": "64Mi"})
    twin = {**policy.params[0], "overhead": {"podFixed": {"memory": "64Mi"}}}

    assert policy.matches(asking, twin, "same-overhead")


KEYS = (*annotations.WORDS, "unrelated.example.com/key")
VALUES = ("true", "false", "auto", "imc-1", "", " ", " True ", "FALSE", "0", "3", "0007", "12345")


# Made once: hypothesis examines each strategy that is new, which takes longer than the tests.
REQUIREMENT = strategies.builds(
    lambda key, rest: {"key": key, **rest},
    strategies.sampled_from((*LABELS, "uimgacc.io/handler", *ABLE, "zone")),
    strategies.one_of(
        strategies.fixed_dictionaries(
            {
                "operator": strategies.sampled_from(("In", "NotIn", "Gt")),
                "values": strategies.lists(
                    strategies.sampled_from(("true", "false", "1")), min_size=1, max_size=2
                ),
            }
        ),
        strategies.fixed_dictionaries(
            {"operator": strategies.sampled_from(("Exists", "DoesNotExist"))}
        ),
    ),
)
TERM = strategies.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": strategies.lists(REQUIREMENT, max_size=2),
        "matchFields": strategies.just(
            [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]
        ),
    },
)
PREFERENCE = strategies.fixed_dictionaries({"weight": strategies.just(1), "preference": TERM})
RULES = strategies.fixed_dictionaries(
    {},
    optional={
        cases.REQUIRED: strategies.fixed_dictionaries(
            {"nodeSelectorTerms": strategies.lists(TERM, min_size=1, max_size=2)}
        ),
        cases.PREFERRED: strategies.lists(PREFERENCE, max_size=2),
    },
)
SPEC = strategies.fixed_dictionaries(
    {},
    optional={
        "runtimeClassName": strategies.sampled_from(
            ("nvidia", "kata", "uimgacc", "uimgacc-nvidia")
        ),
        "nodeSelector": strategies.dictionaries(
            strategies.sampled_from((*LABELS, "uimgacc.io/handler", *ABLE)),
            strategies.sampled_from(("true", "false")),
            max_size=2,
        ),
        "affinity": strategies.one_of(
            strategies.just({}),
            strategies.fixed_dictionaries({"nodeAffinity": RULES}),
            strategies.just({"podAffinity": {}}),
        ),
        "overhead": strategies.just({"memory": "64Mi"}),
        "hostUsers": strategies.booleans(),
        "volumes": strategies.sampled_from(([], cases.IMAGE_VOLUME[:1], cases.IMAGE_VOLUME)),
        "nodeName": strategies.sampled_from(("", "node-1")),
    },
)
ANNOTATIONS = strategies.none() | strategies.dictionaries(
    strategies.sampled_from((*KEYS, HANDLER)), strategies.sampled_from(VALUES), max_size=4
)
ANY_POD = strategies.builds(lambda annotated, spec: cases.pod(annotated, **spec), ANNOTATIONS, SPEC)
"""Pods that ask in several words at once, or in none, and select nodes in every way."""


def test_who_asks_in_every_combination_of_words(policy: Admission) -> None:
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
@hypothesis.given(ANY_POD)
def test_who_asks_is_what_matching_says(policy: Admission, any_pod: dict[str, Any]) -> None:
    """Two statements of the same rules: one in CEL for the API server, one for the agent."""
    read = pods.parse_pod(any_pod)
    asks = annotations.request_of(read).asks
    hypothesis.target(float(asks))
    (twin,) = [each for each in policy.params if each["handler"] == runtimes.DEFAULT_TWIN]
    if read.runtime_class in ("uimgacc", "uimgacc-nvidia"):
        return

    assert policy.matches(any_pod, twin, "asks") == asks


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(ANY_POD)
def test_each_condition_holds_in_both_implementations_or_in_none(any_pod: dict[str, Any]) -> None:
    by_cel = admission.Mutator(rendering.together("runtimeclass", "nvidia"))
    overhead = {"podFixed": {"memory": "64Mi"}}
    first = by_cel.params[0]
    labels = {**first["metadata"]["labels"], keys.NO_NODE: "true"}
    without_node = {**first, "metadata": {**first["metadata"], "labels": labels}}
    others = (*admission.Mutator(labelled()).params, without_node)
    for twin in (*by_cel.params, {**first, "overhead": overhead}, *others):
        read = pod_moves.read_twin(twin)
        for name in pod_moves.CONDITIONS:
            by_python = pod_moves.holds(name, any_pod, read)

            assert by_cel.matches(any_pod, twin, name) == by_python, (name, twin)


def test_the_policy_has_these_conditions_and_no_others() -> None:
    documents = rendering.together("runtimeclass", "nvidia")
    policy = rendering.only(documents, "MutatingAdmissionPolicy", "uimgacc")

    assert [each["name"] for each in policy["spec"]["matchConditions"]] == list(
        pod_moves.CONDITIONS
    )


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(ANY_POD, strategies.sampled_from(("", "auto", "false", "true")))
def test_policy_and_webhook_make_the_same_of_any_pod(any_pod: dict[str, Any], label: str) -> None:
    policy = admission.Mutator(rendering.together("runtimeclass", "nvidia"))
    documents = rendering.together("runtimeclass", "nvidia", "controller", "webhook")

    by_policy = policy.admitted(copy.deepcopy(any_pod), label=label)
    by_webhook = calling.decided(documents, copy.deepcopy(any_pod), label=label)

    for each in (by_policy, by_webhook):
        # A patch makes the map, a merge need not.
        each["metadata"].setdefault("annotations", {})
    assert by_policy == by_webhook


def test_pods_of_a_namespace_with_the_label_ask(policy: Admission) -> None:
    found = policy.admitted(cases.pod(), label="auto")

    annotations_ = {keys.CACHE: "auto", HANDLER: "uimgacc"}
    assert found == cases.pod(annotations_, runtimeClassName="uimgacc")


@pytest.mark.parametrize("key", annotations.WORDS)
def test_a_pod_that_says_something_itself_is_not_spoken_for(policy: Admission, key: str) -> None:
    own = cases.pod({key: "false"})

    assert policy.admitted(own, label="auto") == policy.admitted(own)


@pytest.mark.parametrize("label", ["", "false", "Auto", "true"])
def test_another_value_of_the_label_means_nothing(policy: Admission, label: str) -> None:
    assert policy.admitted(cases.pod(), label=label) == cases.pod()


@pytest.mark.parametrize("namespace", sorted(pod_moves.LEFT_OUT))
def test_the_label_on_a_namespace_of_the_cluster_means_nothing(
    policy: Admission, namespace: str
) -> None:
    assert policy.admitted(cases.pod(), namespace=namespace, label="auto") == cases.pod()


def test_a_pod_that_cannot_go_is_annotated_only(policy: Admission) -> None:
    found = policy.admitted(cases.pod(nodeName="node-1"), label="auto")

    assert found == cases.pod(cases.AUTO, nodeName="node-1")


def test_no_pod_is_moved_to_a_class_that_no_node_can_run() -> None:
    documents = copy.deepcopy(
        list(rendering.together("runtimeclass", "nvidia", "controller", "webhook"))
    )
    policies = copy.deepcopy(list(rendering.together("runtimeclass", "nvidia")))
    for document in (*documents, *policies):
        if document["kind"] == "RuntimeClass" and document["metadata"]["name"] == "uimgacc":
            document["metadata"]["labels"][keys.NO_NODE] = "true"
    gpu = cases.pod(cases.AUTO, runtimeClassName="nvidia")

    for admitted in (
        admission.Mutator(policies).admitted,
        lambda pod: calling.decided(documents, pod),
    ):
        assert admitted(cases.pod(cases.AUTO)) == cases.pod(cases.AUTO)
        # It waits for a node in any case, and is to be pulled for the right handler then.
        named = cases.pod(runtimeClassName="uimgacc")
        assert admitted(named) == cases.pod({HANDLER: "uimgacc"}, runtimeClassName="uimgacc")
        assert admitted(gpu)["spec"]["runtimeClassName"] == "uimgacc-nvidia"


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(ANY_POD)
def test_a_pod_is_moved_only_where_it_asks_and_can_go(
    policy: Admission, any_pod: dict[str, Any]
) -> None:
    found = policy.admitted(copy.deepcopy(any_pod))

    if found == any_pod:
        return
    read = pods.parse_pod(any_pod)
    # What is to run on our snapshotter must be pulled into it, even where no cache is wanted.
    assert annotations.request_of(read).asks or runtimes.is_twin(read.runtime_class)
    name = found["spec"]["runtimeClassName"]
    assert name == runtimes.twin_of(read.runtime_class)
    # Nothing but the two fields is changed, and nodes are selected that can serve what it has.
    stripped = copy.deepcopy(found)
    expected = copy.deepcopy(any_pod)
    further = pod_moves.move_of(any_pod, calling.twins_of(policy.documents)).node_selector
    for each in (stripped, expected):
        each["spec"]["nodeSelector"] = {**each["spec"].get("nodeSelector", {}), **further}
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

    for policy in rendering.of_kind(documents, "MutatingAdmissionPolicy"):
        assert policy["spec"]["failurePolicy"] == "Ignore"
    binding = rendering.only(documents, "MutatingAdmissionPolicyBinding", "uimgacc-pods")
    assert binding["spec"]["paramRef"]["parameterNotFoundAction"] == "Allow"


def test_the_webhook_cannot_stop_a_pod_and_is_called_for_few() -> None:
    documents = rendering.together("runtimeclass", "controller", "webhook")

    configuration = rendering.only(documents, "MutatingWebhookConfiguration", "uimgacc-pods")
    service = rendering.only(documents, "Service", keys.WEBHOOK)
    paths = []
    for webhook in configuration["webhooks"]:
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["timeoutSeconds"] == 2
        assert webhook["sideEffects"] == "None"
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        to = webhook["clientConfig"]["service"]
        assert (to["name"], to["namespace"]) == (service["metadata"]["name"], "uimgacc-system")
        paths.append(to["path"])
    assert paths == [webhook_server.PODS, webhook_server.LABELLED_PODS]
    assert not rendering.of_kind(documents, "MutatingAdmissionPolicy")


def test_policy_and_webhook_leave_out_the_same_namespaces() -> None:
    selectors = [
        policy["spec"]["matchConstraints"]["namespaceSelector"]
        for policy in rendering.of_kind(
            rendering.together("runtimeclass"), "MutatingAdmissionPolicy"
        )
    ]
    documents = rendering.together("runtimeclass", "controller", "webhook")
    (configuration,) = rendering.of_kind(documents, "MutatingWebhookConfiguration")
    selectors += [webhook["namespaceSelector"] for webhook in configuration["webhooks"]]

    for selector in selectors:
        (names,) = [each for each in selector["matchExpressions"] if each["operator"] == "NotIn"]
        assert names["key"] == "kubernetes.io/metadata.name"
        assert set(names["values"]) == pod_moves.LEFT_OUT


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(ANY_POD)
def test_the_webhook_is_called_for_every_pod_that_it_would_change(any_pod: dict[str, Any]) -> None:
    documents = rendering.together("runtimeclass", "nvidia", "controller", "webhook")
    twins = calling.twins_of(documents)
    for label in ("", "auto"):
        move = pod_moves.move_of(any_pod, twins, namespace_label=label)
        called = list(calling.called(documents, any_pod, "default", label))

        changes = move.runtime_class or any(
            any_pod["metadata"].get("annotations", {}).get(key) != value
            for key, value in move.annotations.items()
        )
        assert called or not changes
