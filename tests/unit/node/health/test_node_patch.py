import copy
import dataclasses
import datetime

import hypothesis
import pytest
from hypothesis import strategies

from agent.model import keys
from agent.node.health import capability, node_patch

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
Check = capability.Check
TAINT = node_patch.Taint("uimgacc.io/starting", "", "NoSchedule")
WELL = capability.Verdict(capable=True)
ILL = capability.Verdict(problems={capability.Check.STORE: "the store does not answer"})
LOCAL = dataclasses.replace(ILL, local=3)


def merged(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def applied(node, wanted, taint=None, now=NOW):
    """The node after all patches, conditions merged by type as the API server does."""
    node = copy.deepcopy(node)
    for patch in (
        node_patch.metadata_patch(node, wanted),
        node_patch.taint_patch(node, wanted, taint),
    ):
        node = merged(node, patch or {})
    if patch := node_patch.status_patch(node, wanted, now):
        (new,) = patch["status"]["conditions"]
        status = node.setdefault("status", {})
        others = [c for c in status.get("conditions") or [] if c["type"] != new["type"]]
        status["conditions"] = [*others, new]
    return node


def patches(node, wanted, taint=None, now=NOW):
    return (
        node_patch.metadata_patch(node, wanted),
        node_patch.taint_patch(node, wanted, taint),
        node_patch.status_patch(node, wanted, now),
    )


def wanted_of(verdict, **annotations):
    return node_patch.of_verdict(node_patch.Wanted(annotations=annotations), verdict)


texts = strategies.text("ab", min_size=1, max_size=2)
labels = strategies.dictionaries(
    strategies.sampled_from([*keys.CAPABLE_LABELS, keys.HANDLER_LABEL, "zone", "uimgacc.io/x"]),
    texts,
)
taints = strategies.lists(
    strategies.fixed_dictionaries(
        {
            "key": strategies.sampled_from(["uimgacc.io/starting", "other"]),
            "effect": strategies.sampled_from(["NoSchedule", "NoExecute"]),
        },
        optional={"value": strategies.sampled_from(["", "x"])},
    ),
    max_size=4,
)
conditions = strategies.lists(
    strategies.fixed_dictionaries(
        {
            "type": strategies.sampled_from(["Ready", keys.NODE_CONDITION]),
            "status": strategies.sampled_from(["True", "False", "Unknown"]),
        },
        optional={
            "reason": texts,
            "message": texts,
            "lastHeartbeatTime": strategies.sampled_from(
                ["2026-01-02T03:00:00Z", "2020-01-01T00:00:00Z", "no time"]
            ),
            "lastTransitionTime": strategies.just("2019-01-01T00:00:00Z"),
        },
    ),
    max_size=2,
    unique_by=lambda condition: condition["type"],
)
found_nodes = strategies.builds(
    lambda labels, annotations, taints, conditions: {
        "metadata": {"resourceVersion": "7", "labels": labels, "annotations": annotations},
        "spec": {"taints": taints},
        "status": {"conditions": conditions},
    },
    labels,
    labels,
    taints,
    conditions,
)
wishes = strategies.builds(
    wanted_of,
    strategies.sampled_from([WELL, ILL, LOCAL, capability.Verdict()]),
    **{keys.GENERATION: texts, keys.HELD: strategies.none() | texts},
)


@hypothesis.given(found_nodes, wishes)
def test_any_node_is_right_after_its_patches_and_then_left_alone(node, wanted) -> None:
    after = applied(node, wanted, TAINT)

    assert patches(after, wanted, TAINT) == (None, None, None)


@hypothesis.given(found_nodes, wishes)
def test_nothing_of_others_is_touched(node, wanted) -> None:
    after = applied(node, wanted, TAINT)
    owned = {*keys.CAPABLE_LABELS, keys.HANDLER_LABEL, keys.GENERATION, keys.HELD}

    for part in ("labels", "annotations"):
        before_, after_ = node["metadata"][part], after["metadata"].get(part, {})
        assert {k: v for k, v in before_.items() if k not in owned} == {
            k: v for k, v in after_.items() if k not in owned
        }
    others = [taint for taint in node["spec"]["taints"] if not TAINT.is_that(taint)]
    left = after["spec"].get("taints", [])
    assert [taint for taint in left if not TAINT.is_that(taint)] == others
    assert [c for c in node["status"]["conditions"] if c["type"] == "Ready"] == [
        c for c in after["status"]["conditions"] if c["type"] == "Ready"
    ]


@hypothesis.given(found_nodes)
def test_before_the_first_verdict_only_annotations_are_written(node) -> None:
    wanted = node_patch.Wanted(annotations={keys.GENERATION: "0"})
    _, taint, status = patches(node, wanted, TAINT)

    assert (taint, status) == (None, None)
    assert (node_patch.metadata_patch(node, wanted) or {"metadata": {}})["metadata"].keys() <= {
        "annotations"
    }


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ([Check.STORE], "true"),
        ([Check.STORE, Check.HANDLER], None),
        ([Check.PLUGIN], None),
        ([Check.SNAPSHOTTER], None),
        # What containerd has is not known then, so the label stays as it was.
        ([Check.STORE, Check.CONTAINERD], "as it was"),
    ],
)
def test_pods_of_our_handlers_find_the_node_also_while_the_store_is_away(failing, expected) -> None:
    labels = {keys.HANDLER_LABEL: "as it was", **dict.fromkeys(keys.CAPABLE_LABELS, "true")}
    verdict = capability.Verdict(capable=False, problems=dict.fromkeys(failing, "gone"))
    after = applied({"metadata": {"labels": labels}}, wanted_of(verdict), TAINT)

    found = after["metadata"].get("labels", {})
    assert (found.get(keys.HANDLER_LABEL), found.get("uimgacc")) == (expected, None)


