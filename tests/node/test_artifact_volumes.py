"""Artifacts of a real registry as image volumes of pods, on a containerd that refuses them."""

import contextlib
import shutil

import grpc
import pytest

from agent.model import images
from agent.store import layout
from agent.store.lookup import direct_reader
from lab import places, pushing, services, tars
from tests import artifacts
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

NAME = "team/model:1"
WEIGHTS = bytes(range(256)) * 8192
FOLDER = [
    tars.folder("prompts"),
    tars.file("prompts/system.txt", b"You are"),
    tars.symlink("prompts/default.txt", "system.txt"),
]
LAYERS = [
    artifacts.weights("weights/model.safetensors", WEIGHTS, mode=0o640),
    artifacts.packed("config.json", [tars.file("config.json", b"{}\n")], "gzip"),
    artifacts.folder("prompts", FOLDER),
]


@pytest.fixture(params=[version for version in places.CONTAINERDS if version != "1.7"])
def version(request: pytest.FixtureRequest) -> str:
    """The containerds that mount image volumes: 2.1 and newer."""
    return str(request.param)


@pytest.fixture(scope="module")
def registry(session):
    """The lab's images, in a registry that can be written to."""
    storage = session / "artifacts"
    shutil.copytree(places.STORAGE, storage)
    (session / "r").mkdir()
    with services.Registry(session / "r", storage=storage) as running:
        yield running


@pytest.fixture(scope="module")
def digest(registry) -> str:
    """The digest of the artifact's manifest, once it is in the registry."""
    document = artifacts.manifest(LAYERS)
    with contextlib.closing(pushing.Pusher(registry.address)) as pusher:
        for layer in LAYERS:
            pusher.blob("team/model", artifacts.digest(layer.data), layer.data)
        config = b'{"descriptor":{}}'
        pusher.blob("team/model", artifacts.digest(config), config)
        return pusher.manifest("team/model", "1", document)[0]


@pytest.fixture
def node(version, folder, registry, digest, tmp_path):
    """A node on a store with the artifact and the image of the pod's container."""
    store = tmp_path / "store"
    store.mkdir()
    containerds.writer.create(store)
    containerds.build(store, registry, [NAME, "lab/layers2:1"])
    made = conftest.Node(folder / "n", registry, store, version=version)
    with conftest.running(made, registry) as running:
        running.stored = store
        yield running


def manifest(node, reference: str):
    pod = node.manifest("pod", "lab/layers2:1")
    pod["spec"]["volumes"] = [{"name": "model", "image": {"reference": reference}}]
    (container,) = pod["spec"]["containers"]
    container["volumeMounts"] = [{"name": "model", "mountPath": "/model"}]
    return pod


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_model_is_a_volume_without_a_byte_from_its_registry(node, digest, by: str) -> None:
    node.warm_up()
    name = NAME if by == "tag" else f"team/model@{digest}"
    pod = manifest(node, node.reference(name))
    mark = node.registry.mark()
    node.schedule(pod)
    conftest.wait_until(lambda: node.has(name) and node.has("lab/layers2:1"))

    listing = "ls -ln /model/weights; cat /model/config.json /model/prompts/default.txt"
    output = node.run(pod, "sh", "-c", f"{listing}; sha256sum /model/weights/*")

    assert "-rw-r-----" in output
    assert "{}\nYou are" in output
    assert artifacts.digest(WEIGHTS).removeprefix("sha256:") in output
    assert node.registry.layer_gets(mark) == []
    status = node.client.image_status(node.reference(name))
    assert list(status.repo_digests) == [node.reference(f"team/model@{digest}")]


def test_containerd_refuses_to_pull_it(node) -> None:
    """Why it is registered before the kubelet asks; a pull with policy Always ends like this."""
    with pytest.raises(grpc.RpcError):
        node.client.pull_image(node.reference(NAME), handler="uimgacc")


def test_the_record_says_what_the_image_was_made_of(node, digest) -> None:
    reader = direct_reader.Reader(layout.Layout(node.stored))
    image = reader.image(images.parse_reference(node.reference(NAME)))

    assert image is not None
    assert image.target == digest
    assert [made.artifact.manifest for made in image.platforms] == [digest]
