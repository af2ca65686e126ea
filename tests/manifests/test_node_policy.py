"""The policies that hold an agent to its own node, our keys and automatic caches."""

import copy
from typing import Any

import pytest

from agent.model import keys
from agent.model.starts import profile_codec
from tests.manifests import admission, cases, rendering

AGENT = "system:serviceaccount:uimgacc-system:uimgacc-node"
BOUND = "authentication.kubernetes.io/node-name"
STARTUP = {"key": "uimgacc.io/starting", "effect": "NoSchedule"}
OTHER = {"key": "example.com/other", "effect": "NoSchedule"}
NODE = {
    "metadata": {"name": "own", "labels": {"zone": "a"}, "annotations": {"example.com/a": "1"}},
    "spec": {"taints": [STARTUP, OTHER], "podCIDR": "10.0.0.0/24"},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "capacity": {"cpu": "4"},
    },
}
OURS = {"type": "ImageAcceleration", "status": "True"}


def policy(name: str) -> admission.Validator:
    return admission.Validator(rendering.together("runtimeclass"), name)


def request(
    *, user: str = AGENT, node: str = "own", name: str = "own", operation: str = "UPDATE"
) -> dict[str, Any]:
    info = {"username": user, "extra": {BOUND: [node]} if node else {}}
    return {"userInfo": info, "name": name, "operation": operation}


def refusals(patch: Any, **asked: str) -> list[str]:
    changed = patched(NODE, patch)
    return policy("uimgacc-node").refusals(request(**asked), old=NODE, new=changed)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, a merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = copy.deepcopy(dict(target)) if isinstance(target, dict) else {}
    for key, value in patch.items():
        result[key] = patched(result.get(key), value)
        if value is None:
            del result[key]
    return result


@pytest.mark.parametrize("body", cases.NODE_ALLOWED.values(), ids=cases.NODE_ALLOWED)
def test_an_agent_writes_our_keys_on_its_own_node_only(body: Any) -> None:
    own_only = ["an agent of uimgacc changes its own node only"]

    assert refusals(body) == []
    assert refusals(body, name="other") == own_only
    assert refusals(body, node="") == own_only, "a token that is bound to no node"


@pytest.mark.parametrize("body", cases.NODE_REFUSED.values(), ids=cases.NODE_REFUSED)
def test_an_agent_writes_nothing_else(body: Any) -> None:
    assert len(refusals(body)) == 1
    assert refusals(body, user="system:node:own") == []


@pytest.mark.parametrize(
    ("taints", "allowed"),
    [([OTHER], True), ([STARTUP], False), (None, False), ([{**STARTUP, "value": "x"}], False)],
)
def test_an_agent_takes_only_our_startup_taint_away(taints: Any, allowed: bool) -> None:
    assert (refusals({"spec": {"taints": taints}}) == []) == allowed


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ({"conditions": [*NODE["status"]["conditions"], OURS]}, True),  # type: ignore[index]
        ({"conditions": [OURS]}, False),
        ({"conditions": [{"type": "Ready", "status": "False"}, OURS]}, False),
        ({"capacity": {"cpu": "400"}}, False),
        ({"images": []}, False),
    ],
)
def test_an_agent_writes_its_condition_only(status: Any, allowed: bool) -> None:
    assert (refusals({"status": status}) == []) == allowed


AUTOMATIC = {
    "metadata": {"name": "auto-1", "labels": {"uimgacc.io/auto-created": "true"}},
    "spec": {"images": ["nginx:1.27"]},
}


@pytest.mark.parametrize(
    ("patch", "allowed"),
    [
        ({"metadata": {"annotations": {"uimgacc.io/last-matched": "2026-01-01T00:00:00Z"}}}, True),
        ({"metadata": {"annotations": {"example.com/a": "1"}}}, False),
        # What would have it built again, without TLS.
        ({"metadata": {"annotations": {"uimgacc.io/insecure-registry": "r"}}}, False),
        ({"metadata": {"annotations": {"uimgacc.io/plain-http-registry": "r"}}}, False),
        ({"metadata": {"annotations": {"uimgacc.io/refresh": "1"}}}, False),
        ({"metadata": {"annotations": {"k8s.aliyun.com/acr-instance-ids": "cri-1"}}}, False),
        ({"metadata": {"labels": {"uimgacc.io/auto-created": None}}}, False),
        ({"metadata": {"finalizers": ["example.com/x"]}}, False),
        ({"spec": {"images": ["evil:1"]}}, False),
    ],
)
def test_an_agent_says_only_when_a_cache_was_used(patch: Any, allowed: bool) -> None:
    found = policy("uimgacc-node-caches").refusals(
        request(name="auto-1"), old=AUTOMATIC, new=patched(AUTOMATIC, patch)
    )

    assert (found == []) == allowed


NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T18:00:00Z"


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (NOON, LATER, True),
        (NOON, NOON, True),
        (LATER, NOON, False),
        (NOON, None, False),
        (NOON, "", False),
        (NOON, "yesterday", False),
        (NOON, "2026-99-99T99:99:99Z", False),
        (NOON, "2026-02-30T12:00:00Z", False),
        (None, "yesterday", False),
        (None, NOON, True),
        ("2024-02-28T12:00:00Z", "2024-02-29T23:59:59Z", True),
        (NOON, "2027-02-29T12:00:00Z", False),
        ("2026-99-99T99:99:99Z", NOON, True),
        ("yesterday", NOON, True),
        ("2036-01-01", NOON, True),
    ],
)
def test_an_agent_sets_the_time_when_a_cache_was_used_forward_only(
    before: str | None, after: str | None, allowed: bool
) -> None:
    old = patched(AUTOMATIC, {"metadata": {"annotations": {keys.LAST_MATCHED: before}}})
    new = patched(old, {"metadata": {"annotations": {keys.LAST_MATCHED: after}}})
    found = policy("uimgacc-node-caches").refusals(request(name="auto-1"), old=old, new=new)

    assert (found == []) == allowed


REPORT = profile_codec.Report(
    node="own",
    image="registry.example.com/team/app:1",
    manifest=f"sha256:{'d' * 64}",
    text="eJxjZGRkYGBgAAAAEgAC",
)


@pytest.mark.parametrize(
    ("said", "node", "before", "allowed"),
    [
        (str(REPORT), "own", None, True),
        (str(REPORT), "other", None, False),
        (str(REPORT), "", None, False),
        (str(REPORT), "own", "1 other a b c", False),
        (None, "own", str(REPORT), False),
        ("", "own", None, False),
        (f"{REPORT}\n", "own", None, False),
        (f"{REPORT} and more", "own", None, False),
        (str(REPORT).replace("sha256:", "sha512:"), "own", None, False),
        (str(REPORT) + "A" * profile_codec.REPORT_LIMIT, "own", None, False),
    ],
)
def test_an_agent_reports_a_start_under_its_own_name_where_no_report_is(
    said: str | None, node: str, before: str | None, allowed: bool
) -> None:
    old = patched(AUTOMATIC, {"metadata": {"annotations": {keys.START_PROFILE: before}}})
    new = patched(old, {"metadata": {"annotations": {keys.START_PROFILE: said}}})
    found = policy("uimgacc-node-caches").refusals(
        request(name="auto-1", node=node), old=old, new=new
    )

    assert (found == []) == allowed


def test_the_policy_bounds_a_report_as_the_controller_does() -> None:
    text = "A" * (profile_codec.REPORT_LIMIT - len(str(REPORT)))
    report = f"{REPORT}{text}"
    new = patched(AUTOMATIC, {"metadata": {"annotations": {keys.START_PROFILE: report}}})

    assert profile_codec.parse_report(report).text.endswith(text)
    assert (
        policy("uimgacc-node-caches").refusals(request(name="auto-1"), old=AUTOMATIC, new=new) == []
    )


def test_an_agent_changes_nothing_of_a_persons_cache() -> None:
    own = patched(AUTOMATIC, {"metadata": {"labels": None}})
    used = {"metadata": {"annotations": {"uimgacc.io/last-matched": "2026-01-01T00:00:00Z"}}}
    changes = [used, {"spec": {"images": ["evil:1"]}}, {"metadata": {"finalizers": ["x.y/z"]}}]
    found = [
        policy("uimgacc-node-caches").refusals(
            request(name="tools"), old=own, new=patched(own, change)
        )
        for change in changes
    ]

    assert [refused == [] for refused in found] == [True, False, False]