@pytest.mark.parametrize(
    ("handled", "expected"),
    [
        (True, {"handler.uimgacc.io/uimgacc-nvidia": "true"}),
        (False, {}),
        (None, {"handler.uimgacc.io/uimgacc-kata": "true"}),
    ],
)
def test_each_twin_of_a_handler_has_a_label_of_its_own(handled, expected) -> None:
    """A handler that is installed after the last set-up has no twin yet."""
    node = {"metadata": {"labels": {"handler.uimgacc.io/uimgacc-kata": "true"}}}
    wanted = node_patch.Wanted(handlers=handled, twins=frozenset({"uimgacc-nvidia"}))
    after = applied(node, wanted, TAINT)

    found = after["metadata"].get("labels", {})
    found.pop(keys.HANDLER_LABEL, None)
    assert found == expected


def test_the_twins_of_a_verdict_are_those_that_containerd_has() -> None:
    verdict = capability.Verdict(capable=True, twins=frozenset({"uimgacc-nvidia"}))

    assert wanted_of(verdict).twins == {"uimgacc-nvidia"}


@pytest.mark.parametrize("verdict", [WELL, ILL])
def test_the_condition_says_what_node_set_up_gave_up(verdict: capability.Verdict) -> None:
    remarked = dataclasses.replace(verdict, remark="another tool took it out")

    wanted = wanted_of(remarked)

    plain = wanted_of(verdict)
    assert wanted.message == f"{plain.message}; node set-up: another tool took it out"
    assert (wanted.capable, wanted.reason) == (plain.capable, plain.reason)


def test_a_capable_node_gets_its_labels_and_loses_the_taint() -> None:
    node = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"taints": [{"key": "uimgacc.io/starting", "effect": "NoSchedule"}]},
    }
    after = applied(node, wanted_of(WELL), TAINT)

    assert after["metadata"]["labels"] == {
        "uimgacc": "true",
        "node.uk8s.ucloud.cn/uimgacc": "true",
        "uimgacc.io/handler": "true",
    }
    assert after["spec"] == {}
    assert after["status"]["conditions"] == [
        {
            "type": "ImageAcceleration",
            "status": "True",
            "reason": "StoreServesImages",
            "message": "images are served from the store",
            "lastHeartbeatTime": "2026-01-02T03:04:05Z",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
    ]


@pytest.mark.parametrize(
    ("label", "ability"),
    [(keys.USER_NAMESPACES_LABEL, "maps_ids"), (keys.IMAGE_VOLUMES_LABEL, "mounts_volumes")],
)
@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("handled", [True, False])
def test_the_label_of_an_ability_goes_with_that_of_the_handlers(
    label: str, ability: str, able: bool, handled: bool
) -> None:
    problems = {} if handled else {capability.Check.SNAPSHOTTER: "it is gone"}
    verdict = capability.Verdict(capable=handled, problems=problems, **{ability: able})
    node = {"metadata": {"labels": {label: "true"}}}

    labels = applied(node, wanted_of(verdict))["metadata"].get("labels", {})

    assert labels.get(label) == ("true" if able and handled else None)


@pytest.mark.parametrize(
    ("heartbeat", "fresh"),
    [
        ("2026-01-01T22:00:00Z", True),
        ("2026-01-01T20:00:00Z", False),
        ("2026-01-02T03:04:30Z", True),
        ("2030-01-01T00:00:00Z", False),
    ],
)
def test_a_heartbeat_that_is_old_or_of_the_future_is_written_anew(heartbeat, fresh) -> None:
    """A clock that was years ahead for a while must not silence the condition for years."""
    wanted = wanted_of(WELL)
    patch = node_patch.status_patch({"metadata": {}}, wanted, NOW)
    assert patch is not None
    patch["status"]["conditions"][0]["lastHeartbeatTime"] = heartbeat

    assert (node_patch.status_patch(patch, wanted, NOW) is None) is fresh


def test_removing_the_taint_holds_only_for_the_version_that_was_read() -> None:
    node = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"taints": [{"key": "uimgacc.io/starting", "effect": "NoSchedule"}]},
    }
    patch = node_patch.taint_patch(node, wanted_of(WELL), TAINT)

    assert patch is not None
    assert patch["metadata"] == {"resourceVersion": "7"}


