"""An image that kubelets pull is cached by its policy, and goes when the policy says so."""

import uuid

import pytest

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.policies import policy_cache
from agent.model import keys
from tests.control import conftest
from tests.kube import apis

pytestmark = pytest.mark.timeout(300)

POLICIES = rest_client.IMAGE_CACHE_POLICIES


def pulled(plane: conftest.Plane, image: str, *, seconds: int) -> None:
    """A kubelet's event."""
    unique = uuid.uuid4().hex[:8]
    plane.api.create(
        rest_client.EVENTS,
        {
            "metadata": {"name": f"pulled-{unique}", "namespace": plane.api.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": plane.api.namespace,
                "name": f"pod-{unique}",
            },
            "reason": "Pulled",
            "message": f'Successfully pulled image "{image}" in {seconds}s ({seconds}s including'
            " waiting). Image size: 1000000 bytes.",
            "source": {"component": "kubelet", "host": "node-1"},
            "reportingComponent": "kubelet",
            "type": "Normal",
        },
        namespace=plane.api.namespace,
    )


def test_what_nodes_pull_is_cached_within_the_budget(plane: conftest.Plane) -> None:
    name = f"policy-{uuid.uuid4().hex[:6]}"
    wanted, other = (f"{plane.server.address}/lab/{each}:1" for each in ("gzip", "zstd"))
    pulled(plane, wanted, seconds=30)
    pulled(plane, other, seconds=60)
    plane.controller()
    spec = {
        "images": [f"{plane.server.address}/lab/*"],
        "excludedImages": ["*/zstd:*"],
        "budget": "10Gi",
        "template": {"annotations": {keys.PLAIN_HTTP: plane.server.address}},
    }
    kind = {"apiVersion": keys.POLICY_VERSION, "kind": keys.IMAGE_CACHE_POLICY}
    plane.made.append((POLICIES, name))
    made = plane.api.create(POLICIES, {**kind, "metadata": {"name": name}, "spec": spec})
    key = cache_object.Key(keys.GROUP, policy_cache.name_of(name, wanted))
    plane.made.append((rest_client.IMAGE_CACHES, key.name))
    looks = 0

    def status() -> apis.Object:
        """The policy's status, after it has been looked at again: a changed spec is at once."""
        nonlocal looks
        looks += 1
        plane.api.patch(POLICIES, name, {"spec": {"maxCaches": 10 + looks % 2}})
        return dict(plane.api.get(POLICIES, name).get("status", {}))

    try:
        apis.wait_until(lambda: status().get("ready") == 1, seconds=90)
        plane.wait(key, "Ready")
    except AssertionError:
        raise AssertionError(f"{status()}\n{plane.said()}") from None
    cache = plane.get(key)
    assert cache["metadata"]["labels"] == {keys.POLICY: name}
    (owner,) = cache["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == (keys.IMAGE_CACHE_POLICY, made["metadata"]["uid"])
    found = status()
    assert [each["image"] for each in found["images"]] == [wanted]
    assert found["images"][0]["bytes"] == cache["status"]["size"] == found["bytes"]
    assert {each["type"]: each["status"] for each in found["conditions"]} == {
        "Ready": "True",
        "WithinBudget": "True",
    }

    plane.end_claims()
    plane.api.patch(POLICIES, name, {"spec": {"excludedImages": ["*"]}})
    apis.wait_until(lambda: plane.gone(key), seconds=90)
    apis.wait_until(lambda: status().get("caches") == 0, seconds=30)
