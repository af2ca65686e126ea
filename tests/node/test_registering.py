"""A pod's images are present before the kubelet asks, and nothing is downloaded."""

import json
import pathlib
import shutil

import pytest
import yaml

from agent.store import layout
from lab.web import registries
from tests.manifests import rendering
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_a_pod_starts_with_the_registry_switched_off(node, offline) -> None:
    node.warm_up()
    offline()
    manifests = [node.manifest(f"pod{n}", f"lab/layers{n}:1") for n in (2, 40)]
    for manifest in manifests:
        node.schedule(manifest)
    conftest.wait_until(lambda: node.has("lab/layers2:1") and node.has("lab/layers40:1"))

    for manifest in manifests:
        assert "layers" in node.run(manifest, "ls", "/")


@pytest.mark.parametrize("name", ["daemonset", "static-pod"])
def test_the_examples_of_pods_that_nothing_moves_start_without_a_pull(
    node, offline, name: str
) -> None:
    """Their own metadata and class; the image and its command are the lab's."""
    example = yaml.safe_load((rendering.MANIFESTS / "examples" / f"{name}.yaml").read_text())
    template = example["spec"]["template"] if name == "daemonset" else example
    annotations, handler = template["metadata"]["annotations"], template["spec"]["runtimeClassName"]
    manifest = node.manifest(name, "lab/layers2:1", annotations=annotations, handler=handler)
    node.warm_up()
    offline()
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has("lab/layers2:1"))

    assert "layers" in node.run(manifest, "ls", "/")


def test_the_kubelet_sees_tag_digest_and_size(node) -> None:
    node.schedule(node.manifest("pod", "lab/layers2:1"))
    name = node.reference("lab/layers2:1")
    # containerd shows its names one after the other, the tag first.
    conftest.wait_until(
        lambda: node.has("lab/layers2:1") and node.client.image_status(name).repo_digests
    )
    record = registries.catalogue()["lab/layers2:1"]
    status = node.client.image_status(name)

    assert list(status.repo_tags) == [name]
    assert list(status.repo_digests) == [
        f"{node.registry.address}/lab/layers2@{record['manifest']}"
    ]
    assert status.id == record["config"]
    assert status.size >= record["compressed"]
    by_digest = node.client.image_status(status.repo_digests[0])
    assert by_digest.id == status.id


def test_an_image_with_an_index_is_registered_for_this_platform(node) -> None:
    node.schedule(node.manifest("pod", "lab/odd:1"))
    conftest.wait_until(lambda: node.has("lab/odd:1"))

    assert node.run(node.manifest("run", "lab/odd:1"), "echo", "runs") == "runs\n"


def test_it_survives_garbage_collection_and_a_restart_of_containerd(node, offline) -> None:
    node.warm_up()
    manifest = node.manifest("pod", "lab/layers2:1")
    node.schedule(manifest)
    conftest.wait_until(lambda: node.has("lab/layers2:1"))
    node.containerd.ctr("content", "prune", "references", namespace="k8s.io")
    offline()
    node.containerd.restart()
    node.connect()
    conftest.wait_until(node.is_ready)

    assert "layers" in node.run(manifest, "ls", "/")


def test_a_pull_with_policy_always_fetches_no_layer(node) -> None:
    node.schedule(node.manifest("pod", "lab/layers40:1"))
    conftest.wait_until(lambda: node.has("lab/layers40:1"))
    mark = node.registry.mark()
    node.client.pull_image(node.reference("lab/layers40:1"), handler="uimgacc")

    assert node.registry.layer_gets(mark) == []


def test_a_pod_of_another_runtime_is_not_registered(node2) -> None:
    node2.schedule(node2.manifest("pod", "lab/layers2:1", handler=""))
    conftest.wait_until(lambda: node2.status("pod").get("served"))

    assert "runtime (the default one) does not use" in node2.status("pod")["sentence"]
    assert not node2.has("lab/layers2:1")


