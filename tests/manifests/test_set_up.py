"""Node set-up in the manifests: before all else, and there for as long as its pod."""

import pytest

from agent.setup.node import containerd_restart
from tests.manifests import rendering


def set_up(overlay: str, workload: str) -> tuple[rendering.Document, rendering.Document]:
    """The spec of the pod that has node set-up in it, and its container."""
    documents = rendering.together(overlay)
    spec = rendering.only(documents, "DaemonSet", workload)["spec"]["template"]["spec"]
    (found,) = [each for each in rendering.containers(spec) if each["name"] == "node-setup"]
    return spec, found


def test_the_others_start_when_the_node_is_set_up_and_it_stays_beside_them() -> None:
    spec, container = set_up("runtimeclass", "uimgacc-node")

    assert spec["initContainers"] == [container]
    assert container["restartPolicy"] == "Always"
    probe = container["startupProbe"]
    assert f"--keep={probe['exec']['command'][-1]}" in container["args"]
    # A slow restart of containerd is none of its failures.
    assert probe["periodSeconds"] * probe["failureThreshold"] > containerd_restart.SECONDS + 60


def test_with_everything_through_us_it_is_ready_when_the_node_is_set_up() -> None:
    _, container = set_up("default-snapshotter", "uimgacc-setup")

    (script,) = container["args"]
    assert f"--keep={container['readinessProbe']['exec']['command'][-1]} " in script


@pytest.mark.parametrize(
    ("overlay", "workload"),
    [("runtimeclass", "uimgacc-node"), ("default-snapshotter", "uimgacc-setup")],
)
def test_the_mounts_of_the_node_that_it_lets_go_of_are_copies(overlay: str, workload: str) -> None:
    spec, container = set_up(overlay, workload)

    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/host"]
    assert "mountPropagation" not in mount, "what it detaches would go on the node, too"
    # Without the node's processes it could share no folder; and a signal ends a shell that is
    # not the first process of its namespace.
    assert spec["hostPID"] is True
