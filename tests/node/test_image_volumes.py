"""Images as volumes of pods (`volumes[].image`): served from the store like those of containers."""

import datetime
import uuid

import grpc
import pytest

from agent.clients.containerd import rpc
from agent.local import layer_survey
from agent.model import digests, times
from agent.mounts import syscalls
from agent.node.images import containerd_images, image_removal
from agent.roles import builder
from agent.store.publish import writer
from lab import places, services
from lab.samples import images as lab_images
from lab.samples import pushing, tars
from lab.web import registries
from tests.containerd import conftest as containerds
from tests.containerd import private_images
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

private = private_images.private
private_store = private_images.store

LAYERS = "ls /volumes/0/layers | wc -l"


@pytest.fixture(params=[version for version in places.CONTAINERDS if version != "1.7"])
def version(request: pytest.FixtureRequest) -> str:
    """The containerds that mount image volumes: 2.1 and newer."""
    return str(request.param)


def again(manifest, name: str):
    """The same pod under another name."""
    metadata = {**manifest["metadata"], "name": name, "uid": str(uuid.uuid4())}
    return {**manifest, "metadata": metadata}


def served(node, manifest) -> None:
    """Have the agent serve a pod; return when it has."""
    node.schedule(manifest)
    conftest.wait_until(lambda: node.status(manifest["metadata"]["name"]).get("registered"))


def shell(node, pod, script: str) -> str:
    code, output = node.client.execute(pod.containers[0], ("sh", "-c", script))
    assert code == 0, output
    return str(output)


def users(node, image: str) -> int:
    """How many containers and volumes use the top layer of an image of the lab."""
    mounted, _ = layer_survey.survey(str(node.root))
    top = digests.hex_of(registries.catalogue()[image]["diff_ids"][-1])
    return next(len(places) for name, _, _, _, places, _ in mounted if name == top)


@pytest.mark.parametrize("number", [2, 40])
def test_a_volume_starts_with_the_registry_switched_off(node, offline, number: int) -> None:
    node.warm_up()
    manifest = node.manifest("pod", "lab/odd:1", volumes=[f"lab/layers{number}:1"])
    served(node, manifest)
    assert node.status("pod")["outcome"] == "hit"
    (event,) = [line for line in node.events() if line["message"] == "event"]
    assert event["reason"] == "ImageCacheHit"
    offline()

    with node.client.pod(manifest) as pod:
        assert pod.pulled == []
        found = shell(node, pod, LAYERS)
        assert "Read-only" in shell(node, pod, "touch /volumes/0/new 2>&1; true")
        assert users(node, f"lab/layers{number}:1") == 1
    with node.client.pod(again(manifest, "plain")) as pod:
        assert shell(node, pod, LAYERS) == found


def test_127_layers_below_a_long_path(version, folder, registry, pristine) -> None:
    """As a container, as a volume, and as a read-only view: overlay's options exceed a page."""
    root = folder / "n/var/lib/rancher/k3s/agent/containerd/io.containerd.snapshotter.v1.uimgacc"
    made = conftest.Node(folder / "n", registry, pristine, version=version, root=root)
    image = "lab/layers127:1"
    with conftest.running(made, registry) as node:
        manifest = node.manifest("pod", image, volumes=[image])
        served(node, manifest)
        view = folder / "view"
        view.mkdir()
        with node.client.pod(manifest) as pod:
            found = shell(node, pod, "ls /layers | wc -l")
            assert shell(node, pod, LAYERS) == found
        mount = ("images", "mount", "--snapshotter", "uimgacc", node.reference(image), view)
        node.containerd.ctr(*mount, namespace="k8s.io")
        assert len(list((view / "layers").iterdir())) == int(found)
        with pytest.raises(OSError, match="Read-only"):
            (view / "new").touch()
        syscalls.unmount(str(view))


def test_the_same_image_as_container_and_as_volume(node, offline) -> None:
    node.warm_up()
    manifest = node.manifest("pod", "lab/layers40:1", volumes=["lab/layers40:1"])
    served(node, manifest)
    offline()

    with node.client.pod(manifest) as pod:
        assert shell(node, pod, LAYERS) == shell(node, pod, "ls /layers | wc -l")


def test_an_image_that_was_registered_for_a_container_becomes_a_volume(node, offline) -> None:
    """Then containerd finds one snapshot, of all its layers, and wants one of each."""
    node.warm_up()
    first = node.manifest("first", "lab/layers40:1")
    served(node, first)
    manifest = node.manifest("second", "lab/layers40:1", volumes=["lab/layers40:1"])
    served(node, manifest)
    offline()
    node.containerd.ctr("content", "prune", "references", namespace="k8s.io")

    with node.client.pod(manifest) as pod:
        assert int(shell(node, pod, LAYERS)) > 0


