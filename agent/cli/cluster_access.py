"""How commands reach a cluster: as kubectl does."""

import asyncio
import dataclasses
import os
import pathlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent.cli import output
from agent.clients.kube import connection, rest_client
from agent.model import keys

Result = TypeVar("Result")

_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which cluster: a kubeconfig, and the namespace of the installation."""

    kubeconfig: str = ""
    namespace: str = keys.NAMESPACE

    def credentials(self) -> connection.Credentials:
        """As kubectl finds them: a flag, KUBECONFIG, the home folder, the pod's own."""
        named = self.kubeconfig or os.environ.get("KUBECONFIG", "")
        if os.pathsep in named:
            raise output.UsageError("KUBECONFIG names several files: name one with --kubeconfig")
        path = pathlib.Path(named) if named else pathlib.Path.home() / ".kube" / "config"
        if not named and not path.exists():
            if (_ACCOUNT / "token").exists():
                return connection.ServiceAccount(_ACCOUNT)
            raise output.UsageError(
                "there is neither a cluster (no kubeconfig) nor a store:"
                " give --kubeconfig FILE, or --store DIR"
            )
        if not path.is_file():
            raise output.UsageError(f"{path}: no such file")
        return connection.Kubeconfig(path)


def run(target: Target, work: Callable[[rest_client.Client], Awaitable[Result]]) -> Result:
    """Do something with a cluster's API."""

    async def opened() -> Result:
        credentials = target.credentials()
        # Before the first request, so that a kubeconfig that cannot be used says so at once.
        await credentials.read()
        async with rest_client.Client(
            credentials, deadline=30.0, user_agent="uimgacc-cli"
        ) as client:
            return await work(client)

    return asyncio.run(opened())
