import pytest

from agent.clients.kube import refusals, rest_client
from agent.roles import cluster_identity
from tests.fakes import api as fakes


async def test_a_cluster_is_named_by_its_system_namespace() -> None:
    api = fakes.Api()
    with pytest.raises(refusals.NotFound):
        await cluster_identity.read(api)
    api.put(rest_client.NAMESPACES, {"metadata": {"name": "kube-system", "uid": "uid-a"}})
    assert await cluster_identity.read(api) == "uid-a"
    api.put(rest_client.NAMESPACES, {"metadata": {"name": "kube-system", "uid": ""}})
    with pytest.raises(refusals.Unavailable, match="no UID"):
        await cluster_identity.read(api)
