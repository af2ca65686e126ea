"""Nodes that discard the blobs of what they have unpacked."""

import pytest

from lab.web import registries
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_the_first_pod_of_a_uimgacc_class_starts_where_the_sandboxs_blobs_are_discarded(
    node,
) -> None:
    """Without help, containerd 2.1 fails such pods: it looks for a blob that is gone."""
    node.agent.end()
    node.client.pull_image(node.reference("lab/pause:1"), handler="")
    for digest in registries.catalogue()["lab/pause:1"]["layers"]:
        node.containerd.ctr("content", "rm", digest, namespace="k8s.io")
    node.start_agent()
    conftest.wait_until(
        lambda: any("pulled the sandbox" in line["message"] for line in node.events())
    )
    node.schedule(node.manifest("pod", "lab/layers2:1"))
    conftest.wait_until(lambda: node.has("lab/layers2:1"))

    assert "layers" in node.run(node.manifest("run", "lab/layers2:1"), "ls", "/")
