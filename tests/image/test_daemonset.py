"""The manifests' own pods, from our image, on a real containerd: install, upgrade, uninstall."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from agent.setup.config import journal
from agent.store.publish import writer
from lab import places, services
from lab.runtime import cri
from tests.containerd import cold
from tests.containerd import conftest as stores
from tests.image import nodes
from tests.manifests import rendering

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(900)]

STORED = "lab/layers2:1"
AUTO = {"uimgacc.io/image-cache": "auto"}
SLEEP = ("/bin/sleep", "600")
OVERLAYS = rendering.MANIFESTS / "overlays"
UNINSTALL = rendering.MANIFESTS / "uninstall"


@pytest.fixture(scope="session")
def store(session: pathlib.Path, registry: services.Registry) -> pathlib.Path:
    """A store by the real builder, with one image in it."""
    root = session / "store"
    root.mkdir()
    writer.create(root)
    stores.build(root, registry, [STORED])
    return root


@pytest.fixture(params=os.environ.get("UIMGACC_CONTAINERDS", places.NEWEST).split(","))
def node(
    request: pytest.FixtureRequest,
    session: pathlib.Path,
    registry: services.Registry,
    archive: pathlib.Path,
    store: pathlib.Path,
) -> Iterator[nodes.Node]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="n", dir=session))
    version = request.param
    with nodes.shared(folder), nodes.Node(folder, registry, archive, version=version) as made:
        nodes.bind(store, folder / "lib" / "store")
        yield made


def test_install_serve_upgrade_and_uninstall(
    node: nodes.Node, registry: services.Registry, store: pathlib.Path
) -> None:
    """One node's life. In steps, because each needs what came before it."""
    before = node.containerd.config.read_bytes()
    documents = node.documents(OVERLAYS / "runtimeclass")
    image = f"{registry.address}/{STORED}"
    served = cri.manifest("served", image, command=SLEEP, annotations=AUTO, handler="uimgacc")

    with contextlib.ExitStack() as while_read:
        # Installed: containerd is restarted once, and the image is there before its pod starts.
        with node.running(documents, "uimgacc-node"):
            assert node.restarts == 1
            nodes.wait_until(lambda: node.ask("/readyz"))
            node.schedule(served)
            nodes.wait_until(lambda: node.client.image_status(image))
            pod = node.client.run_pod(served)
            assert pod.pulled == []
            layers = node.layers()
            assert len(layers) == 2, "what the snapshotter's container mounts is not on the host"
            reader = cold.Reader(node.pid(pod), store, folders=("/bin", "/etc", "/usr"))
            while_read.enter_context(reader)

        # From here to after the upgrade no read fails, and none finds anything else: while a
        # pod of the DaemonSet ends, between two of them, and while the next one starts.
        reader.wait_for_round()
        assert node.layers() == layers
        with node.running(documents, "uimgacc-node") as new:
            assert node.restarts == 1, "nothing had changed"
            nodes.wait_until(lambda: node.ask("/readyz"))
            below = f"{node.folder}/c"
            assert node.copied(new, 1, below) == [], "it holds the mounts of containers that end"
            reader.wait_for_round()
            assert node.layers() == layers

    # Uninstalled: not under a container that needs it, and then without a trace.
    uninstall = node.documents(UNINSTALL)
    with node.running(uninstall, "uimgacc-uninstall") as refused:
        assert node.client.wait_for_exit(refused) == [1]
        assert "default/served" in refused.output
    assert node.containerd.config.read_bytes() != before
    node.client.remove_pod(pod)
    with node.running(uninstall, "uimgacc-uninstall") as leaving:
        nodes.wait_until(lambda: node.succeeds(leaving, "test", "-f", "/tmp/done"))
    # Once more, as after a reboot: there is nothing left to do.
    with node.running(uninstall, "uimgacc-uninstall") as again:
        nodes.wait_until(lambda: node.succeeds(again, "test", "-f", "/tmp/done"))
    assert node.restarts == 2
    assert node.containerd.config.read_bytes() == before
    left = {path.name for path in node.containerd.config.parent.iterdir()}
    assert not left & {"conf.d", journal.FOLDER}
    assert node.layers() == []
    assert not (node.folder / "snap").exists(), leaving.output
    assert not (node.folder / "lib" / "agent").exists()
    # What the administrator has mounted is not ours.
    assert (node.folder / "lib" / "store" / "store.json").exists()
    assert node.client.image_status(image) is None
    with node.client.pod(cri.manifest("ordinary", image, command=SLEEP)) as ordinary:
        assert ordinary.pulled == [image]


