"""The policies that hold the controller's account, in force on a real API server.

tests/manifests evaluates them on the same objects, without a server.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jsonpatch
import pytest

from agent.clients.kube import connection, rest_client
from tests.control import rights
from tests.kube import apis, servers
from tests.manifests import policing, rendering

pytestmark = [
    servers.needs_own,
    pytest.mark.timeout(300),
]

DAEMON_SETS = rest_client.Resource(group="apps", plural="daemonsets")


@pytest.fixture(scope="module")
def installed(
    api_access: connection.Access, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[apis.Api]:
    """A server on which the controller may do what the manifests say, and the agents are."""
    api = apis.Api(api_access, tmp_path_factory.mktemp("policies"))
    try:
        with rights.installed(api, "controller", "api", folder=pathlib.Path("/etc/plug-ins")):
            api.create(DAEMON_SETS, of(api, policing.agents()), namespace=api.namespace)
            yield api
    finally:
        api.close()


def of(api: apis.Api, body: rendering.Document) -> dict[str, Any]:
    """The object in the test's namespace."""
    return dict(json.loads(json.dumps(body).replace("uimgacc-system", api.namespace)))


def built(api: apis.Api, patch: policing.Patch) -> str:
    """Why the controller may not make a Job; "" where it may."""
    return rights.refusal(api, json.dumps(jsonpatch.apply_patch(of(api, policing.job()), patch)))


def changed(api: apis.Api, patch: policing.Patch) -> str:
    """Why the controller may not change the agents; "" where it may, which changes nothing."""
    account = f"--as=system:serviceaccount:{api.namespace}:{rights.ACCOUNT}"
    where = (f"--namespace={api.namespace}", "daemonset", "uimgacc-node", "--type=json")
    said = rights.kubectl(
        api, "patch", "--dry-run=server", account, *where, f"--patch={json.dumps(patch)}"
    )
    return said.stderr


@pytest.mark.parametrize("patch", policing.BUILDS.values(), ids=policing.BUILDS)
def test_a_builder_is_made(installed: apis.Api, patch: policing.Patch) -> None:
    assert built(installed, patch) == ""


@pytest.mark.parametrize("patch", policing.REFUSED_BUILDS.values(), ids=policing.REFUSED_BUILDS)
def test_a_builder_has_no_part_of_its_node(installed: apis.Api, patch: policing.Patch) -> None:
    assert "a builder of uimgacc" in built(installed, patch)


def test_a_builder_has_the_folders_of_nodes_that_are_named(installed: apis.Api) -> None:
    for path, allowed in (("/etc/plug-ins", True), ("/etc", False)):
        volume = {"name": "x", "hostPath": {"path": path}}
        said = built(installed, policing.add(f"{policing.POD}/volumes/-", volume))
        assert ("no folder of its node" in said) is not allowed


@pytest.mark.parametrize("patch", policing.SWITCHES.values(), ids=policing.SWITCHES)
def test_the_agents_are_switched_off(installed: apis.Api, patch: policing.Patch) -> None:
    assert changed(installed, patch) == ""


@pytest.mark.parametrize("patch", policing.REFUSED_AGENTS.values(), ids=policing.REFUSED_AGENTS)
def test_nothing_else_of_the_agents_is_changed(installed: apis.Api, patch: policing.Patch) -> None:
    assert "the controller of uimgacc changes" in changed(installed, patch)
