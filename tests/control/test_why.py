"""`uimgacc why POD`, on an API server: pods that ask, that do not, that wait, that are gone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer.testing

from agent.cli import commands
from agent.clients.kube import rest_client
from agent.model import keys
from tests.kube import apis, emulating, servers

RUNNER = typer.testing.CliRunner()
IMAGE = "registry.example.com/team/app:1"
AUTO = {keys.CACHE: "auto"}
CLASS = {"runtimeClassName": "uimgacc"}
STATUS = {
    "pods": [
        {
            "namespace": "?",
            "name": "app",
            "served": True,
            "sentence": "All images come from the store, image cache imc-x. Registered 1.",
            "outcome": "hit",
            "images": [{"image": IMAGE, "outcome": "hit", "reason": "imc-x has it"}],
            "registered": [IMAGE],
        }
    ],
    "savings": {
        "last": [
            {
                "image": IMAGE,
                "when": "2036-01-01T00:00:00Z",
                "seconds": 29.9,
                "bytes": 1 << 30,
                "method": "pulls",
            }
        ]
    },
}

Why = Callable[[str], dict[str, Any]]


@pytest.fixture
def why(api: apis.Api, kinds: None, monkeypatch: pytest.MonkeyPatch) -> Why:
    """The JSON about a pod of the test's namespace, which the installation is in, too."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    api.runtime_class("uimgacc")

    def run(name: str) -> dict[str, Any]:
        result = RUNNER.invoke(commands.app, ["why", f"{api.namespace}/{name}", "--json"])
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    return run


def links(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [link for link in answer["chain"] if link["link"] == name]


def node(api: apis.Api, *, capable: bool, message: str = "") -> str:
    name = api.node(labels={keys.CAPABLE: "true"} if capable else {})
    condition = {
        "type": keys.NODE_CONDITION,
        "status": str(capable),
        "reason": "StoreServesImages" if capable else "StoreUnavailable",
        "message": message,
    }
    api.patch(
        rest_client.NODES,
        name,
        {"status": {"conditions": [condition]}},
        subresource="status",
        how=rest_client.Patch.STRATEGIC,
    )
    return name


def event(api: apis.Api, pod: apis.Object, reason: str, message: str) -> None:
    meta = pod["metadata"]
    body = {
        "metadata": {"name": f"{meta['name']}.{reason.lower()}"},
        "involvedObject": {"kind": "Pod", "uid": meta["uid"], "namespace": meta["namespace"]},
        "reason": reason,
        "message": message,
        "type": "Normal",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "reportingComponent": keys.COMPONENT,
        "reportingInstance": "n",
    }
    api.create(rest_client.EVENTS, body, namespace=meta["namespace"])


def test_a_pod_that_does_not_ask_is_given_what_to_add(api, why) -> None:
    owner = {"kind": "Job", "name": "train", "apiVersion": "batch/v1", "uid": "u"}
    api.pod("app", "n", ownerReferences=[{**owner, "controller": True}])

    answer = why("app")

    assert (answer["verdict"], answer["because"]) == ("pulled", "it asks for no image cache")
    (asks,) = links(answer, "asks")
    assert asks["state"] == "no"
    assert "spec.template.metadata.annotations of Job train" in asks["remedy"]


def test_a_pod_that_was_not_moved_is_given_the_reason(api, why) -> None:
    twins = rest_client.RUNTIME_CLASSES
    api.patch(twins, "uimgacc", {"metadata": {"labels": {keys.TWIN_OF: ""}}})
    api.pod("app", "n", annotations=AUTO, spec={"os": {"name": "windows"}})

    answer = why("app")

    assert answer["verdict"] == "pulled"
    assert "does not use uimgacc" in answer["because"]
    assert [link["text"] for link in links(answer, "moved")] == [
        "not to the class uimgacc: runs-here"
    ]


def test_a_node_that_does_not_serve_is_named_with_its_reason(api, why) -> None:
    where = node(api, capable=False, message="the store does not answer")
    api.pod("app", where, annotations=AUTO, spec=CLASS)

    answer = why("app")

    assert answer["verdict"] == "pulled"
    assert answer["because"] == f"node {where} does not serve images: the store does not answer"
    assert (
        "node has no agent" in answer["unread"]["agent"] or "no agent" in answer["unread"]["agent"]
    )


def test_the_nearest_cache_and_its_state_are_named(api, why) -> None:
    name = f"near-{api.namespace}"
    images = ["registry.example.com/team/app:2"]
    api.create(
        rest_client.IMAGE_CACHES,
        {
            "apiVersion": keys.API_VERSION,
            "kind": "ImageCache",
            "metadata": {"name": name},
            "spec": {"images": images},
        },
    )
    try:
        api.pod("app", node(api, capable=True), image=IMAGE, annotations=AUTO, spec=CLASS)
        (building,) = links(why("app"), "state")
        status = {
            "phase": "Ready",
            "cacheID": "imc-near",
            "images": [{"image": images[0], "digest": "sha256:" + "a" * 64}],
        }
        api.patch(rest_client.IMAGE_CACHES, name, {"status": status}, subresource="status")

        answer = why("app")
    finally:
        api.delete(rest_client.IMAGE_CACHES, name)

    assert (building["state"], "no phase" in building["text"]) == ("no", True)
    (cache,) = links(answer, "cache")
    assert "has 0 of 1 images; 1 in another version" in cache["text"]


def test_a_pod_without_a_node_waits(api, why) -> None:
    body = apis.pod("app", "", annotations=AUTO)
    del body["spec"]["nodeName"]
    body["spec"] |= CLASS
    made = api.create(rest_client.PODS, body, namespace=api.namespace)
    event(api, made, "ImageCacheNoNode", "The pod waits for a node with the handler uimgacc.")

    answer = why("app")

    assert answer["verdict"] == "waiting"
    assert answer["because"] == "The pod waits for a node with the handler uimgacc"


def test_events_say_what_became_of_a_finished_pod(api, why) -> None:
    made = api.pod("app", node(api, capable=True), image=IMAGE, annotations=AUTO, spec=CLASS)
    api.pod_status("app", {"phase": "Succeeded"})
    event(api, made, "ImageCacheHit", "All images come from the store, image cache imc-x.")

    answer = why("app")

    assert answer["verdict"] == "accelerated"
    assert "imc-x" in answer["because"]


@pytest.mark.skipif(servers.is_real(), reason="no kubelet: nothing runs in a container")
def test_the_agent_of_the_node_says_what_it_did_and_what_that_saved(api, why) -> None:
    where = node(api, capable=True)
    status = json.loads(json.dumps(STATUS).replace("?", api.namespace))
    labels = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "node"}
    answers = {emulating.ANSWER: json.dumps(status)}
    api.pod("agent", where, labels=labels, annotations=answers)
    api.pod("app", where, image=IMAGE, annotations=AUTO, spec=CLASS)

    answer = why("app")

    assert answer["verdict"] == "accelerated"
    (image,) = links(answer, "image")
    assert image["text"] == f"{IMAGE}: hit, imc-x has it; registered before the kubelet asked"
    (saved,) = links(answer, "saved")
    assert saved["text"] == f"{IMAGE}: 29.9 s and 1.0 GiB not downloaded"


