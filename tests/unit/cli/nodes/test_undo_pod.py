"""The pod that puts one node back, from the manifests' DaemonSet."""

import copy
from typing import Any

import pytest

from agent.cli.nodes import undo_pod
from tests.manifests import rendering


@pytest.fixture(scope="module")
def daemon_set() -> dict[str, Any]:
    documents = rendering.together("runtimeclass")
    return copy.deepcopy(dict(rendering.only(documents, "DaemonSet", "uimgacc-node")))


def test_it_is_node_set_up_with_other_arguments_on_that_node(daemon_set: dict[str, Any]) -> None:
    pod = undo_pod.manifest(daemon_set, "node-1")
    (container,) = pod["spec"]["containers"]
    template = daemon_set["spec"]["template"]["spec"]

    assert container["image"] == template["containers"][0]["image"]
    assert container["args"] == [
        *("node-setup", "--host-root=/host", "--undo", "--restart", "--leave", "--clear"),
        "--node=$(NODE_NAME)",
    ]
    assert container["securityContext"]["privileged"]
    assert "startupProbe" not in container
    assert "restartPolicy" not in container
    assert {each["name"] for each in pod["spec"]["volumes"]} == {"host", "tmp", "token"}
    assert pod["spec"]["nodeName"] == "node-1"
    assert pod["spec"]["restartPolicy"] == "OnFailure"
    assert pod["spec"]["hostPID"]
    assert pod["spec"]["serviceAccountName"] == "uimgacc-node"
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert not pod["metadata"]["labels"].items() >= template_labels(daemon_set).items(), (
        "the DaemonSet would adopt it"
    )


def template_labels(daemon_set: dict[str, Any]) -> dict[str, str]:
    return dict(daemon_set["spec"]["selector"]["matchLabels"])


def test_the_longest_name_of_a_node_makes_a_name_of_a_pod() -> None:
    assert len(undo_pod.name_of(".".join(["n" * 60] * 4))) < 64
    assert undo_pod.name_of("a") != undo_pod.name_of("b")


def test_a_daemon_set_without_node_set_up_is_refused(daemon_set: dict[str, Any]) -> None:
    other = copy.deepcopy(daemon_set)
    del other["spec"]["template"]["spec"]["initContainers"]

    with pytest.raises(undo_pod.NoNodeSetup, match="has no container node-setup"):
        undo_pod.manifest(other, "node-1")


def test_what_the_last_try_said_is_the_problem() -> None:
    ended = {"exitCode": 1, "message": "note: x\nuimgacc: containers of these pods use it: a/b\n"}
    status = {"state": {"waiting": {}}, "lastState": {"terminated": ended}}

    assert undo_pod.problem({"status": {"containerStatuses": [status]}}) == (
        "containers of these pods use it: a/b"
    )
    assert undo_pod.problem({}) == ""
    done = {"state": {"terminated": {"exitCode": 0, "message": "done"}}}
    assert undo_pod.problem({"status": {"containerStatuses": [done]}}) == ""
