"""A node whose containerd serves the store by its own snapshotter: `node-setup --native`."""

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import grpc
import pytest

from agent.store.publish import writer
from lab import places
from lab.runtime import nodes
from lab.web import registries
from tests import named_containerd
from tests.containerd import conftest as containerds
from tests.containerd import private_images
from tests.kube import apis
from tests.kube import conftest as servers
from tests.node import conftest, test_retiring

CACHED = ("lab/layers2:1", "lab/layers40:1", "lab/zstd:1")
IMAGE = test_retiring.IMAGE

api_loop = servers.api_loop
api_access = servers.api_access
api = servers.api
private = private_images.private
private_store = private_images.plain_store


pytestmark = [
    pytest.mark.root,
    pytest.mark.containerd,
    named_containerd.needs_layer_caches,
]


class Node(conftest.Node):
    """A node without a snapshotter process."""

    @property
    def links(self) -> pathlib.Path:
        return self.folder / "links"

    def start_snapshotter(self) -> None:
        """Do nothing: containerd's own serves."""

    def start_agent(self) -> None:
        """Set the node up as a person does, then start the agent."""
        if "is set up already" not in self.set_up("--native"):
            self.restart_containerd()
        super().start_agent()

    def set_up(self, *flags: str) -> str:
        """Run `uimgacc node-setup`; its output."""
        done = subprocess.run(
            [
                *(nodes.COMMAND, "node-setup", "--config", self.containerd.config, *flags),
                *("--containerd-binary", self.containerd.binaries / "containerd"),
                *("--native-folder", self.links, "--address", self.socket, "--root", self.root),
            ],
            env={**os.environ, "PATH": f"{places.BIN}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restart_containerd(self) -> None:
        """With the configuration that node set-up has edited."""
        self.containerd.process.end()
        self.containerd.process.start()
        self.containerd.process.wait_for_socket(str(self.containerd.address))
        self.containerd.cri().close()

    def targets(self) -> set[str]:
        """The files that links lead to."""
        return {os.readlink(link) for link in self.links.glob("*/*/*.erofs")}


def make_native(node: Node) -> Node:
    """Have a node's containerd know nothing of uimgacc, and its agent use what containerd has."""
    node.containerd.proxies.clear()
    node.containerd.names_images = False
    flags = ("--native", "true", "--native-folder", str(node.links))
    node.agent.command = [*node.agent.command, *flags]
    return node


@pytest.fixture(scope="session")
def plain_store(session: pathlib.Path, registry) -> pathlib.Path:
    """A store whose layers are not compressed."""
    root = session / "plain-store"
    root.mkdir()
    writer.create(root, compression="none")
    containerds.build(root, registry, CACHED)
    return root


@pytest.fixture
def native(folder: pathlib.Path, registry, plain_store) -> Iterator[Node]:
    node = make_native(Node(folder / "n", registry, plain_store))
    with conftest.running(node, registry) as node:
        yield node


def test_pods_start_with_the_registry_switched_off(native, offline) -> None:
    native.warm_up()
    offline()
    manifests = [native.manifest(f"pod{n}", f"lab/layers{n}:1") for n in (2, 40)]
    for manifest in manifests:
        native.schedule(manifest)
    conftest.wait_until(lambda: all(map(native.has, CACHED[:2])))

    for manifest in manifests:
        assert "layers" in native.run(manifest, "ls", "/")
    assert native.status("pod40")["outcome"] == "hit"
    assert native.metric("uimgacc_pull_saved_bytes_total") > 0
    assert native.metric("uimgacc_node_capable") == 1
    # It survives what nodes go through.
    native.containerd.ctr("content", "prune", "references", namespace="k8s.io")
    native.restart_containerd()
    native.connect()
    conftest.wait_until(native.is_ready)
    assert "layers" in native.run(native.manifest("later", CACHED[1]), "ls", "/")


def test_containerd_itself_mounts_an_image_volume_or_says_why_not(native) -> None:
    """Until some time in 2026 it does not (containerd issue 13534), whoever has unpacked it."""
    manifest = native.manifest("pod", "lab/zstd:1", volumes=["lab/layers40:1"])
    native.schedule(manifest)
    conftest.wait_until(lambda: native.has("lab/layers40:1") and native.has("lab/zstd:1"))

    try:
        said = native.run(manifest, "ls", "/volumes/0")
    except grpc.RpcError as error:
        said = error.details()
    assert re.search(r"^layers$|ImageVolumeMountFailed", said, re.MULTILINE)


def test_a_pod_in_a_user_namespace_is_served(folder, registry, plain_store) -> None:
    # A container's root comes through it: it is nobody there.
    folder.chmod(0o711)
    made = make_native(Node(folder / "n", registry, plain_store))
    made.containerd.newer_runc = True
    with conftest.running(made, registry) as node:
        manifest = node.manifest("pod", IMAGE)
        manifest["spec"]["hostUsers"] = False
        node.schedule(manifest)
        conftest.wait_until(lambda: node.has(IMAGE))

        owner = node.run(manifest, "sh", "-c", "id -u; stat -c %u:%g /layers")
        assert owner.split() == ["0", "0:0"]


def test_a_pull_that_the_agent_has_not_prepared_finds_no_layer_and_is_unpacked(native) -> None:
    """Also by a person who knows its diff IDs."""
    mark = native.registry.mark()
    native.client.pull_image(native.reference(IMAGE), handler="uimgacc")
    wanted = registries.catalogue()[IMAGE]["layers"]
    assert len(native.registry.layer_gets(mark)) == len(wanted)

    assert "layers" in native.run(native.manifest("pod", IMAGE), "ls", "/")
    assert native.targets() == set()


def test_a_pull_of_what_is_here_fetches_no_layer(native) -> None:
    native.schedule(native.manifest("pod", "lab/layers40:1"))
    conftest.wait_until(lambda: native.has("lab/layers40:1"))
    mark = native.registry.mark()
    native.client.pull_image(native.reference("lab/layers40:1"), handler="uimgacc")

    assert native.registry.layer_gets(mark) == []


def test_a_private_image_is_left_to_a_pull_that_downloads_nothing(
    folder, private, private_store
) -> None:
    made = make_native(Node(folder / "n", private, private_store))
    with conftest.running(made, private) as node:
        manifest = node.manifest("served", IMAGE)
        manifest["metadata"]["namespace"] = "team-a"
        node.schedule(manifest)
        conftest.wait_until(lambda: node.status("served").get("laid_out"))
        assert not node.has(IMAGE)
        with pytest.raises(grpc.RpcError, match=r"no basic auth credentials|401"):
            node.client.pull_image(node.reference(IMAGE), handler="uimgacc")
        mark = private.mark()
        node.client.pull_image(
            node.reference(IMAGE), handler="uimgacc", credentials=private_images.ALICE
        )

        assert private.layer_gets(mark) == []


class Member(Node, test_retiring.Member):
    """Such a node in a cluster."""


def test_a_deletion_waits_for_what_runs_and_then_leaves_no_link(
    folder, registry, plain_store, api: apis.Api
) -> None:
    copied = test_retiring.copied(plain_store, folder / "store")
    made = make_native(Member(folder / "n", registry, copied, api))
    with conftest.running(made, registry) as member:
        member.split()
        member.warm_up()
        test_retiring.register(member, api)
        assert member.targets()
        with member.client.pod(member.manifest("runner", IMAGE)) as pod:
            gone = member.delete()
            conftest.wait_until(lambda: member.held, seconds=60)
            for _ in range(8):
                assert member.are_there(gone)
            code, output = member.client.execute(pod.containers[0], ["ls", "/"])
            assert (code, "layers" in output) == (0, True)
        conftest.wait_until(lambda: not member.are_there(gone), seconds=90)

        assert not member.has(IMAGE)
        assert not member.targets() & {str(member.store.layer(each)) for each in gone}


def test_a_store_with_compressed_layers_is_refused(folder, registry, pristine) -> None:
    """containerd could not start containers on such: tests/containerd/test_stock.py."""
    with conftest.running(make_native(Node(folder / "n", registry, pristine)), registry) as node:
        node.schedule(node.manifest("pod", IMAGE))
        conftest.wait_until(lambda: node.status("pod").get("served"))

        assert node.metric("uimgacc_node_capable") == 0
        assert "pull request 14077" in node.get("/status")


def test_undoing_it_restores_the_configuration_and_leaves_no_image(native) -> None:
    native.schedule(native.manifest("pod", IMAGE))
    conftest.wait_until(lambda: native.has(IMAGE))
    native.agent.end()
    shutil.rmtree(native.folder / "agent", ignore_errors=True)
    native.set_up("--undo", "--leave", "--clear", "--state", str(native.folder / "agent"))

    assert not native.has(IMAGE)
    assert not native.links.exists()
    assert native.containerd.config.read_text() == native.containerd.configuration()