def test_the_time_of_transition_changes_only_with_the_status() -> None:
    node = applied({"metadata": {}}, wanted_of(ILL), now=NOW)
    other = capability.Verdict(problems={capability.Check.KERNEL: "the kernel lacks erofs"})
    later = NOW + datetime.timedelta(hours=1)
    still_ill = applied(node, wanted_of(other), now=later)
    well = applied(still_ill, wanted_of(WELL), now=later)

    def times(node):
        return node["status"]["conditions"][0]["lastTransitionTime"]

    assert times(still_ill) == "2026-01-02T03:04:05Z"
    assert still_ill["status"]["conditions"][0]["reason"] == "KernelNotSuitable"
    assert times(well) == "2026-01-02T04:04:05Z"


def test_a_condition_is_written_again_only_rarely() -> None:
    node = applied({"metadata": {}}, wanted_of(WELL), now=NOW)

    def due(hours):
        later = NOW + datetime.timedelta(hours=hours)
        return node_patch.status_patch(node, wanted_of(WELL), later) is not None

    assert [due(1), due(5.9), due(6.1)] == [False, False, True]


def test_problems_of_a_node_that_still_counts_as_capable_are_not_shown() -> None:
    doubted = capability.Verdict(capable=True, against=2, problems=ILL.problems)

    assert wanted_of(doubted) == wanted_of(WELL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b:NoSchedule", node_patch.Taint("a/b", "", "NoSchedule")),
        ("a=b:NoExecute", node_patch.Taint("a", "b", "NoExecute")),
        ("a=:PreferNoSchedule", node_patch.Taint("a", "", "PreferNoSchedule")),
    ],
)
def test_taints_are_read_as_kubectl_writes_them(text, expected) -> None:
    assert node_patch.parse_taint(text) == expected


@pytest.mark.parametrize("text", ["", "a", "a:Never", ":NoSchedule", "=b:NoSchedule"])
def test_what_is_no_taint_is_refused(text) -> None:
    with pytest.raises(node_patch.TaintError):
        node_patch.parse_taint(text)


def test_a_node_that_serves_what_it_has_says_so() -> None:
    node = applied({"metadata": {"labels": {}}}, wanted_of(WELL))
    node = applied(node, wanted_of(LOCAL))

    (condition,) = node["status"]["conditions"]
    assert {node["metadata"]["labels"][key] for key in keys.CAPABLE_LABELS} == {"local"}
    assert (condition["status"], condition["reason"]) == ("False", "ServedLocally")
    assert condition["message"] == (
        "the store does not answer; 3 images are served locally, from this node's own copies"
    )
    assert node_patch.was_local(node)


@pytest.mark.parametrize(
    "verdict",
    [
        ILL,
        dataclasses.replace(LOCAL, problems={**LOCAL.problems, Check.SNAPSHOTTER: "hangs"}),
        dataclasses.replace(LOCAL, problems={**LOCAL.problems, Check.SWITCH: "off"}),
    ],
)
def test_not_where_there_is_nothing_or_more_is_wrong_than_the_store(verdict) -> None:
    node = applied({"metadata": {"labels": {}}}, wanted_of(LOCAL))
    node = applied(node, wanted_of(verdict))

    assert not node["metadata"]["labels"].keys() & set(keys.CAPABLE_LABELS)
    assert not node_patch.was_local(node)


def test_the_store_s_answer_gives_the_label_back() -> None:
    node = applied({"metadata": {"labels": {}}}, wanted_of(LOCAL))
    node = applied(node, node_patch.of_verdict(wanted_of(LOCAL), WELL))

    assert node["metadata"]["labels"][keys.CAPABLE] == "true"
