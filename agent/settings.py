"""Settings of the roles: frozen dataclasses, one per subject.

Each field's docstring has unit, default and consequence. Values come from flags
and environment variables of the same name (agent.cli).
"""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The node agent. Times are in seconds."""

    store: pathlib.Path
    """The root folder of the shared store, mounted read-only; with `nfs`, where it will appear."""

    pods: pathlib.Path | None = None
    """The folder of pod manifests, where there is no cluster. Either this or `kubernetes`."""

    kubernetes: str = ""
    """The name of this node in Kubernetes: its pods come from the API server."""

    kubeconfig: pathlib.Path | None = None
    """How to reach the API server. None: with the service account of the pod that this is in."""

    service_account: pathlib.Path = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Where that service account's token and authority are; they are read again as they change."""

    api_seconds: float = 10.0
    """How long the API server may take for one answer."""

    startup_taint: str = ""
    """KEY[=VALUE]:EFFECT of a taint that is taken off the node once it can serve. "": none."""

    nfs: str = ""
    """SERVER:/EXPORT of the store: the agent mounts it beside `store`, and makes that a link to it.
    "": whatever is at `store` is the store."""

    nfs_options: str = ""
    """Options of that mount, as of nfs(5), that take the place of agent.mounts.nfs.DEFAULTS."""

    nfs_seconds: float = 20.0
    """How long the NFS server may take for one mount before it is tried again."""

    containerd: str = "/run/containerd/containerd.sock"
    """containerd's socket."""

    snapshotter_name: str = "uimgacc"
    """The name of our snapshotter in containerd's configuration."""

    default_snapshotter: bool = False
    """Whether it is containerd's default one; then pods of every runtime class are served, not
    only those of our runtime handlers."""

    listen: str = "127.0.0.1:9465"
    """host:port for the page for people, /status, /metrics, /healthz and /readyz; "" serves
    nothing. The page and /status show which images run here: keep them to this node."""

    metrics_address: str = ""
    """host:port for /metrics alone, for a Prometheus elsewhere; "" is nowhere."""

    state: pathlib.Path | None = None
    """A local folder for what should survive a restart: the measured speed of pulls, and which
    containerd has been looked after. None keeps nothing: savings are then counted from the times
    of builds until this node has pulled something."""

    store_seconds: float = 2.0
    """How long the store may take for one answer. Longer, and a dead store is noticed later;
    shorter, and a busy one is taken for dead."""

    containerd_seconds: float = 10.0
    """How long containerd may take for one call."""

    probe_seconds: float = 5.0
    """How often store, containerd and snapshotter are probed."""

    retired_seconds: float = 30.0
    """How often the store is asked whether something was deleted. What is deleted leaves the
    store's disk at the earliest after as long."""

    canary_seconds: float = 10.0
    """How often a registered image is checked for its snapshots being there."""

    parallel: int = 8
    """Pods served at the same time. A pod's own images are always registered side by side."""

    stop_seconds: float = 10.0
    """How long a clean stop may take; then the process ends itself, which harms nothing."""

    verbose: bool = False
    """Log routine, too."""
