"""The policies that hold the controller to builders without privileges, and to one variable."""

import copy
from typing import Any

import jsonpatch
import pytest

from tests.manifests import admission, policing, rendering

CONTROLLER = "system:serviceaccount:uimgacc-system:uimgacc-controller"


def refusals(name: str, new: Any, *, old: Any = None, user: str = CONTROLLER) -> list[str]:
    documents = rendering.together("runtimeclass", "controller", "api", "webhook")
    validator = admission.Validator(documents, f"uimgacc-controller-{name}")
    asked = {"userInfo": {"username": user}, "operation": "UPDATE" if old else "CREATE"}
    return validator.refusals(asked, old=old, new=new)


def patched(body: Any, patch: policing.Patch) -> Any:
    return jsonpatch.apply_patch(copy.deepcopy(dict(body)), list(patch))


KUBELET = {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}
TENANT = {"username": "system:serviceaccount:team:ci", "groups": ["system:serviceaccounts:team"]}
ADMIN = {"username": "admin", "groups": ["system:masters"]}
VIRTUAL = {"username": "system:serviceaccount:kube-system:virtual-kubelet", "groups": []}
AGENT = {"username": "system:serviceaccount:uimgacc-system:uimgacc-node", "groups": []}
PULLED = {
    "reason": "Pulled",
    "source": {"component": "kubelet", "host": "n1"},
    "reportingComponent": "kubelet",
    "reportingInstance": "n1",
}
NEW_KIND = {"reason": "Pulled", "reportingController": "kubelet", "reportingInstance": "n1"}


def event_is_accepted(user: Any, event: Any, *, old: Any = None) -> bool:
    validator = admission.Validator(
        rendering.together("runtimeclass", "controller"), "uimgacc-pull-events"
    )
    asked = {"userInfo": user, "operation": "UPDATE" if old else "CREATE"}
    return not validator.refusals(asked, old=old, new=event)


@pytest.mark.parametrize("event", [PULLED, NEW_KIND], ids=["core", "events.k8s.io"])
def test_an_event_of_a_pull_is_a_kubelets(event: Any) -> None:
    writers = {"kubelet": KUBELET, "admin": ADMIN, "virtual": VIRTUAL, "tenant": TENANT}
    accepted = [name for name, user in writers.items() if event_is_accepted(user, event)]

    assert accepted == ["kubelet", "admin", "virtual"]
    assert not event_is_accepted(AGENT, event)
    assert not event_is_accepted(TENANT, event, old=event | {"reason": "Started"})


@pytest.mark.parametrize(
    "event",
    [
        PULLED | {"source": {"component": "kubelet", "host": "n2"}},
        PULLED | {"reportingInstance": "n2"},
        {"reason": "Pulled", "source": {"component": "kubelet"}},
        NEW_KIND | {"reportingInstance": "n2"},
    ],
)
def test_a_kubelet_reports_the_pulls_of_its_own_node_only(event: Any) -> None:
    assert not event_is_accepted(KUBELET, event)


@pytest.mark.parametrize(
    "event",
    [
        {},
        PULLED | {"reason": "Failed"},
        {"reason": "Pulled", "source": {"component": "my-operator"}},
        {"reason": "Pulled", "reportingController": "example.com/operator"},
    ],
)
def test_other_events_are_written_as_before(event: Any) -> None:
    assert event_is_accepted(TENANT, event)


@pytest.mark.parametrize("patch", policing.BUILDS.values(), ids=policing.BUILDS)
def test_a_builder_is_made_and_let_run(patch: policing.Patch) -> None:
    made = policing.job()

    assert refusals("jobs", patched(made, patch)) == []
    assert refusals("jobs", patched(made, patch), old=made) == []


@pytest.mark.parametrize("patch", policing.REFUSED_BUILDS.values(), ids=policing.REFUSED_BUILDS)
def test_a_builder_has_no_part_of_its_node(patch: policing.Patch) -> None:
    made = policing.job()
    changed = patched(made, patch)

    assert len(refusals("jobs", changed)) == 1
    assert refusals("jobs", changed, old=made) == refusals("jobs", changed)
    assert refusals("jobs", changed, user="system:serviceaccount:team:ci") == []


@pytest.mark.parametrize("patch", policing.SWITCHES.values(), ids=policing.SWITCHES)
def test_the_agents_are_switched_off_and_on(patch: policing.Patch) -> None:
    on = policing.agents()
    off = patched(on, patch)

    assert refusals("agents", off, old=on) == []
    assert refusals("agents", on, old=off) == []
    assert refusals("agents", off, old=off) == []


@pytest.mark.parametrize("patch", policing.REFUSED_AGENTS.values(), ids=policing.REFUSED_AGENTS)
def test_nothing_else_of_the_agents_is_changed(patch: policing.Patch) -> None:
    old = policing.agents()
    new = patched(old, patch)

    assert refusals("agents", new, old=old)
    assert refusals("agents", new, old=old, user="admin") == []


@pytest.mark.parametrize(
    "name",
    [
        "another container",
        "another argument",
        "a volume",
        "a label of its pods",
        "its labels",
        "its annotations",
        "its finalizers",
        "its owner",
    ],
)
def test_nothing_of_the_agents_is_taken_away(name: str) -> None:
    left = policing.agents()

    assert refusals("agents", left, old=patched(left, policing.REFUSED_AGENTS[name]))


@pytest.mark.parametrize("patch", policing.WEBHOOKS.values(), ids=policing.WEBHOOKS)
def test_the_controller_says_by_whom_and_for_whom_its_webhook_is_called(
    patch: policing.Patch,
) -> None:
    before = policing.webhook()
    after = patched(before, patch)

    assert refusals("webhook", after, old=before) == []
    assert refusals("webhook", before, old=after) == []


@pytest.mark.parametrize("patch", policing.REFUSED_WEBHOOKS.values(), ids=policing.REFUSED_WEBHOOKS)
def test_the_controller_has_nothing_else_sent_to_it(patch: policing.Patch) -> None:
    before = policing.webhook()
    after = patched(before, patch)

    assert refusals("webhook", after, old=before)
    assert refusals("webhook", before, old=after)
    assert refusals("webhook", after, old=before, user="admin") == []


@pytest.mark.parametrize("patch", policing.TWINS.values(), ids=policing.TWINS)
def test_the_controller_labels_a_class_that_no_node_can_run(patch: policing.Patch) -> None:
    before = policing.twin()
    after = patched(before, patch)

    assert refusals("classes", after, old=before) == []
    assert refusals("classes", before, old=after) == []


@pytest.mark.parametrize("patch", policing.REFUSED_TWINS.values(), ids=policing.REFUSED_TWINS)
def test_the_controller_changes_nothing_else_of_a_class(patch: policing.Patch) -> None:
    before = policing.twin()
    after = patched(before, patch)

    assert refusals("classes", after, old=before)
    assert refusals("classes", after, old=before, user="admin") == []


def test_the_controller_changes_no_class_that_is_no_twin() -> None:
    before = policing.twin()
    del before["metadata"]["labels"]["uimgacc.io/twin-of"]
    after = patched(before, next(iter(policing.TWINS.values())))

    assert refusals("classes", after, old=before)
    assert refusals("classes", after, old=before, user="admin") == []


def test_no_token_is_made() -> None:
    token = {"type": "kubernetes.io/service-account-token"}

    assert refusals("secrets", token)
    assert refusals("secrets", token, user="admin") == []
    for kind in ("Opaque", "kubernetes.io/dockerconfigjson"):
        assert refusals("secrets", {"type": kind}) == []
