"""A node whose agent drains: it says so, prepares nothing, and removes unused images."""

import json

import pytest

from tests.node import conftest

pytestmark = pytest.mark.containerd

IMAGE = "lab/layers2:1"


def test_a_draining_node_serves_no_more_pods_and_harms_none(node2: conftest.Node) -> None:
    node = node2
    manifest = node.manifest("before", IMAGE)
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has(IMAGE), seconds=60)
    with node.client.pod(manifest) as pod:
        node.agent.end()
        node.agent.command.append("--drain=true")
        node.start_agent()
        conftest.wait_until(lambda: problem(node), seconds=60)
        assert "switched off" in problem(node)

        node.schedule(node.manifest("after", "lab/gzip:1"))
        conftest.wait_until(lambda: node.status("after").get("sentence"), seconds=60)

        assert "switched off" in node.status("after")["sentence"]
        assert not node.has("lab/gzip:1")
        code, _ = node.client.execute(pod.containers[0], ("/bin/true",))
        assert code == 0


def problem(node: conftest.Node) -> str:
    """What /status says of the switch."""
    found = json.loads(node.get("/status"))["node"]
    assert found["capable"] is False
    return str(found["problems"].get("switch", ""))
