"""The DaemonSet's pod, as our manifests and our image have it, on a real export.

Its agent mounts the store from within a container; the host and the snapshotter's container
receive the mount, and it outlives the pod.
"""

import pathlib
from collections.abc import Iterator

import pytest

from lab.image import oci
from lab.runtime import cri
from tests.guest.inside import conftest
from tests.image import nodes
from tests.manifests import rendering

pytestmark = [pytest.mark.guest, pytest.mark.timeout(500)]

AUTO = {"uimgacc.io/image-cache": "auto"}


@pytest.fixture
def node(store, registry, tmp_path_factory) -> Iterator[nodes.Node]:
    folder = tmp_path_factory.mktemp("n")
    with (
        nodes.shared(folder),
        nodes.Node(folder, registry, oci.ARCHIVE, nfs=conftest.EXPORT) as made,
    ):
        conftest.note("the image is there")
        yield made


def mounts() -> list[str]:
    """NFS and layers on the host, with the numbers that the kernel gave these mounts."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if " - nfs4 " in line or " - erofs " in line]


def test_what_the_pod_mounts_is_the_host_s_and_stays(node: nodes.Node, registry) -> None:
    documents = node.documents(rendering.MANIFESTS / "overlays" / "runtimeclass")
    stored = f"{registry.address}/{conftest.STORED}"
    script = ("sh", "-c", f"set -o pipefail; {conftest.Reader.SCRIPT}")
    manifest = cri.manifest("served", stored, command=script, annotations=AUTO, handler="uimgacc")
    with node.running(documents, "uimgacc-node"):
        capable = "uimgacc_node_capable 1.0"
        conftest.wait_until(lambda: capable in node.ask("/metrics"), seconds=120)
        node.schedule(manifest)
        conftest.wait_until(lambda: node.client.image_status(stored) is not None)
        mark = registry.mark()
        pod = node.client.run_pod(manifest)
        node.client.wait_for_output(pod, "read")
        assert registry.layer_gets(mark) == []
        before = mounts()
        assert sum(f" {node.folder}/lib/" in line and " - nfs4 " in line for line in before) == 1
        assert len(node.layers()) == 2
        conftest.note("a pod is served")

    # The DaemonSet's pod is gone, and the mount that it made is not: all of it is read from there.
    assert mounts() == before
    conftest.drop_caches()
    done = pod.output.count("read")
    conftest.wait_until(lambda: pod.output.count("read") >= done + 2)
    assert node.client.exit_code(pod.containers[0]) is None
    assert mounts() == before
    node.client.remove_pod(pod)
