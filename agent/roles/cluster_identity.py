"""Which cluster this is: the UID of its namespace kube-system.

Every cluster has that namespace for as long as it lives, and its UID is unique and never
changes; other tools (OpenTelemetry's `k8s.cluster.uid`) name clusters by it, too.
"""

from typing import Protocol

from agent.clients.kube import refusals, rest_client

NAMESPACE = "kube-system"


class Api(Protocol):
    """The part of the API that is used: agent.clients.kube.rest_client.Client."""

    async def get(self, resource: rest_client.Resource, name: str) -> rest_client.Object:
        """Read an object."""


async def read(api: Api) -> str:
    """The cluster's UID. Raises what agent.clients.kube.rest_client raises."""
    body = await api.get(rest_client.NAMESPACES, NAMESPACE)
    uid = body.get("metadata", {}).get("uid")
    if not isinstance(uid, str) or not uid:
        raise refusals.Unavailable(f"the namespace {NAMESPACE} has no UID")
    return uid
