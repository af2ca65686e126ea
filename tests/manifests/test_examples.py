"""The examples: understood by us as they are, and the clouds' own but for the names of images."""

import pathlib
from typing import Any

import pytest
import yaml

from agent.matching import annotations, runtimes
from agent.model import cache_manifest, keys, workloads
from tests.manifests import admission, cases, crds, rendering, schemas

EXAMPLES = sorted((rendering.MANIFESTS / "examples").glob("*.yaml"))
SEEDS = rendering.MANIFESTS.parent / "tests" / "unit" / "model" / "manifests"

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def document(path: pathlib.Path) -> dict[str, object]:
    return dict(yaml.safe_load(path.read_text()))


@every_example
def test_an_example_asks_for_a_cache_or_is_one(path: pathlib.Path) -> None:
    found = document(path)
    if found["kind"] == "ImageCache":
        assert cache_manifest.read(found).images
        return
    if found["kind"] == keys.IMAGE_CACHE_POLICY:
        assert crds.faults(found) == []
        return
    pods = workloads.pods_of(found)

    assert pods
    for pod in pods:
        assert annotations.request_of(pod).asks


@pytest.mark.parametrize("name", ["pod", "pod-without-policy", "deployment", "ucloud-pod"])
def test_the_api_knows_every_field(name: str) -> None:
    path = rendering.MANIFESTS / "examples" / f"{name}.yaml"

    schemas.validate(document(path), "1.36")


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_cloud_s_example_is_as_published_but_for_its_images(path: pathlib.Path) -> None:
    ours = (rendering.MANIFESTS / "examples" / path.name).read_text().splitlines()
    published = path.read_text().splitlines()

    assert len(ours) == len(published)
    for mine, theirs in zip(ours, published, strict=True):
        if mine != theirs:
            assert "registry.example.com/" in mine
            start = mine.index("registry.example.com/")
            assert theirs.startswith(mine[:start])


def test_the_pod_without_policy_is_what_the_policy_makes_of_the_other() -> None:
    examples = rendering.MANIFESTS / "examples"
    policy = admission.Mutator(rendering.together("runtimeclass"))
    by_itself = document(examples / "pod-without-policy.yaml")

    by_policy = policy.admitted(document(examples / "pod.yaml"))

    assert by_policy["spec"]["runtimeClassName"] == by_itself["spec"]["runtimeClassName"]  # type: ignore[index]
    assert by_policy["metadata"]["annotations"] == by_itself["metadata"]["annotations"]  # type: ignore[index]
    assert policy.admitted(by_itself) == by_itself


@pytest.mark.parametrize("name", ["daemonset", "static-pod"])
def test_what_nothing_moves_names_class_and_handler_itself(name: str) -> None:
    """As it reaches the API server: bound to a node, which the policy does not touch."""
    manifest: Any = document(rendering.MANIFESTS / "examples" / f"{name}.yaml")
    (pod,) = workloads.pods_of(manifest)
    template = manifest["spec"]["template"] if name == "daemonset" else manifest
    policy = admission.Mutator(rendering.together("runtimeclass"))
    by_field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
    required = {cases.REQUIRED: {"nodeSelectorTerms": [by_field]}}
    bound = {"affinity": {"nodeAffinity": required}} if name == "daemonset" else {"nodeName": "n"}
    created = {**template, "kind": "Pod", "spec": {**template["spec"], **bound}}

    request = annotations.request_of(pod)

    assert (request.mode, request.auto_create) == (annotations.Mode.AUTOMATIC, True)
    assert runtimes.uses_snapshotter(pod)
    assert policy.admitted(created) == created
    # The DaemonSet controller deletes pods whose node loses a label of the template.
    assert keys.HANDLER_LABEL not in template["spec"].get("nodeSelector", {})


def test_the_gpu_deployment_goes_to_the_twin_of_its_class() -> None:
    template = document(rendering.MANIFESTS / "examples" / "deployment.yaml")["spec"]["template"]  # type: ignore[index]
    policy = admission.Mutator(rendering.together("runtimeclass", "nvidia"))

    found = policy.admitted({"apiVersion": "v1", "kind": "Pod", **template})

    assert found["spec"]["runtimeClassName"] == "uimgacc-nvidia"


def test_what_keeps_pods_off_new_nodes_names_what_the_agent_writes() -> None:
    """Of Karpenter and of the node-readiness-controller only what depends on uimgacc."""
    folder = rendering.MANIFESTS / "examples" / "new-nodes"
    pool, rule, cache = (
        document(folder / f"{name}.yaml")["spec"]
        for name in ("nodepool", "node-readiness-rule", "imagecache")
    )
    labels = pool["template"]["metadata"]["labels"]
    (agent,) = (
        container
        for each in rendering.together("runtimeclass")
        if each["kind"] == "DaemonSet"
        for container in each["spec"]["template"]["spec"]["containers"]
        if container["name"] == "agent"
    )
    (taint,) = pool["template"]["spec"]["startupTaints"]

    assert f"--startup-taint={taint['key']}:{taint['effect']}" in agent["args"]
    assert labels[keys.HANDLER_LABEL] == "true"
    assert [each["type"] for each in rule["conditions"]] == [keys.NODE_CONDITION]
    assert rule["taint"]["key"].startswith("readiness.k8s.io/")
    assert rule["nodeSelector"]["matchLabels"].items() <= labels.items()
    assert cache["keepWarm"]
    assert cache["nodeSelector"].items() <= labels.items()
