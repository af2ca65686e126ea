"""A node whose agent drains: it says so, prepares nothing, and removes unused images."""

import datetime
import json
import os

import pytest

from agent.clients.containerd import rpc
from agent.model import digests, images, times
from agent.node.images import containerd_images, image_removal
from lab.web import registries
from tests.node import conftest

pytestmark = pytest.mark.containerd

USED, UNUSED, LATER = "lab/layers2:1", "lab/layers40:1", "lab/zstd:1"
"""Images of the store."""


async def test_a_draining_node_serves_no_more_pods_removes_unused_images_and_harms_no_pod(
    node2: conftest.Node,
) -> None:
    node = node2
    manifest = node.manifest("before", USED)
    node.schedule(manifest)
    unused = node.schedule(node.manifest("unused", UNUSED))
    conftest.wait_until(lambda: node.has(USED) and node.has(UNUSED))
    unused.unlink()
    with node.client.pod(manifest) as pod:
        # The sandbox's image has come from the store as well: ordinary pods need it, too.
        conftest.wait_until(lambda: "pulled the sandbox" in node.agent.errors.read_text())
        node.agent.end()
        node.agent.command.append("--drain=true")
        node.start_agent()
        conftest.wait_until(lambda: problem(node))
        assert "switched off" in problem(node)

        node.schedule(node.manifest("after", LATER))
        conftest.wait_until(lambda: node.status("after").get("sentence"))

        assert "switched off" in node.status("after")["sentence"]
        assert not node.has(LATER)
        # An image of the last minutes may be that of a container which is about to be created.
        assert await release(node, datetime.timedelta()) == []

        assert await release(node, datetime.timedelta(minutes=10)) == [node.reference(UNUSED)]

        assert (node.has(USED), node.has(UNUSED)) == (True, False)
        diff_ids = registries.catalogue()[UNUSED]["diff_ids"]
        assert digests.chain_ids(diff_ids)[-1] not in await snapshots(node)
        code, output = node.client.execute(pod.containers[0], ("/bin/ls", "/"))
        assert (code, "layers" in output) == (0, True)
        # What takes its place, as in the roll-out of a Deployment, is an ordinary pod.
        ordinary = node.manifest("ordinary", USED, handler="", annotations={})
        node.schedule(ordinary)
        conftest.wait_until(lambda: not node.has(USED))
        with node.client.pod(ordinary) as other:
            assert other.pulled == [node.reference(USED)]


def problem(node: conftest.Node) -> str:
    """What /status says of the switch."""
    found = json.loads(node.get("/status"))["node"]
    assert found["capable"] is False
    return str(found["problems"].get("switch", ""))


async def release(node: conftest.Node, later: datetime.timedelta) -> list[str]:
    """Remove what the agent would so much later; tags of the images, without digests."""
    async with rpc.Client(str(node.containerd.address)) as client:
        platform = images.platform_of_machine(os.uname().machine)
        containerd = containerd_images.of(client, platform, snapshotter="uimgacc")
        drainer = image_removal.Drainer(containerd, clock=lambda: times.now() + later)
        return [name for name in await drainer.release() if name.endswith(":1")]


async def snapshots(node: conftest.Node) -> set[str]:
    async with rpc.Client(str(node.containerd.address)) as client:
        return set(await client.snapshots("uimgacc"))
