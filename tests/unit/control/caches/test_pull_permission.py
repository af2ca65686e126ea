"""Which pull secrets an agent's word is good for: those of a pod that is there and uses them."""

import dataclasses
from typing import Any

import pytest

from agent.control.caches import cache_object, pull_permission
from agent.model import caches, images, keys, pods
from agent.node.pods import cache_requests

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "team",
        "name": "app-0",
        "uid": "u-1",
        "annotations": {keys.CACHE: "auto"},
    },
    "spec": {
        "nodeName": "node-1",
        "initContainers": [{"name": "first", "image": "r.io/team/tools:1"}],
        "containers": [{"name": "app", "image": "r.io/team/app"}, {"name": "odd", "image": "A B"}],
        "imagePullSecrets": [{"name": "pull"}, {"name": "other"}],
    },
}


def pod(*, meta: Any = None, spec: Any = None) -> pods.Pod:
    return pods.parse_pod(
        {"metadata": {**POD["metadata"], **(meta or {})}, "spec": {**POD["spec"], **(spec or {})}}
    )


def cache(
    by: pods.Pod | None = None,
    *,
    secrets: tuple[str, ...] = ("pull",),
    instances: tuple[str, ...] = (),
) -> cache_object.CacheObject:
    """The object that the agent of the pod's node makes, as the API server has it."""
    pod_ = by or pod()
    references = ("r.io/team/app:latest", "r.io/team/tools:1")
    request = caches.CacheRequest(
        name="",
        images=tuple(map(images.parse_reference, references)),
        pull_secrets=tuple(caches.SecretName("team", name) for name in secrets),
        size_gib=caches.SIZE_AUTO,
        auto=True,
        acr_instances=instances,
        serves=("team",) if instances else (),
    )
    request = dataclasses.replace(request, name=caches.name_of_auto_cache(request.cache_id))
    body = cache_requests.manifest_of(request, pod_)
    body["metadata"] |= {"uid": "c", "resourceVersion": "1", "generation": 1}
    return cache_object.parse(body)


def test_what_an_agent_asks_for_a_pod_of_its_node_is_granted() -> None:
    assert cache().unverified
    assert pull_permission.refusal(cache(), pod()) == ""
    assert pull_permission.refusal(cache(secrets=("other", "pull")), pod()) == ""
    # Without secrets there is nothing to be asked for.
    assert not cache(secrets=()).unverified


def test_instances_of_a_registry_are_those_that_the_pod_names() -> None:
    asked = {keys.CACHE: "auto"}
    naming = pod(meta={"annotations": {**asked, keys.ACR_INSTANCE_NAMES[1]: "cn-a:cri-1"}})
    wanted = cache(naming, secrets=(), instances=("cn-a:cri-1",))

    assert (wanted.problem, wanted.unverified) == ("", True)
    assert wanted.request is not None
    # What the builders' account opens for one namespace is not for pods that do not ask so.
    assert wanted.request.namespaces == ["team"]
    assert pull_permission.refusal(wanted, naming) == ""
    assert "does not name the instance cn-a:cri-1" in pull_permission.refusal(wanted, pod())
    more = cache(naming, secrets=(), instances=("cn-a:cri-1", "cri-2"))
    assert "does not name the instance cri-2" in pull_permission.refusal(more, naming)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, "the pod team/app-0 for which it was created is gone"),
        (pod(meta={"uid": "u-2"}), "is gone"),
        (pod(spec={"nodeName": "node-2"}), "not on the node of the agent that created it, node-1"),
        (pod(spec={"nodeName": ""}), "not on the node of the agent that created it, node-1"),
        (pod(meta={"annotations": {}}), "does not ask for automatic caches"),
        (
            pod(meta={"annotations": {keys.CACHE: "imc-1"}}),
            "does not ask for automatic caches",
        ),
        (pod(spec={"initContainers": []}), "does not use the image r.io/team/tools:1"),
        (pod(spec={"imagePullSecrets": [{"name": "other"}]}), "does not use the Secret pull"),
        (pod(spec={"imagePullSecrets": []}), "does not use the Secret pull"),
    ],
)
def test_a_pod_that_is_not_as_the_agent_says_entitles_to_nothing(there, said: str) -> None:
    assert said in pull_permission.refusal(cache(), there)


@pytest.mark.parametrize("said", [{"name": "../x"}, {"name": ""}, {"uid": ""}, {"node": ""}])
def test_an_agent_says_for_which_pod(said: dict[str, str]) -> None:
    named = dataclasses.replace(pod(), **said)

    assert "name the pod" in pull_permission.problem(cache(named))
    assert "name the pod" in pull_permission.refusal(cache(named), named)


def test_secrets_are_those_of_the_pods_namespace() -> None:
    elsewhere = dataclasses.replace(pod(), namespace="other")

    said = pull_permission.problem(cache(elsewhere))

    assert said == "the Secret team/pull is not of the namespace of its pod, other"
