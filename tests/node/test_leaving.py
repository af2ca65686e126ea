"""Taking a node out of service: nothing that the kubelet could not remove, or not run, is left."""

import os
from typing import Any

import pytest

from agent.clients.containerd import rpc
from agent.model import images
from agent.node.images import containerd_images, image_removal
from tests.node import conftest

pytestmark = pytest.mark.containerd

IMAGE = "lab/layers2:1"


async def leave(node: conftest.Node) -> image_removal.Left:
    async with rpc.Client(str(node.containerd.address)) as client:
        platform = images.platform_of_machine(os.uname().machine)
        return await image_removal.leave(
            containerd_images.of(client, platform, snapshotter="uimgacc")
        )


@pytest.mark.parametrize("snapshotter_runs", [True, False])
async def test_images_go_when_no_container_needs_them_and_pods_start_without_us(
    node2: conftest.Node, snapshotter_runs: bool
) -> None:
    node = node2
    manifest = node.manifest("served", IMAGE)
    scheduled = node.schedule(manifest)
    conftest.wait_until(lambda: node.has(IMAGE), seconds=60)
    with node.client.pod(manifest):
        with pytest.raises(image_removal.InUseError, match="default/served"):
            await leave(node)
        assert node.has(IMAGE)
    scheduled.unlink()
    node.agent.end()
    if not snapshotter_runs:
        node.snapshotter.end()

    removed = await leave(node)

    assert node.reference(IMAGE) in removed.removed
    assert not node.has(IMAGE)
    assert (await leave(node)).removed == []
    with node.client.pod(node.manifest("ordinary", IMAGE, handler="", annotations={})) as pod:
        assert pod.pulled == [node.reference(IMAGE)]


async def test_an_image_that_stands_on_another_snapshotter_too_is_kept(
    node2: conftest.Node,
) -> None:
    """Without a registry it could not be had again: our own, for instance."""
    node = node2
    manifest = node.manifest("served", IMAGE)

    def ordinary() -> dict[str, Any]:
        return node.manifest("ordinary", IMAGE, handler="", annotations={})

    with node.client.pod(ordinary()):
        scheduled = node.schedule(manifest)
        with node.client.pod(manifest):
            pass
        scheduled.unlink()

        left = await leave(node)

        assert node.reference(IMAGE) not in left.removed
        assert "default/ordinary" in left.pods.values()
    assert node.has(IMAGE)
    with node.client.pod(ordinary()) as pod:
        assert pod.pulled == []