ACR = "k8s.aliyun.com/acr-instance-ids"


def opened(pod: str, node: str) -> Any:
    return patched(wanted(pod, node), {"metadata": {"annotations": {ACR: "cri-1"}}})


def wanted(pod: str, node: str, *secrets: str) -> Any:
    said = {
        "uimgacc.io/created-for": pod,
        "uimgacc.io/created-for-uid": "u",
        "uimgacc.io/created-on": node,
    }
    spec = {"imagePullSecrets": list(secrets)} if secrets else {}
    return {"metadata": {"annotations": said}, "spec": spec}


@pytest.mark.parametrize(
    ("patch", "allowed"),
    [
        ({"metadata": {"annotations": {"uimgacc.io/dialect": "native"}}}, True),
        (wanted("team/pod", "own", "team/regcred"), True),
        (wanted("team/pod", "other", "team/regcred"), False),
        (wanted("team/pod", "", "team/regcred"), False),
        (wanted("", "own", "team/regcred"), False),
        (wanted("team/pod", "own", "team/regcred", "finance/regcred"), False),
        (wanted("team/pod", "own", "team:regcred"), False),
        ({"spec": {"namespaces": ["*"]}}, False),
        ({"spec": {"keepWarm": True}}, False),
        ({"metadata": {"annotations": {"uimgacc.io/local": "before-start"}}}, False),
        (opened("team/pod", "own"), True),
        (opened("team/pod", "other"), False),
        ({"metadata": {"annotations": {ACR: "cri-1"}}}, False),
        (wanted("team/pod", "other"), True),
        ({"metadata": {"annotations": {"k8s.aliyun.com/insecure-registry": "r"}}}, False),
        ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}}, False),
    ],
)
def test_an_agent_has_caches_built_by_the_book(patch: Any, allowed: bool) -> None:
    found = policy("uimgacc-node-caches").refusals(
        request(operation="CREATE"), old=None, new=patched(AUTOMATIC, patch)
    )

    assert (found == []) == allowed


def test_a_token_of_no_node_asks_for_no_pull_secrets() -> None:
    for node in ("", "own"):
        made = patched(AUTOMATIC, wanted("team/pod", node, "team/regcred"))
        asked = request(operation="CREATE", node="")
        found = policy("uimgacc-node-caches").refusals(asked, old=None, new=made)
        assert found == [
            "an agent of uimgacc asks for what opens registries for pods of its own node only"
        ]


LEASE = {
    "metadata": {
        "name": "uimgacc-node-own",
        "annotations": {"uimgacc.io/saved": "{}"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "own", "uid": "1"}],
    },
    "spec": {"holderIdentity": "own"},
}


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
@pytest.mark.parametrize(
    ("patch", "allowed"),
    [
        ({}, True),
        ({"metadata": {"name": "uimgacc-controller"}}, False),
        ({"metadata": {"name": "uimgacc-node-other"}}, False),
        ({"metadata": {"annotations": {"example.com/x": "1"}}}, False),
        ({"metadata": {"annotations": {"uimgacc.io/saved": "1" * 4097}}}, False),
        ({"metadata": {"finalizers": ["example.com/x"]}}, False),
        ({"metadata": {"ownerReferences": [{"kind": "Node", "name": "other"}]}}, False),
    ],
)
def test_an_agent_writes_only_what_it_saved_on_its_own_lease(
    operation: str, patch: Any, allowed: bool
) -> None:
    lease = patched(LEASE, patch)
    validator = policy("uimgacc-node-leases")
    asked = request(name=lease["metadata"]["name"], operation=operation)

    assert (validator.refusals(asked, old=LEASE, new=lease) == []) == allowed


def test_a_token_of_no_node_writes_no_lease() -> None:
    lease = patched(LEASE, {"metadata": {"name": "uimgacc-node-"}})
    asked = request(node="", name="uimgacc-node-")

    assert policy("uimgacc-node-leases").refusals(asked, old=None, new=lease) != []


