"""The same image for pods of our runtime and of the ordinary one, on one node."""

import pytest

from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE = "lab/layers2:1"


def test_a_pod_of_the_ordinary_runtime_starts_with_an_image_that_came_from_the_store(node) -> None:
    """Without help it finds the image present, and nothing to unpack it from."""
    accelerated = node.manifest("accelerated", IMAGE)
    node.schedule(accelerated)
    conftest.wait_until(lambda: node.has(IMAGE))
    with node.client.pod(accelerated) as running:
        ordinary = node.manifest("ordinary", IMAGE, handler="", annotations={})
        node.schedule(ordinary)
        conftest.wait_until(lambda: not node.has(IMAGE))
        # The sandbox's image has come from the store as well.
        conftest.wait_until(lambda: "pulled the sandbox" in node.agent.errors.read_text())
        with node.client.pod(ordinary) as pod:
            code, output = node.client.execute(pod.containers[0], ["ls", "/"])
            assert (code, "layers" in output) == (0, True)
            assert pod.pulled == [node.reference(IMAGE)]
        conftest.wait_until(lambda: node.status("ordinary").get("served"), seconds=60)
        code, output = node.client.execute(running.containers[0], ["ls", "/"])
        assert (code, "layers" in output) == (0, True)

    assert "layers" in node.run(node.manifest("again", IMAGE), "ls", "/")
