"""Which of the manifests a cluster supports, checked before anything is applied.

docs/start/compatibility.md has the same table of versions for those who apply them by kubectl.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from agent import errors
from agent.cli import output
from agent.clients.kube import refusals, rest_client
from agent.model import keys

MINIMUM = (1, 30)
"""ValidatingAdmissionPolicy v1, and the node's name in the tokens that it checks."""

_ADMISSION = "admissionregistration.k8s.io"
_POLICIES = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
_SETUP = "uimgacc-setup"
_SERVED_SECONDS = 60.0
_POLL = 0.2

Object = Mapping[str, Any]


class TooOld(errors.PermanentError):
    """The cluster's Kubernetes lacks what the manifests need; `release` is its release."""

    def __init__(self, release: tuple[int, int]) -> None:
        needed, actual = (".".join(map(str, each)) for each in (MINIMUM, release))
        super().__init__(
            f"the cluster's API server is Kubernetes {actual}; {needed} or newer is needed"
            " (ValidatingAdmissionPolicy, which holds each agent to its own node)"
        )
        self.release = release


class StillDefault(errors.PermanentError):
    """uimgacc's snapshotter is the default one of this cluster's nodes."""

    def __init__(self) -> None:
        super().__init__(
            "all pods of this cluster use uimgacc's snapshotter (overlay default-snapshotter) and"
            " could not start without it. Give --overlay default-snapshotter again, or go back"
            " from it first, step by step: docs/install/uninstall.md"
        )


async def require(client: rest_client.Client) -> None:
    """Raise TooOld where the API server is older than what the manifests need."""
    release = await client.release()
    if release < MINIMUM:
        raise TooOld(release)


async def refuse_if_default(client: rest_client.Client) -> None:
    """Raise StillDefault where nodes start all pods with uimgacc's snapshotter.

    Replacing the DaemonSet's pod by one of the default class, or removing it, would leave
    a node on which no pod can start, not even that of uimgacc.
    """
    with contextlib.suppress(refusals.NotFound):
        await client.get(rest_client.DAEMON_SETS, _SETUP, namespace=keys.NAMESPACE)
        raise StillDefault


async def served(client: rest_client.Client) -> None:
    """Wait until ImageCaches are served, which takes a moment after their definition."""
    try:
        async with asyncio.timeout(_SERVED_SECONDS):
            while True:
                with contextlib.suppress(refusals.NotFound, refusals.TooMany):
                    async for _ in client.pages(rest_client.IMAGE_CACHES):
                        break
                    return
                await asyncio.sleep(_POLL)
    except TimeoutError as error:
        raise refusals.Unavailable(
            f"the API server does not serve ImageCaches {_SERVED_SECONDS:g} s after they were"
            " defined; see `kubectl describe crd imagecaches.uimgacc.io`"
        ) from error


async def needs_webhook(client: rest_client.Client) -> bool:
    """Whether the server lacks admission policies that change pods; says so on stderr."""
    if await _policy_version(client):
        return False
    release = ".".join(map(str, await client.release()))
    output.say(
        f"Kubernetes {release} does not serve MutatingAdmissionPolicy (1.36 and newer do; 1.34 and"
        " 1.35 with a feature gate): the component webhook is installed instead"
    )
    return True


async def as_served(client: rest_client.Client, objects: Sequence[Object]) -> list[Object]:
    """The objects, with the admission policy in this cluster's version of it, or without."""
    version = await _policy_version(client)
    return [
        {**body, "apiVersion": f"{_ADMISSION}/{version}"} if body["kind"] in _POLICIES else body
        for body in objects
        if version or body["kind"] not in _POLICIES
    ]


async def _policy_version(client: rest_client.Client) -> str:
    for version in ("v1", "v1beta1"):
        kind = rest_client.Resource(
            group=_ADMISSION, version=version, plural="mutatingadmissionpolicies"
        )
        with contextlib.suppress(refusals.NotFound):
            async for _ in client.pages(kind):
                return version
    return ""
