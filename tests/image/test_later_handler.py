"""The DaemonSet's pod, from our image, on a node on which GPU software is installed after it."""

import asyncio
import pathlib
import tempfile

import pytest

from agent.clients.containerd import rpc as clients
from lab import services
from tests.image import nodes
from tests.manifests import rendering

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(600)]

NVIDIA = """
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
"""


def test_what_nvidia_s_toolkit_installs_later_gets_its_twin(
    session: pathlib.Path, registry: services.Registry, archive: pathlib.Path
) -> None:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="n", dir=session))
    with nodes.shared(folder), nodes.Node(folder, registry, archive) as node:
        documents = node.documents(rendering.MANIFESTS / "overlays" / "runtimeclass")
        with node.running(documents, "uimgacc-node") as pod:
            set_up = pod.containers[-1]
            assert node.restarts == 1
            nodes.wait_until(lambda: "nothing is missing" in set_up.output())
            assert node.copied(pod, -1, f"/host{node.folder}") == [], "it holds mounts of the node"
            config = node.containerd.config
            config.write_text(config.read_text() + NVIDIA)

            nodes.wait_until(lambda: "uimgacc-nvidia" in set_up.output())
            nodes.wait_until(lambda: set_up.output().count("nothing is missing") == 2)

            assert {"nvidia", "uimgacc-nvidia"} <= asyncio.run(handlers(node))
            assert node.restarts == 2
            assert node.client.exit_code(set_up) is None


async def handlers(node: nodes.Node) -> frozenset[str]:
    """The runtime handlers that containerd has."""
    async with clients.Client(str(node.containerd.address)) as client:
        return await client.runtime_handlers()
