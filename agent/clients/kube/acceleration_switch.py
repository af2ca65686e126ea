"""Acceleration of a whole cluster, switched off and on again; the installation stays.

Off: new pods are not changed (the admission policies' bindings, or the webhook, match nothing), and
the agents drain: they remove their labels from the nodes, prepare nothing for pods, and
release what is not in use. Running pods are not affected, and the snapshotter serves
them. On is the reverse.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.model import keys

_DRAIN = "UIMGACC_DRAIN"
_BINDINGS = (keys.WEBHOOK_CONFIGURATION, "uimgacc-namespaces")
_GROUP = "admissionregistration.k8s.io"
_VERSIONS = ("v1", "v1beta1")
_NOTHING = {"objectSelector": {"matchLabels": {keys.NO_POD: "no-pod-has-this"}}}


class NotInstalled(errors.PermanentError):
    """uimgacc is not installed in the cluster. `name` is the DaemonSet that is missing."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no DaemonSet {name}: `uimgacc enable --nfs SERVER:/PATH` installs it"
        )
        self.name = name


class Switch:
    """The parts of the installation in `namespace`. Each call may be repeated."""

    def __init__(self, api: rest_client.Client, *, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def on(self) -> None:
        """Accelerate pods; raise NotInstalled."""
        await self._drain({"name": _DRAIN, "$patch": "delete"})
        await self._bind(None)

    async def off(self) -> None:
        """Accelerate no more pods; raise NotInstalled."""
        await self._bind(_NOTHING)
        await self._drain({"name": _DRAIN, "value": "true"})

    async def is_off(self) -> bool:
        """Whether the agents are set to drain; raise NotInstalled."""
        try:
            agents = await self._api.get(
                rest_client.DAEMON_SETS, keys.AGENTS, namespace=self._namespace
            )
        except refusals.NotFound as error:
            raise NotInstalled(f"{self._namespace}/{keys.AGENTS}") from error
        return any(
            variable.get("name") == _DRAIN and variable.get("value") == "true"
            for container in agents["spec"]["template"]["spec"]["containers"]
            for variable in container.get("env") or ()
        )

    async def _drain(self, variable: Mapping[str, str]) -> None:
        container = {"name": "agent", "env": [variable]}
        body = {"spec": {"template": {"spec": {"containers": [container]}}}}
        try:
            await self._api.patch(
                rest_client.DAEMON_SETS,
                keys.AGENTS,
                body,
                namespace=self._namespace,
                how=rest_client.Patch.STRATEGIC,
            )
        except refusals.NotFound as error:
            raise NotInstalled(f"{self._namespace}/{keys.AGENTS}") from error

    async def _bind(self, match: Mapping[str, Any] | None) -> None:
        """Clusters have the policies in one of two versions or not at all, or the webhook."""
        await self._bind_webhook(match)
        body = {"spec": {"matchResources": match}}
        for version in _VERSIONS:
            kind = rest_client.Resource(
                group=_GROUP, version=version, plural="mutatingadmissionpolicybindings"
            )
            for name in _BINDINGS:
                with contextlib.suppress(refusals.NotFound):
                    await self._api.patch(kind, name, body)

    async def _bind_webhook(self, match: Mapping[str, Any] | None) -> None:
        kind = rest_client.WEBHOOK_CONFIGURATIONS
        with contextlib.suppress(refusals.NotFound):
            there = await self._api.get(kind, keys.WEBHOOK_CONFIGURATION)
            selector = None if match is None else match["objectSelector"]
            webhooks = [
                {"name": webhook["name"], "objectSelector": selector}
                for webhook in there.get("webhooks") or ()
            ]
            body = {
                "metadata": {"resourceVersion": there["metadata"]["resourceVersion"]},
                "webhooks": webhooks,
            }
            how = rest_client.Patch.STRATEGIC
            await self._api.patch(kind, keys.WEBHOOK_CONFIGURATION, body, how=how)
