"""What only a real API server does: schemas in force, columns, and the roles of the manifests."""

import json
import pathlib
import re
import uuid

import pytest

from agent.clients.kube import rest_client
from agent.control.caches import cache_object
from agent.control.policies import policy_cache
from tests.control import conftest, rights
from tests.control.test_controller import secret
from tests.control.test_image_policies import pulled
from tests.kube import apis, servers
from tests.manifests import crds

pytestmark = [
    servers.needs_own,
    pytest.mark.timeout(300),
]

GROUPS = list(crds.FILES)


@pytest.mark.parametrize("path", crds.EXAMPLES, ids=lambda path: path.stem)
def test_the_clouds_own_examples_apply_unchanged(api, kinds, path: pathlib.Path) -> None:
    """The file itself, as a person applies it: kubectl's own parser reads it."""
    done = rights.kubectl(api, "apply", "--dry-run=server", "--validate=strict", "-f", str(path))

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"imagecache\.\S+ created \(server dry run\)\n", done.stdout)


@pytest.mark.parametrize("group", GROUPS)
def test_bounds_name_the_field(api, kinds, group: str) -> None:
    for spec, field in crds.BOUNDS:
        text = json.dumps(crds.manifest(group, **spec))
        done = rights.kubectl(api, "create", "--dry-run=server", "-f", "-", text=text)
        assert bool(done.returncode) is bool(field), f"{spec}: {done.stderr}"
        assert field in done.stderr


def test_the_rules_for_policies_are_in_force(api, kinds) -> None:
    for spec, field in [*((spec, "") for spec in crds.POLICY_SPECS), *crds.POLICY_BOUNDS]:
        text = json.dumps(crds.policy(**spec))
        done = rights.kubectl(api, "create", "--dry-run=server", "-f", "-", text=text)
        assert bool(done.returncode) is bool(field), f"{spec}: {done.stderr}"
        assert field in done.stderr


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("imagecaches.uimgacc.io", "NAME AGE CACHEID PHASE PROGRESS"),
        ("ic", "NAME AGE CACHEID PHASE PROGRESS"),
        ("imagecaches.eks.cloud.tencent.com", "NAME CACHESIZE IMCID PHASE AGE"),
    ],
)
def test_kubectl_shows_the_columns_as_published(plane, name: str, columns: str) -> None:
    plane.controller()
    keys = [plane.apply(f"c-{uuid.uuid4().hex[:6]}", "lab/gzip:1", group=group) for group in GROUPS]
    for key in keys:
        plane.wait(key, "Ready")

    done = rights.kubectl(plane.api, "get", name)

    header, *rows = done.stdout.splitlines()
    assert header.split() == columns.split()
    assert any("Ready" in row.split() and ("100%" in row) == ("PROGRESS" in header) for row in rows)


def test_it_lives_within_the_rights_of_the_manifests(plane: conftest.Plane) -> None:
    """Everything that it does, by its own account: a refusal would be in its log."""
    api = plane.api
    secret(plane, "pull", {"auths": {}})
    with rights.applied(plane, "controller"):
        controller = plane.controller()
        key = plane.apply("tools", "lab/gzip:1", imagePullSecrets=[f"{api.namespace}/pull"])
        plane.wait(key, "Ready")
        apis.wait_until(lambda: "Ready" in plane.events(key))
        plane.end_claims()
        api.delete(rest_client.Resource(group=key.group, plural="imagecaches"), key.name)
        apis.wait_until(lambda: plane.gone(key), seconds=60)
        apis.wait_until(lambda: plane.builders.secrets() == ["pull"])
        # Before its roles go.
        rights.none_missing(controller)


def test_policies_live_within_the_rights_of_the_manifests(plane: conftest.Plane) -> None:
    api, name = plane.api, f"policy-{uuid.uuid4().hex[:6]}"
    image = f"{plane.server.address}/lab/gzip:1"
    pulled(plane, image, seconds=30)
    selector = {"matchLabels": {"kubernetes.io/metadata.name": api.namespace}}
    spec = {"images": [image], "budget": "10Gi", "namespaceSelector": selector}
    plane.made.append((rest_client.IMAGE_CACHE_POLICIES, name))
    key = cache_object.Key("uimgacc.io", policy_cache.name_of(name, image))
    plane.made.append((rest_client.IMAGE_CACHES, key.name))
    with rights.applied(plane, "controller"):
        controller = plane.controller()
        body = crds.policy(name, **spec)
        del body["metadata"]["uid"]
        api.create(rest_client.IMAGE_CACHE_POLICIES, body)
        looks = iter(range(10, 1000))

        def state() -> apis.Object:
            """Its status; a spec that changes is looked at at once."""
            change = {"spec": {"maxCaches": next(looks)}}
            api.patch(rest_client.IMAGE_CACHE_POLICIES, name, change)
            return dict(api.get(rest_client.IMAGE_CACHE_POLICIES, name).get("status", {}))

        apis.wait_until(lambda: state().get("caches") == 1, seconds=90)
        api.patch(rest_client.IMAGE_CACHE_POLICIES, name, {"spec": {"excludedImages": ["*"]}})
        apis.wait_until(lambda: state().get("caches") == 0, seconds=90)
        columns = rights.kubectl(api, "get", "imcp", name).stdout.splitlines()[0].split()
        assert columns == ["NAME", "READY", "CACHES", "BUILT", "USED", "FITS", "AGE"]
        rights.none_missing(controller)