def test_an_agent_creates_automatic_caches_only() -> None:
    validator = policy("uimgacc-node-caches")
    own = patched(AUTOMATIC, {"metadata": {"labels": None}})
    asked = request(operation="CREATE")

    assert validator.refusals(asked, old=None, new=AUTOMATIC) == []
    assert validator.refusals(asked, old=None, new=own) == [
        "an agent of uimgacc creates automatic caches only"
    ]
    assert validator.refusals(request(user="alice", operation="CREATE"), old=None, new=own) == []


LISTED = {keys.SETUP_SLOT_LABEL: "true"}


def slot(
    holder: str, name: str = "uimgacc-setup-slot-0", labels: dict[str, str] | None = LISTED
) -> dict[str, Any]:
    more = {} if labels is None else {"labels": labels}
    return {"metadata": {"name": name, **more}, "spec": {"holderIdentity": holder}}


TAKES = "an agent of uimgacc takes no slot from another node"
HOLDS = "an agent of uimgacc holds a slot for its own node only"
NUMBER = "an agent of uimgacc makes slots with a number only"
LABEL = "an agent of uimgacc holds no slot that others do not find in their list"


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (None, slot("own"), []),
        (slot(""), slot("own"), []),
        (slot("own"), slot(""), []),
        (slot("own"), slot("own"), []),
        (slot("other"), slot("other"), [HOLDS, TAKES]),
        (slot("other"), slot("own"), [TAKES]),
        (slot("other"), slot(""), [TAKES]),
        (slot(""), slot("other"), [HOLDS]),
        (None, slot("other"), [HOLDS]),
        (None, slot("own", "uimgacc-setup-slot-x"), [NUMBER]),
        (None, slot("own", "uimgacc-setup-slot-12345"), [NUMBER]),
        (None, slot("own", labels=None), [LABEL]),
        (slot(""), slot("own", labels={}), [LABEL]),
        (slot(""), slot("own", labels={**LISTED, "example.com/a": "1"}), [LABEL]),
        (slot("", labels=None), slot("own", labels=None), [LABEL]),
        (slot("", labels=None), slot("own"), []),
        (slot("own", labels=None), slot("", labels=None), []),
    ],
)
def test_an_agent_takes_free_slots_and_leaves_its_own(
    old: Any, new: dict[str, Any], refused: list[str]
) -> None:
    operation = "CREATE" if old is None else "UPDATE"
    asked = request(operation=operation)
    found = policy("uimgacc-node-slots").refusals(asked, old=old, new=new)

    assert found == refused


def test_a_token_that_is_bound_to_no_node_takes_no_slot() -> None:
    asked = request(operation="CREATE", node="")

    assert policy("uimgacc-node-slots").refusals(asked, old=None, new=slot("own")) == [HOLDS]


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({"annotations": {"uimgacc.io/setup-problem": "the node is not Ready"}}, True),
        ({"annotations": {"uimgacc.io/setup-problem": "x" * 1025}}, False),
        ({"annotations": {"example.com/a": "1"}}, False),
        ({"finalizers": ["example.com/a"]}, False),
        ({"ownerReferences": [{"kind": "Node", "name": "own"}]}, True),
        ({"ownerReferences": [{"kind": "Node", "name": "other"}]}, False),
        ({"ownerReferences": [{"kind": "Pod", "name": "own"}]}, False),
    ],
)
def test_an_agent_writes_into_its_slot_why_it_is_not_back(
    changed: dict[str, Any], allowed: bool
) -> None:
    new = slot("own")
    new["metadata"] |= changed
    found = policy("uimgacc-node-slots").refusals(request(), old=slot("own"), new=new)

    assert (found == []) == allowed


def test_each_lease_is_held_by_one_of_the_two_policies() -> None:
    leases, slots = policy("uimgacc-node-leases"), policy("uimgacc-node-slots")
    for name, by_leases in (("uimgacc-controller", True), ("uimgacc-setup-slot-0", False)):
        stolen = slot("other", name)
        assert bool(leases.refusals(request(), old=stolen, new=slot("own", name))) is by_leases
        assert bool(slots.refusals(request(), old=stolen, new=slot("own", name))) is not by_leases
