"""Images as volumes of pods (`volumes[].image`): served from the store like those of containers."""

import uuid

import pytest

from lab import places
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

LAYERS = "ls /volumes/0/layers | wc -l"


@pytest.fixture(params=[version for version in places.CONTAINERDS if version != "1.7"])
def version(request: pytest.FixtureRequest) -> str:
    """The containerds that mount image volumes: 2.1 and newer."""
    return str(request.param)


def with_volumes(node, name: str, *images: str, image: str = "lab/layers2:1", **more):
    """A pod that has images of the lab as volumes, at /volumes/0 and so on."""
    manifest = node.manifest(name, image, **more)
    manifest["spec"]["volumes"] = [
        {"name": f"v{number}", "image": {"reference": node.reference(each)}}
        for number, each in enumerate(images)
    ]
    manifest["spec"]["containers"][0]["volumeMounts"] = [
        {"name": f"v{number}", "mountPath": f"/volumes/{number}"} for number in range(len(images))
    ]
    return manifest


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


@pytest.mark.parametrize("number", [2, 40, 127])
def test_a_volume_starts_with_the_registry_switched_off(node, offline, number: int) -> None:
    node.warm_up()
    manifest = with_volumes(node, "pod", f"lab/layers{number}:1", image="lab/odd:1")
    served(node, manifest)
    assert node.status("pod")["outcome"] == "hit"
    (event,) = [line for line in node.events() if line["message"] == "event"]
    assert event["reason"] == "ImageCacheHit"
    offline()

    with node.client.pod(manifest) as pod:
        assert pod.pulled == []
        found = shell(node, pod, LAYERS)
        assert "Read-only" in shell(node, pod, "touch /volumes/0/new 2>&1; true")
    with node.client.pod(again(manifest, "plain")) as pod:
        assert shell(node, pod, LAYERS) == found


def test_the_same_image_as_container_and_as_volume(node, offline) -> None:
    node.warm_up()
    manifest = with_volumes(node, "pod", "lab/layers40:1", image="lab/layers40:1")
    served(node, manifest)
    offline()

    with node.client.pod(manifest) as pod:
        assert shell(node, pod, LAYERS) == shell(node, pod, "ls /layers | wc -l")


def test_an_image_that_was_registered_for_a_container_becomes_a_volume(node, offline) -> None:
    """Then containerd finds one snapshot, of all its layers, and wants one of each."""
    node.warm_up()
    first = node.manifest("first", "lab/layers40:1")
    served(node, first)
    manifest = with_volumes(node, "second", "lab/layers40:1", image="lab/layers40:1")
    served(node, manifest)
    offline()
    node.containerd.ctr("content", "prune", "references", namespace="k8s.io")

    with node.client.pod(manifest) as pod:
        assert int(shell(node, pod, LAYERS)) > 0


def test_a_volume_of_one_pod_outlives_the_image(node) -> None:
    """Also in containers that start later in the same pod."""
    manifest = with_volumes(node, "pod", "lab/layers40:1")
    served(node, manifest)
    with node.client.pod(manifest) as pod:
        found = shell(node, pod, LAYERS)
        node.client.remove_image(node.reference("lab/layers40:1"))
        node.containerd.ctr("content", "prune", "references", namespace="k8s.io")

        assert shell(node, pod, LAYERS) == found