def test_a_pod_that_is_not_there_is_not_found(api, why, monkeypatch) -> None:
    result = RUNNER.invoke(commands.app, ["why", "none", "-n", api.namespace])

    assert result.exit_code == 3
    assert f"no pod none in namespace {api.namespace}" in result.output


def test_people_get_one_sentence_and_the_chain(api, why) -> None:
    api.pod("app", "n")

    result = RUNNER.invoke(commands.app, ["why", "app", "-n", api.namespace])

    first, empty, *chain = result.stdout.splitlines()
    assert first == f"{api.namespace}/app: pulled as usual: it asks for no image cache."
    assert (empty, chain[0].split()[:2]) == ("", ["no", "asks"])
    assert "\x1b" not in result.stdout


def test_of_a_workload_the_newest_pod_is_explained(api, why) -> None:
    labels = {"app": "web"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    body = {
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    api.create(rest_client.DEPLOYMENTS, body, namespace=api.namespace)
    where = ["-n", api.namespace]

    result = RUNNER.invoke(commands.app, ["why", "deploy/web", *where])
    assert (result.exit_code, "deployments/web has no pod now" in result.output) == (3, True)

    api.pod("other", "n")
    api.pod("web-1", "n", labels=labels)
    result = RUNNER.invoke(commands.app, ["why", "deploy/web", *where, "--json"])
    assert json.loads(result.stdout)["pod"]["name"] == "web-1"

    result = RUNNER.invoke(commands.app, ["why", "deploy/none", *where])
    assert (result.exit_code, "no deployments/none" in result.output) == (3, True)


def about(subject: str) -> dict[str, Any]:
    result = RUNNER.invoke(commands.app, ["why", subject, "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_an_image_is_explained_by_the_caches_and_policies_that_name_it(api, why) -> None:
    repository = f"registry.example.com/{api.namespace}/app"
    image = f"{repository}:1"
    assert about(image)["verdict"] == "not_cached"
    policy = {
        "metadata": {"name": f"p-{api.namespace}"},
        "spec": {"images": [f"{repository}*"], "budget": "1Gi"},
    }
    api.create(rest_client.IMAGE_CACHE_POLICIES, policy)
    left = {"status": {"leftOut": [{"image": image, "reason": "OverBudget", "pullSeconds": 9}]}}
    api.patch(rest_client.IMAGE_CACHE_POLICIES, f"p-{api.namespace}", left, subresource="status")

    answer = about(image)
    assert links(answer, "policy")[0]["text"] == f"p-{api.namespace} leaves it out: OverBudget"
    assert links(answer, "cache")[0]["remedy"] == f"uimgacc create NAME --image {image}"

    name = f"c-{api.namespace}"
    version = "uimgacc.io/v1"
    spec = {"images": [image]}
    body = {"apiVersion": version, "kind": "ImageCache", "metadata": {"name": name}, "spec": spec}
    api.create(rest_client.IMAGE_CACHES, body)
    assert about(image)["verdict"] == "building"
    assert about(f"{repository}:2")["because"].startswith("none of ")
    assert f"{name} has {image}" in links(about(f"{repository}:2"), "cache")[0]["text"]

    failed = {"status": {"phase": "Failed", "message": "the Secret team/none does not exist"}}
    api.patch(rest_client.IMAGE_CACHES, name, failed, subresource="status")
    answer = about(f"imc/{name}")
    assert (answer["cache"], answer["verdict"]) == (name, "failed")
    assert links(answer, "state")[0]["remedy"] == f"kubectl describe imagecaches.uimgacc.io {name}"

    api.patch(rest_client.IMAGE_CACHES, name, {"status": {"phase": "Ready"}}, subresource="status")
    assert about(image)["because"] == f"image cache {name} serves it"
    result = RUNNER.invoke(commands.app, ["why", image])
    assert result.stdout.splitlines()[0].startswith(f"{image}: cached: image cache {name}")
    api.delete(rest_client.IMAGE_CACHES, name)
    api.delete(rest_client.IMAGE_CACHE_POLICIES, f"p-{api.namespace}")
