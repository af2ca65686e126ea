"""A cache built with pull secrets: for its own namespaces only; others ask the registry."""

import grpc
import pytest

from tests.containerd import private_images
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

IMAGE, ALICE = private_images.IMAGE, private_images.ALICE
private = private_images.private
store = private_images.store


@pytest.fixture
def private_node(version, folder, private, store):
    node = conftest.Node(folder / "n", private, store, version=version)
    with conftest.running(node, private):
        yield node


@pytest.fixture
def open_node(folder, private, store):
    """A node of a cluster in which every pod may use every image."""
    environment = {"UIMGACC_REGISTER_PRIVATE": "true"}
    node = conftest.Node(folder / "n", private, store, agent_environment=environment)
    with conftest.running(node, private):
        yield node


def pod(node, name: str, namespace: str):
    manifest = node.manifest(name, IMAGE)
    manifest["metadata"]["namespace"] = namespace
    return manifest


def test_other_namespaces_go_through_the_registry_and_get_the_layers_from_the_store(
    private_node, private
) -> None:
    node = private_node
    node.schedule(pod(node, "theirs", "team-b"))
    conftest.wait_until(lambda: node.status("theirs").get("served"))
    assert node.status("theirs")["outcome"] == "forbidden"
    assert not node.has(IMAGE)
    with pytest.raises(grpc.RpcError, match=r"no basic auth credentials|401"):
        node.client.pull_image(node.reference(IMAGE), handler="uimgacc")
    mark = private.mark()
    node.client.pull_image(node.reference(IMAGE), handler="uimgacc", credentials=ALICE)

    assert node.has(IMAGE)
    assert [request.kind for request in private.requests(mark) if request.status == 200]
    assert private.layer_gets(mark) == []


def test_its_own_namespace_has_the_layers_here_before_the_pull(private_node, private) -> None:
    """The image is not present: a pod of any namespace could start it without the registry."""
    node = private_node
    node.schedule(pod(node, "served", "team-a"))
    conftest.wait_until(lambda: node.status("served").get("laid_out"))

    assert node.status("served")["outcome"] == "hit"
    assert not node.has(IMAGE)
    with pytest.raises(grpc.RpcError, match=r"no basic auth credentials|401"):
        node.client.pull_image(node.reference(IMAGE), handler="uimgacc")
    node.client.pull_image(node.reference("lab/pause:1"), handler="uimgacc", credentials=ALICE)
    mark = private.mark()
    manifest = pod(node, "running", "team-a")
    started = node.client.run_pod(manifest, credentials=ALICE)
    code, output = node.client.execute(started.containers[0], ("ls", "/"))
    assert (code, "layers" in output) == (0, True)
    requests = [each for each in private.requests(mark) if each.status == 200]
    own = [each for each in requests if each.repository == "lab/layers2"]
    assert [(each.method, each.kind) for each in own] == [("HEAD", "manifests")]
    conftest.wait_until(lambda: node.metric("uimgacc_pull_saved_bytes_total"))


def test_what_is_laid_out_goes_with_its_lease(private_node) -> None:
    node = private_node
    node.schedule(pod(node, "served", "team-a"))
    conftest.wait_until(lambda: node.status("served").get("laid_out"))
    held = node.containerd.ctr("snapshots", "--snapshotter", "uimgacc", "ls", namespace="k8s.io")
    (lease,) = node.containerd.ctr("leases", "ls", "-q", namespace="k8s.io").split()
    node.agent.end()
    node.containerd.ctr("leases", "rm", "--sync", lease, namespace="k8s.io")

    left = node.containerd.ctr("snapshots", "--snapshotter", "uimgacc", "ls", namespace="k8s.io")
    assert (len(held.splitlines()), len(left.splitlines())) == (3, 1)


def test_where_that_is_set_its_own_namespace_finds_it_present(open_node, private) -> None:
    node, mark = open_node, private.mark()
    node.schedule(pod(node, "served", "team-a"))
    conftest.wait_until(lambda: node.has(IMAGE))

    conftest.wait_until(lambda: node.status("served")["outcome"] == "hit")
    assert private.requests(mark) == []


def test_what_was_registered_before_is_present_no_longer(open_node) -> None:
    """As after an upgrade: an earlier version registered what only one namespace may use."""
    node = open_node
    node.schedule(pod(node, "served", "team-a"))
    conftest.wait_until(lambda: node.has(IMAGE))
    node.agent.end()
    node.agent.environment.pop("UIMGACC_REGISTER_PRIVATE")
    node.start_agent()

    conftest.wait_until(lambda: node.status("served").get("laid_out"))
    conftest.wait_until(lambda: not node.has(IMAGE))
