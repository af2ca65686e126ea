"""The policy against volumes of the store's export, in force on a real API server.

tests/manifests/test_writers.py evaluates it on the same volumes, without a server.
"""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.control import rights
from tests.kube import apis, servers
from tests.manifests import rendering, test_writers

pytestmark = [
    servers.needs_own,
    pytest.mark.timeout(300),
]
NAME = "uimgacc-store-volumes"


@pytest.fixture
def held(api: apis.Api) -> Iterator[apis.Api]:
    """A server with the policy, whose own namespace is another one than the test's."""
    suffix = uuid.uuid4().hex[:6]
    made = []
    try:
        for document in rendering.together("runtimeclass", "controller", "writers"):
            if document["metadata"]["name"] != NAME:
                continue
            body = json.loads(json.dumps(document).replace(NAME, f"{NAME}-{suffix}"))
            done = rights.kubectl(api, "apply", "-f", "-", text=json.dumps(body))
            assert done.returncode == 0, done.stderr
            made.append((body["kind"], body["metadata"]["name"]))
        # A policy is in force a moment after it was made.
        apis.wait_until(lambda: "uimgacc" in refusal(api, pod(test_writers.STORE)), seconds=60)
        yield api
    finally:
        for kind, name in reversed(made):
            rights.kubectl(api, "delete", kind, name)


def pod(target: dict[str, str]) -> dict[str, Any]:
    main = {"name": "main", "image": "nginx:1"}
    volumes = [{"name": "v", "nfs": target}]
    spec = {"containers": [main], "volumes": volumes, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def volume(target: dict[str, str]) -> dict[str, Any]:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "nfs": target}
    metadata = {"name": f"v-{uuid.uuid4().hex[:6]}"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def refusal(api: apis.Api, body: dict[str, Any]) -> str:
    """Why an object may not be created; "" where it may, which changes nothing."""
    where = f"--namespace={api.namespace}"
    return rights.kubectl(
        api, "create", "--dry-run=server", "-f", "-", where, text=json.dumps(body)
    ).stderr


def test_no_volume_leads_to_the_store(held: apis.Api) -> None:
    for name, target in test_writers.LEADING_THERE.items():
        for body in (pod(target), volume(target)):
            said = refusal(held, body)
            # What the API itself does not take needs no policy.
            assert "this volume" in said or "path without" in said or "Invalid value" in said, name


def test_volumes_of_other_exports_are_made(held: apis.Api) -> None:
    for target in test_writers.ELSEWHERE.values():
        for body in (pod(target), volume(target)):
            assert refusal(held, body) == ""