def test_with_everything_through_us_the_snapshotter_s_pod_starts_without_it(
    node: nodes.Node, registry: services.Registry
) -> None:
    before = node.containerd.config.read_bytes()
    documents = node.documents(OVERLAYS / "default-snapshotter")
    image = f"{registry.address}/{STORED}"

    def ordinary() -> dict[str, Any]:
        return cri.manifest("ordinary", image, command=SLEEP)

    with node.running(documents, "uimgacc-setup") as setup:
        nodes.wait_until(lambda: node.restarts == 1)
        # The set-up's own container goes on over the restart that it has asked for.
        (container,) = setup.containers
        nodes.wait_until(lambda: "without-uimgacc" in container.output())
        assert node.client.exit_code(container) is None
        with pytest.raises(grpc.RpcError, match="snapshotter"):
            node.client.run_pod(ordinary())

        with node.running(documents, "uimgacc-node"):
            nodes.wait_until(lambda: node.ask("/readyz"))
            pod = node.started(ordinary)
            assert node.layers(), "the pod is not served from the store"
            assert node.succeeds(pod, "/bin/true")
            node.client.remove_pod(pod)

    # And again after the node was restarted: still without the snapshotter.
    node.containerd.restart()
    with node.running(documents, "uimgacc-node"):
        nodes.wait_until(lambda: node.ask("/readyz"))
        pod = node.started(ordinary)
        assert node.succeeds(pod, "/bin/true")
        uninstall = node.documents(UNINSTALL)
        with node.running(uninstall, "uimgacc-uninstall") as refused:
            assert node.client.wait_for_exit(refused) == [1]
            assert "containerd's default snapshotter: go back from that first" in refused.output
            assert "default/ordinary" in refused.output

        # The way back, as docs/install/uninstall.md has it: the same overlay, with one setting.
        (settings,) = rendering.of_kind(documents, "ConfigMap")
        settings["data"]["UIMGACC_DEFAULT_SNAPSHOTTER"] = "false"
        with node.running(documents, "uimgacc-setup") as setup:
            nodes.wait_until(lambda: node.succeeds(setup, "test", "-f", "/tmp/done"))
        assert node.restarts == 2
    with node.running(documents, "uimgacc-node"):
        nodes.wait_until(lambda: node.ask("/readyz"))
        # What runs goes on. What comes anew needs us no more, though its image was only ours.
        assert node.succeeds(pod, "/bin/true")
        node.client.remove_pod(pod)
        drained = cri.manifest("drained", image, command=SLEEP)
        node.schedule(drained)
        pod = node.started(lambda: drained)
        assert pod.pulled == [image]

    # The other overlay's pod is of the default class: it starts.
    with node.running(node.documents(OVERLAYS / "runtimeclass"), "uimgacc-node"):
        nodes.wait_until(lambda: node.ask("/readyz"))
    with node.running(uninstall, "uimgacc-uninstall") as leaving:
        nodes.wait_until(lambda: node.succeeds(leaving, "test", "-f", "/tmp/done"))
    assert node.succeeds(pod, "/bin/true")
    node.client.remove_pod(pod)
    assert node.containerd.config.read_bytes() == before
    assert not (node.folder / "snap").exists()