def test_a_warm_image_is_a_volume_without_the_agent(
    version, folder, registry, pristine, offline
) -> None:
    """Nothing waits for it while its layers are laid out, so they always are."""
    image = "lab/layers127:1"
    settings = {"UIMGACC_WARM": f"{registry.address}/{image}", "UIMGACC_WARM_SPREAD": "0"}
    made = conftest.Node(
        folder / "n", registry, pristine, version=version, agent_environment=settings
    )
    with conftest.running(made, registry) as node:
        node.warm_up()
        conftest.wait_until(lambda: node.has(image))
        node.agent.end()
        offline()
        manifest = node.manifest("pod", "lab/pause:1", volumes=[image])
        with node.client.pod(manifest) as pod:
            assert pod.pulled == []
            assert int(shell(node, pod, LAYERS)) > 100


def test_a_volume_of_one_pod_outlives_the_image(node) -> None:
    """The lease of its sandbox keeps the snapshot, and with it all layers."""
    manifest = node.manifest("pod", "lab/layers2:1", volumes=["lab/layers40:1"])
    served(node, manifest)
    with node.client.pod(manifest) as pod:
        found = shell(node, pod, LAYERS)
        node.client.remove_image(node.reference("lab/layers40:1"))
        node.containerd.ctr("content", "prune", "references", namespace="k8s.io")

        assert shell(node, pod, LAYERS) == found


def test_a_folder_of_a_volume(node) -> None:
    """containerd knows subPath from 2.2 on; before, it mounts the whole image."""
    manifest = node.manifest("pod", "lab/layers2:1", volumes=["lab/layers40:1"])
    manifest["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "layers"
    served(node, manifest)

    with node.client.pod(manifest) as pod:
        whole = "layers" in shell(node, pod, "ls /volumes/0").split()
        assert whole == (node.containerd.version == "2")


def test_a_private_volume_is_left_to_the_registry_and_downloads_nothing(
    version, folder, private, private_store
) -> None:
    made = conftest.Node(folder / "n", private, private_store, version=version)
    with conftest.running(made, private) as node:
        node.client.pull_image(
            node.reference("lab/pause:1"), handler="uimgacc", credentials=private_images.ALICE
        )
        manifest = node.manifest("pod", "lab/pause:1", volumes=[private_images.IMAGE])
        manifest["metadata"]["namespace"] = "team-a"
        node.schedule(manifest)
        conftest.wait_until(lambda: node.status("pod").get("laid_out"))
        with pytest.raises(grpc.RpcError, match=r"no basic auth credentials|401"):
            node.client.run_pod(again(manifest, "without"))
        mark = private.mark()
        pod = node.client.run_pod(again(manifest, "with"), credentials=private_images.ALICE)

        assert pod.pulled == [node.reference(private_images.IMAGE)]
        assert private.layer_gets(mark) == []
        assert int(shell(node, pod, LAYERS)) > 0
        node.client.remove_pod(pod)


BASE = [pushing.layer([tars.folder("layers"), tars.file(f"layers/{name}", b"x")]) for name in "ab"]
MODEL = [*BASE, pushing.layer([tars.file("layers/c", b"x" * 99)])]


@pytest.fixture
def families(folder):
    """A registry with an image that ends in the middle of another one."""
    with services.Registry(folder / "registry", storage=folder / "storage") as running:
        pusher = pushing.Pusher(running.address)
        pusher.image("base", "1", BASE)
        pusher.image("model", "1", MODEL)
        lab_images.pause(pusher, pushing.layer(lab_images.busybox()))
        pusher.close()
        yield running


@pytest.mark.parametrize("stored", [("base:1", "model:1"), ("base:1",)])
def test_a_volume_whose_lower_layers_are_an_image_of_their_own(
    version, folder, families, stored
) -> None:
    """That image is one snapshot, so that nothing keeps snapshots of the layers below its top."""
    store = folder / "store"
    store.mkdir()
    writer.create(store)
    containerds.build(store, families, stored)
    made = conftest.Node(folder / "n", families, store, version=version)
    with conftest.running(made, families) as node:
        node.warm_up()
        served(node, node.manifest("base", "base:1"))
        manifest = node.manifest("pod", "lab/pause:1", volumes=["model:1"])
        for name in ("first", "second"):
            node.schedule(again(manifest, name))
            conftest.wait_until(lambda name=name: node.status(name).get("served"))
            with node.client.pod(again(manifest, name)) as pod:
                assert shell(node, pod, "ls /volumes/0/layers").split() == ["a", "b", "c"]
            node.containerd.ctr("content", "prune", "references", namespace="k8s.io")


async def test_a_draining_node_keeps_the_image_of_a_volume_in_use(node2) -> None:
    node, image = node2, "lab/layers40:1"
    manifest = node.manifest("pod", "lab/layers2:1", volumes=[image])
    served(node, manifest)
    later = datetime.timedelta(minutes=10)
    async with rpc.Client(str(node.containerd.address)) as client:
        platform = builder.own_platform()
        containerd = containerd_images.of(client, platform, snapshotter="uimgacc")
        drainer = image_removal.Drainer(containerd, clock=lambda: times.now() + later)
        with node.client.pod(manifest):
            await drainer.release()
            assert node.has(image)
        await drainer.release()
        assert not node.has(image)