def test_a_tag_that_the_kubelet_has_pulled_meanwhile_is_not_moved(node2) -> None:
    """Another image under the same tag on this node is newer than the store's, or wanted so."""
    tag, other = node2.reference("lab/layers2:1"), node2.reference("lab/plain:1")
    node2.client.pull_image(other, handler="uimgacc")
    node2.containerd.ctr("images", "tag", other, tag, namespace="k8s.io")
    conftest.wait_until(lambda: node2.has("lab/layers2:1"))
    node2.schedule(node2.manifest("pod", "lab/layers2:1"))
    conftest.wait_until(lambda: node2.status("pod").get("served"))

    catalogue = registries.catalogue()
    assert node2.client.image_status(tag).id == catalogue["lab/plain:1"]["config"]
    by_digest = f"{node2.registry.address}/lab/layers2@{catalogue['lab/layers2:1']['manifest']}"
    assert by_digest in node2.names()


def test_an_image_that_cannot_be_registered_does_not_keep_the_others_from_it(
    folder, registry, pristine, tmp_path
) -> None:
    """The store lacks the config of one of a pod's two images."""
    store = pathlib.Path(shutil.copytree(pristine, tmp_path / "store"))
    good, bad = "lab/layers2:1", "lab/layers40:1"
    layout.Layout(store).blob(registries.catalogue()[bad]["config"]).unlink()
    with conftest.running(conftest.Node(folder / "n", registry, store), registry) as node:
        manifest = node.manifest("pod", good)
        containers = manifest["spec"]["containers"]
        containers.append({**containers[0], "name": "other", "image": node.reference(bad)})
        node.schedule(manifest)
        conftest.wait_until(lambda: node.status("pod").get("served"))

        assert node.has(good)
        assert not node.has(bad)
        (event,) = [line for line in node.events() if line["message"] == "event"]
        assert (event["type"], event["reason"]) == ("Warning", "ImageCachePartial")
        assert f": {node.reference(good)}. Not registered" in event["text"]
        assert f"{node.reference(bad)} (the store lacks blob sha256:" in event["text"]
        assert node.metric("uimgacc_image_fallback_total") == 1


def test_events_are_in_the_words_of_the_pods_cloud(node2) -> None:
    alibaba = {"k8s.aliyun.com/eci-image-cache": "true"}
    node2.schedule(node2.manifest("pod", "lab/layers2:1", annotations=alibaba))
    node2.schedule(node2.manifest("miss", "lab/estargz:1"))

    def logged(message: str) -> dict[str, dict]:
        return {line["pod"]: line for line in node2.events() if line["message"] == message}

    conftest.wait_until(lambda: {"pod", "miss"} <= logged("event").keys())
    conftest.wait_until(lambda: logged("a cache is asked for"))

    events, requests = logged("event"), logged("a cache is asked for")
    assert events["pod"]["reason"] == "SuccessfulHitImageCache"
    assert events["miss"]["type"] == "Warning"
    assert list(requests) == ["miss"]
    assert requests["miss"]["images"] == [node2.reference("lab/estargz:1")]


def test_savings_rest_on_the_pulls_of_this_node(node2) -> None:
    node2.client.pull_image(node2.reference("lab/plain:1"), handler="")
    conftest.wait_until(lambda: json.loads(node2.get("/status"))["savings"]["samples"])
    node2.schedule(node2.manifest("pod", "lab/layers40:1"))
    conftest.wait_until(lambda: node2.has("lab/layers40:1"))
    conftest.wait_until(lambda: json.loads(node2.get("/status"))["savings"]["last"])

    (entry,) = json.loads(node2.get("/status"))["savings"]["last"]
    assert entry["method"] == "pulls"
    assert node2.metric("uimgacc_pull_saved_bytes_total") == entry["bytes"] > 0
    assert node2.metric("uimgacc_pull_seconds_count") == 2
    node2.agent.end()
    node2.start_agent()
    assert json.loads(node2.get("/status"))["savings"]["samples"]


def test_a_pull_through_the_snapshotter_counts_what_it_did_not_download(node2) -> None:
    node2.client.pull_image(node2.reference("lab/layers40:1"), handler="uimgacc")
    conftest.wait_until(lambda: node2.metric("uimgacc_pull_saved_bytes_total") > 0)

    assert 'uimgacc_pull_seconds_count{result="hit"} 1.0' in node2.get("/metrics")
