"""Artifacts and native layers of a real registry on containerds that do not take them."""

import contextlib
import json
import shutil
import subprocess

import grpc
import pytest
import zstandard

from agent.model import images
from agent.store import layout
from agent.store.lookup import direct_reader
from lab import places, services
from lab.runtime import containerds as programs
from lab.samples import images as lab_images
from lab.samples import pushing, tars
from tests import artifacts
from tests.containerd import conftest as containerds
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

NAME, NATIVE = "team/model:1", "team/native:1"
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


@pytest.fixture(scope="module")
def native(registry, session) -> str:
    """The digest of an image whose layers are EROFS images, once it is in the registry."""
    image = session / "native.erofs"
    command = ["mkfs.erofs", "--tar=f", "--aufs", "--quiet", "-Enoinline_data", image]
    tar = tars.archive(lab_images.busybox())
    subprocess.run(command, input=tar, check=True, stdout=subprocess.DEVNULL)
    data = image.read_bytes()
    small = zstandard.compress(data)
    more = tars.archive([tars.file("more", b"of a tar\n")])
    config = json.dumps(
        {
            "os": "linux",
            "os.features": ["erofs"],
            "architecture": programs.architecture(),
            "config": {"Cmd": ["/bin/sh"], "Env": [pushing.PATH]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [artifacts.digest(data), artifacts.digest(more)],
            },
        }
    ).encode()
    layers = [
        artifacts.Layer(small, "application/vnd.erofs.layer.v1+zstd"),
        artifacts.Layer(more, pushing.LAYER_TYPES["plain"]),
    ]
    kind = f"{pushing.OCI}.config.v1+json"
    document = artifacts.manifest(layers, kind="", config=(kind, config))
    with contextlib.closing(pushing.Pusher(registry.address)) as pusher:
        for blob in (small, more, config):
            pusher.blob("team/native", artifacts.digest(blob), blob)
        return pusher.manifest("team/native", "1", document)[0]


@pytest.mark.parametrize("version", places.CONTAINERDS, indirect=True)
def test_native_layers_on_a_containerd_that_does_not_know_them(
    version, folder, registry, native, tmp_path
) -> None:
    """As the image of a container and as a volume, which containerd unpacks once more."""
    store = tmp_path / "store"
    store.mkdir()
    containerds.writer.create(store)
    containerds.build(store, registry, [NATIVE])
    made = conftest.Node(folder / "n", registry, store, version=version)
    with conftest.running(made, registry) as node:
        node.warm_up()
        pod = node.manifest("pod", NATIVE)
        script, expected = "cat /more; test -x /bin/busybox", "of a tar\n"
        if version != "1.7":
            pod = manifest(node, node.reference(f"team/native@{native}"), image=NATIVE)
            script += "; cat /model/more; cmp /bin/busybox /model/bin/busybox"
            expected *= 2
        mark = node.registry.mark()
        node.schedule(pod)
        conftest.wait_until(lambda: node.has(NATIVE) and node.has(f"team/native@{native}"))

        assert node.run(pod, "sh", "-c", script) == expected
        assert node.registry.layer_gets(mark) == []


def manifest(node, reference: str, *, image: str = "lab/layers2:1"):
    pod = node.manifest("pod", image)
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
