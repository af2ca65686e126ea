"""Settings of the roles: frozen dataclasses, one per subject.

Each field's docstring has unit, default and consequence. Values come from flags
and environment variables of the same name (agent.cli).
"""

import dataclasses
import pathlib

from agent.model import keys


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

    drain: bool = False
    """Acceleration is switched off: no label, nothing for pods, what nothing uses is let go."""

    startup_taint: str = ""
    """KEY[=VALUE]:EFFECT of a taint that is taken off the node once it can serve. "": none."""

    nfs: str = ""
    """SERVER:/EXPORT of the store: the agent mounts it beside `store`, and makes that a link to it.
    "": whatever is at `store` is the store."""

    nfs_options: str = ""
    """Options of that mount, as of nfs(5), that take the place of agent.mounts.nfs.DEFAULTS."""

    nfs_seconds: float = 20.0
    """How long the NFS server may take for one mount before it is tried again, at each of its
    addresses; where there are several, each has 5 s first."""

    containerd: str = "/run/containerd/containerd.sock"
    """containerd's socket."""

    snapshotter_name: str = keys.SNAPSHOTTER
    """The name of our snapshotter in containerd's configuration."""

    default_snapshotter: bool = False
    """Whether it is containerd's default one; then pods of every runtime class are served, not
    only those of our runtime handlers."""

    listen: str = "127.0.0.1:9465"
    """host:port for the page for people, /status, /metrics, /healthz and /readyz; "" serves
    nothing. The page and /status show which images run here: keep them to this node."""

    metrics_address: str = ""
    """host:port for /metrics alone, for a Prometheus elsewhere; "" is nowhere."""

    copied_mounts: pathlib.Path | None = None
    """In a container, a private volume with copies of the host's mounts (the folder of containerd's
    socket), which are detached at the start: they would hold layers of containers that are gone."""

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The controller. Times are in seconds unless the name says days or hours."""

    store: pathlib.Path
    """The root folder of the shared store, mounted writable; one that is empty becomes a store."""

    namespace: str = keys.NAMESPACE
    """Where the builders' Jobs are, and the Lease of the leader."""

    pod: str = ""
    """The name of the controller's own pod: builders get its image and its volume `store`."""

    kubeconfig: pathlib.Path | None = None
    """How to reach the API server. None: with the service account of the pod that this is in."""

    service_account: pathlib.Path = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Where that service account's token and authority are; they are read again as they change."""

    api_seconds: float = 10.0
    """How long the API server may take for one answer."""

    store_seconds: float = 20.0
    """How long the store may take for one answer."""

    compression: str = "lz4"
    """Of a store that is made: lz4, or none, which containerd 2.4 itself can read."""

    listen: str = "0.0.0.0:9467"
    """host:port for /metrics, /healthz and /readyz; "" serves nothing."""

    api_listen: str = ""
    """host:port of UCloud's API and of the page for people; "" serves neither."""

    api_keys: pathlib.Path | None = None
    """A JSON file of who may use those: private keys by public key."""

    api_tls: pathlib.Path | None = None
    """A folder with tls.crt and tls.key for them. None: plain HTTP, for a proxy that has TLS."""

    cluster_id: str = ""
    """The ClusterId that UCloud's API answers for; "": any."""

    nfs: str = ""
    """SERVER:/EXPORT of the store, as the nodes mount it; UCloud's API names it."""

    uhub: str = "uhub.service.ucloud.cn"
    """The registries, with commas between them, that UCloud's user and password are for."""

    uhub_namespaces: str = "default"
    """The namespaces, with commas between them, whose pods may have what UCloud's user has opened
    without Secrets of their own; *: all, "": none, so that the registry is always asked."""

    plain_http: str = ""
    """Registries that all builds and UCloud's API reach without TLS, with commas between them."""

    parallel_builds: int = 4
    """Builds that run at the same time; others wait. Each takes a processor or more."""

    build_seconds: float = 14400.0
    """After which a build is given up."""

    retry_seconds: float = 10.0
    """After which a failed build is tried again; three times as long after each failure, up to an
    hour."""

    lease_seconds: float = 15.0
    """After which another controller takes over from one that is silent."""

    keep_seconds: float = 3600.0
    """For how long the Job of a build, and its log, are there after its end."""

    scratch: str = "64Gi"
    """What a builder's local folder may take: the files of a few layers, uncompressed."""

    builder_patch: pathlib.Path | None = None
    """A file with a part of a Job, merged into each builder's: resources, tolerations, proxies."""

    deletion_seconds: float = 600.0
    """For how long the object of a deleted cache waits for nodes that hold its layers."""

    grace_seconds: float = 86400.0
    """After which a node that is gone from the cluster holds nothing any more."""

    settle_seconds: float = 180.0
    """Until what is announced in the store is seen by all machines: three times acregmax."""

    collect_seconds: float = 60.0
    """How often the collector looks whether something may be deleted."""

    refresh_hours: float = 0.0
    """After which every cache's tags are looked up again; 0: only where its object says so."""

    auto_caches: int = 100
    """Automatic caches that may exist; beyond, the one unused for the longest goes."""

    unused_days: float = 7.0
    """For which an automatic cache is kept that no pod has used."""

    used_days: float = 30.0
    """For which an automatic cache is kept after its last use."""

    failed_hours: float = 24.0
    """For which the object of an automatic or Alibaba cache that cannot be built is kept."""

    stop_seconds: float = 10.0
    """How long a clean stop may take; then the process ends itself, which harms nothing."""

    verbose: bool = False
    """Log routine, too."""

    @property
    def plain_http_registries(self) -> tuple[str, ...]:
        """`plain_http`, one by one."""
        return tuple(filter(None, (part.strip() for part in self.plain_http.split(","))))
