"""The settings that agent and controller have in common."""

import dataclasses
import pathlib
from typing import Annotated

SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What agent and controller have in common."""

    kubeconfig: Annotated[
        pathlib.Path | None,
        "Kubeconfig file for the API server; empty: the service account of this pod is used.",
    ] = None
    service_account: Annotated[
        pathlib.Path,
        "Folder with that account's token and certificate authority, which are read again as they"
        " change.",
    ] = SERVICE_ACCOUNT
    api_seconds: Annotated[float, "How long the API server may take for one answer."] = 10.0
    stop_seconds: Annotated[
        float,
        "How long a clean stop may take; after that the process exits at once, which harms"
        " nothing.",
    ] = 10.0
    verbose: Annotated[bool, "Log routine as well."] = False
