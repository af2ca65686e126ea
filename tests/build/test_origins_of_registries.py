"""A redirect from a registry to a real one of another origin, which knows the same password.

More attacks, on registries that lie: tests/unit/clients/registry/test_authorized_requests.py.
"""

import json
import shutil

import pytest

from agent.clients.registry import connections, credentials, distribution, failures
from agent.model import images
from lab import services
from lab.web import registries
from tests.build import test_aliases as aliases
from tests.fakes import registry as fakes

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    users = {"alice": "secret"}
    with services.Registry(folder, storage=folder / "s", users=users) as server:
        yield server


async def test_a_real_registry_gets_no_password_of_another(real) -> None:
    """With the password it would give the layer: so it was before."""
    layer = aliases.push(real, "team/app")
    mark = real.mark()
    async with fakes.FakeRegistry() as lying:
        lying.blobs[layer.digest] = fakes.Content(b"")
        target = f"http://{real.address}/v2/team/app/blobs/{layer.digest}"
        lying.faults[layer.digest] += [fakes.redirect(target)] * 20
        hosts = frozenset({lying.host, real.address})
        options = connections.Options(plain_http=hosts, delays=(0.01,), deadline=5.0)
        known = credentials.DockerConfig(
            credentials.docker_config([lying.host], username="alice", password="secret"),
            source="a test",
        )
        async with distribution.Client(known, options) as client:
            reference = images.parse_reference(f"{lying.host}/team/app:1")
            with pytest.raises(failures.RequestRefused, match="not sent to another host"):
                await anext(client.blob(reference, layer.digest, layer.size))

    assert [each.status for each in real.requests(mark)] == [401]


async def test_with_its_own_credentials_it_serves_the_same_layer(real) -> None:
    layer = aliases.push(real, "team/other")
    config = credentials.docker_config([real.address], username="alice", password="secret")
    options = connections.Options(plain_http=frozenset({real.address}), deadline=5.0)
    known = credentials.DockerConfig(config, source="a test")
    async with distribution.Client(known, options) as client:
        reference = images.parse_reference(f"{real.address}/team/other:1")
        manifest = json.loads((await client.manifest(reference)).data)

    assert [each["digest"] for each in manifest["layers"]] == [layer.digest]
