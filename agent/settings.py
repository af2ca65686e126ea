"""Settings of the roles: frozen dataclasses, one for each role, and the reference page of them.

Each field is declared once, with its type, what it means and its default; flags, environment
variables, `--help` and docs/reference/settings.md follow from it (agent.kits.flags). Times are in
seconds unless the name says otherwise, sizes in bytes.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from agent.kits import addresses, flags, networks, units
from agent.model import caches, keys

SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")

_LABEL = re.compile(r'[^:,"\s]+:[^:,"\s]+:[^:,"\s]+(:[^"\s]+)?')

_SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path; sockaddr_un has 108 with the zero at its end."""


def _check_address(text: str) -> None:
    if text:
        addresses.split(text)


def _check_socket(text: str) -> None:
    path = str(pathlib.Path(text).absolute())
    if len(path.encode("utf-8", "surrogateescape")) > _SOCKET_LIMIT:
        raise ValueError(f"a socket's path has at most {_SOCKET_LIMIT} bytes: {path}")


def _check_label(text: str) -> None:
    if text not in ("auto", "off") and not _LABEL.fullmatch(text):
        raise ValueError(f"auto, off, or USER:ROLE:TYPE[:LEVEL]: {text}")


def _items(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _check_share(text: str) -> None:
    units.share(text, 0)


def _check_rate(text: str) -> None:
    if float(text) <= 0:
        raise ValueError("expected more than 0")


def _check_serve_stale(text: str) -> None:
    if text and caches.serve_stale(text) is None:
        raise ValueError(caches.stale_expected(text))


_Address = flags.Checked(_check_address)
_Networks = flags.Checked(networks.parse)
_Quantity = flags.Checked(units.quantity)
_Share = flags.Checked(_check_share)
_Rate = flags.Checked(_check_rate)
_ServeStale = flags.Checked(_check_serve_stale)
_Socket = flags.Checked(_check_socket)

_TrustedKeys = Annotated[
    pathlib.Path | None,
    "Folder of the JSON documents with the keys that signatures of the store are verified by;"
    " it is read again when it changes. Empty: none are verified.",
]
_SELinuxContext = Annotated[
    str,
    "Where SELinux is active: the label that layers are mounted with; auto: the one that the"
    " node's policy has for images (container_ro_file_t), off: none.",
    flags.Checked(_check_label),
]
_Unsigned = Annotated[
    Literal["auto", "accept", "refuse"],
    "What to do with records of the store that no key has signed: refuse them (their images"
    " are pulled as usual), accept them, or as the documents of keys say; without keys, auto"
    " accepts.",
]
_Local = Annotated[
    Literal["off", "after-start", "before-start"],
    "Copies of the layers that containers run on, on the node's disk: none, made in the background"
    " after a start, or from the moment when an image is made ready. Agent and snapshotter of a"
    " node have the same value.",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What agent and controller have in common."""

    kubeconfig: Annotated[
        pathlib.Path | None,
        "Kubeconfig file for the API server; empty: by the service account of this pod.",
    ] = None
    service_account: Annotated[
        pathlib.Path,
        "Folder with that account's token and certificate authority, which are read again as they"
        " change.",
    ] = SERVICE_ACCOUNT
    api_seconds: Annotated[float, "How long the API server may take for one answer."] = 10.0
    stop_seconds: Annotated[
        float,
        "How long a clean stop may take; then the process ends itself, which harms nothing.",
    ] = 10.0
    verbose: Annotated[bool, "Log routine as well."] = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agent(Daemon):
    """`uimgacc agent`."""

    store: Annotated[
        pathlib.Path,
        "Root folder of the shared store, mounted read-only; with --nfs, where it will appear.",
    ]
    pods: Annotated[
        pathlib.Path | None,
        "Folder of pod manifests, where there is no cluster. Needed: this or --kubernetes.",
    ] = None
    kubernetes: Annotated[
        str, "Name of this node in Kubernetes: its pods come from the API server."
    ] = ""
    namespace: Annotated[str, "Namespace of the Lease on which the agent writes what it saved."] = (
        keys.NAMESPACE
    )
    drain: Annotated[
        bool,
        "Switched off: no label, nothing is prepared for pods, and what nothing uses is removed."
        " `uimgacc disable` sets it.",
    ] = False
    startup_taint: Annotated[
        str, "KEY[=VALUE]:EFFECT of a taint to remove from the node once it can serve images."
    ] = ""
    trusted_keys: _TrustedKeys = None
    unsigned: _Unsigned = "auto"
    nfs: Annotated[
        str,
        "SERVER:/EXPORT of the store: the agent mounts it beside --store and makes that a link to"
        " the mount. Empty: the store is there already.",
    ] = ""
    nfs_options: Annotated[
        str, "Options of that mount (nfs(5)), beside or in place of the defaults."
    ] = ""
    nfs_seconds: Annotated[
        float,
        "How long the NFS server may take for one mount before it is tried again, at each of its"
        " addresses; where there are several, each has 5 s first.",
    ] = 20.0
    read_ahead_kb: Annotated[
        int,
        "KiB that the kernel reads ahead in files of that mount, where a program reads them in"
        " order; 0: as the kernel or the machine has it (128 for most). More waits less for a"
        " store far away, and reads more that is not needed.",
    ] = 15360
    containerd: Annotated[str, "containerd's socket."] = "/run/containerd/containerd.sock"
    snapshotter_name: Annotated[str, "Name of the snapshotter in containerd's configuration."] = (
        keys.SNAPSHOTTER
    )
    default_snapshotter: Annotated[
        bool,
        "True where it is containerd's default snapshotter: pods of every runtime class are then"
        " served, not only those of its own runtime handlers.",
    ] = False
    register_private: Annotated[
        bool,
        "Register images in containerd also from caches that do not serve all namespaces. Pods then"
        " start without asking the registry, pods of other namespaces on the same node, too.",
    ] = False
    listen: Annotated[
        str,
        "HOST:PORT of the page for people, /status, /metrics, /healthz and /readyz; empty: none."
        " The page names the images that run here: keep it on the node.",
        _Address,
    ] = "127.0.0.1:9465"
    metrics_address: Annotated[
        str, "HOST:PORT of /metrics alone, for a Prometheus elsewhere; empty: none.", _Address
    ] = ""
    warm: Annotated[
        str,
        "Images, separated by commas, that are made present before any pod asks for them, beside"
        " those of caches with spec.keepWarm. A cache must have them.",
    ] = ""
    warm_spread: Annotated[
        float,
        "Within which the copying of warm images begins, at a random time on each node: many nodes"
        " that start at once do not all read from the store at once.",
    ] = 120.0
    local: _Local = "after-start"
    local_bytes: Annotated[
        str,
        "What these copies may take together: bytes (20Gi), or a percentage of their file system.",
        _Share,
    ] = "20%"
    local_free: Annotated[
        str,
        "What stays free on that file system; below, copies are removed. Keep it above the"
        " kubelet's own thresholds: eviction at 15% and garbage collection of images at 15%.",
        _Share,
    ] = "20%"
    local_rate: Annotated[
        str, "Bytes a second that are copied at most; 0: no bound.", _Quantity
    ] = "100Mi"
    copied_mounts: Annotated[
        pathlib.Path | None,
        "In a container: a volume with copies of the host's mounts, which are detached at the"
        " start. They would keep the layers of containers that have ended in use.",
    ] = None
    state: Annotated[
        pathlib.Path | None,
        "Local folder for what survives a restart: the measured speed of pulls, and which"
        " containerd was repaired. Empty: savings are estimated from build times until this node"
        " has pulled an image.",
    ] = None
    store_seconds: Annotated[
        float,
        "How long the store may take for one answer. Longer: a dead store is noticed later;"
        " shorter: a busy one counts as dead.",
    ] = 2.0
    containerd_seconds: Annotated[float, "How long containerd may take for one call."] = 10.0
    probe_seconds: Annotated[
        float, "Pause between two checks of store, containerd and snapshotter."
    ] = 5.0
    retired_seconds: Annotated[
        float,
        "Pause between two checks for deletions in the store. Deleted layers leave the store's"
        " disk after this time at the earliest.",
    ] = 30.0
    canary_seconds: Annotated[
        float, "Pause between two checks that a registered image still has its snapshots."
    ] = 10.0
    parallel: Annotated[
        int, "Pods that are prepared at the same time. The images of one pod always are."
    ] = 8
    start_profiles: Annotated[
        Literal["on", "off"],
        "Observe which parts of an image's layers its first start reads, and read these ahead of"
        " its next starts; off: neither.",
    ] = "on"
    read_ahead_bytes: Annotated[
        int, "At most so many bytes are read ahead of the start of one image."
    ] = 512 << 20
    read_ahead_requests: Annotated[
        int, "Requests to the store at the same time, of all that is read ahead on this node."
    ] = 16

    @property
    def warm_images(self) -> tuple[str, ...]:
        """`warm`, one by one."""
        return _items(self.warm)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotter:
    """`uimgacc snapshotter`."""

    root: Annotated[
        pathlib.Path,
        "Local folder for records, layer mounts and what containers write, on the file system of"
        " containerd's own folder; containerd's `exports.root`.",
    ]
    address: Annotated[
        pathlib.Path,
        "Unix socket on which containerd asks: `address` of its `proxy_plugins` entry.",
        _Socket,
    ]
    store: Annotated[
        pathlib.Path | None,
        "Root folder of the shared store; empty: a plain overlayfs snapshotter.",
    ] = None
    local: _Local = "after-start"
    local_mounts: Annotated[
        Literal["loop", "file"],
        "How layers are mounted where copies are made: through loop devices, so that a copy goes"
        " behind the running containers (loop), or from their files, so that it is used from the"
        " next mount on (file).",
    ] = "loop"
    trusted_keys: _TrustedKeys = None
    unsigned: _Unsigned = "auto"
    announced_only: Annotated[
        bool,
        "Serve from the store only after the agent of this node has announced it to the cluster:"
        " deletions do not wait for a node that is not known there.",
    ] = False
    metrics_address: Annotated[str, "HOST:PORT of /metrics; empty: none.", _Address] = ""
    lookup_seconds: Annotated[
        float,
        "How long the store may take to answer for one layer before the pull goes on without it.",
    ] = 2.0
    mount_seconds: Annotated[float, "How long one mount may take."] = 10.0
    verify: Annotated[
        Literal["off", "copy", "always"],
        "Bytes of layers that are verified: none (off), those of a whole layer when its local copy"
        " is made (copy; see UIMGACC_LOCAL), or each block as well when it is read (always), which"
        " needs dm-verity in the node's kernel. Layers without a hash tree are then not served;"
        " `uimgacc store verity` makes them.",
    ] = "copy"
    verify_seconds: Annotated[
        float, "Pause between two looks at which layers have failed verification."
    ] = 10.0
    selinux_context: _SELinuxContext = "auto"
    hang_seconds: Annotated[
        float,
        "After which a snapshotter whose event loop stands still is killed, to be started again;"
        " 0: never.",
    ] = 60.0
    damage_seconds: Annotated[
        float,
        "How often the record of each layer that is served is read again: one that `store check`"
        " has found damaged is not given to new containers; 0: only before each mount.",
    ] = 600.0
    lock_seconds: float = 20.0
    """How long to wait for a predecessor to end (an upgrade) before giving up."""
    tidy_seconds: float = 10.0
    """Pause between two looks at layers that had to stay mounted, but that no snapshot needs."""
    grace_seconds: float = 5.0
    """How long calls may go on after SIGTERM."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Daemon):
    """`uimgacc controller`."""

    store: Annotated[
        pathlib.Path,
        "Root folder of the shared store, mounted writable; an empty folder becomes a store.",
    ]
    namespace: Annotated[str, "Namespace of the builders' Jobs and of the Leases."] = keys.NAMESPACE
    pod: Annotated[
        str, "Name of the controller's own pod: builders get its image and its volume `store`."
    ] = ""
    store_seconds: Annotated[float, "How long the store may take for one answer."] = 20.0
    compression: Annotated[
        Literal["lz4", "none"],
        "Compression of a store that is made: lz4, or none, which containerd 2.4 itself can read.",
    ] = "lz4"
    listen: Annotated[
        str, "HOST:PORT of /metrics, /healthz and /readyz; empty: none.", _Address
    ] = "0.0.0.0:9467"
    api_listen: Annotated[
        str,
        "HOST:PORT of UCloud's API and of the page for people, :PORT for all interfaces; empty:"
        " neither.",
        _Address,
    ] = ""
    api_keys: Annotated[
        pathlib.Path | None,
        "JSON file with the private key of each public key that may use these.",
    ] = None
    api_tls: Annotated[
        pathlib.Path | None,
        "Folder with tls.crt and tls.key for these; empty: plain HTTP, for a proxy that does TLS.",
    ] = None
    webhook_listen: Annotated[
        str,
        "HOST:PORT of the admission webhook, :PORT for all interfaces; empty: none. Its certificate"
        " is made by the controller.",
        _Address,
    ] = ""
    move_pods: Annotated[
        Literal["capable", "always"],
        "When pods that ask for a cache are moved to the runtime class that needs uimgacc: while a"
        " node can take them (capable), or always: then they wait for a node.",
    ] = "capable"
    waiting_seconds: Annotated[
        float,
        "After which a pod of such a class that no node takes gets an event that says why; 0:"
        " never.",
    ] = 60.0
    cluster_id: Annotated[str, "ClusterId that UCloud's API answers for; empty: any."] = ""
    nfs: Annotated[
        str, "SERVER:/EXPORT of the store as the nodes mount it; UCloud's API returns it."
    ] = ""
    uhub: Annotated[
        str, "Registries, separated by commas, that UCloud's user and password are for."
    ] = "uhub.service.ucloud.cn"
    uhub_namespaces: Annotated[
        str,
        "Namespaces, separated by commas, whose pods may use what was pulled with UCloud's user,"
        " without pull secrets of their own; *: all, empty: none, so the registry is always asked.",
    ] = "default"
    plain_http: Annotated[
        str,
        "Registries, separated by commas, that all builds and UCloud's API reach without TLS.",
    ] = ""
    registry_deny: Annotated[
        str,
        "Networks, separated by commas, in which builds and UCloud's API connect to nothing: no"
        " registry, redirect or token endpoint; empty: none. The API server's Service is added.",
        _Networks,
    ] = networks.OWN_HOST
    registry_allow: Annotated[
        str,
        "Hosts, separated by commas, that may be in these networks all the same (* for one label);"
        " so may those of UIMGACC_PLAIN_HTTP.",
    ] = ""
    mirrors: Annotated[
        str,
        "Folders, separated by commas, that say which hosts have the images of a registry, as"
        " containerd's certs.d does, or a registries.yaml of k3s. Builders get the volumes that the"
        " controller's pod has there. Empty: registries are asked themselves.",
    ] = ""
    parallel_builds: Annotated[
        int,
        "Builds that run at the same time; others wait, and namespaces take turns. Each takes a"
        " processor or more.",
    ] = 4
    build_seconds: Annotated[float, "After which a build is given up."] = 14400.0
    retry_seconds: Annotated[
        float,
        "After which a failed build is tried again; three times as long after each failure, up to"
        " an hour.",
    ] = 10.0
    keep_job_seconds: Annotated[
        float,
        "How long the Job of a build, and its log, are kept.",
        flags.Formerly("keep-seconds", variable=False),
    ] = 3600.0
    signatures: Annotated[
        str,
        "ConfigMap in the builders' namespace with policy.yaml: only images with the signatures"
        " that it wants are built; empty: all are.",
    ] = ""
    scratch: Annotated[
        str, "What a builder's local folder may take: the files of a few layers, uncompressed."
    ] = "64Gi"
    builder_patch: Annotated[
        pathlib.Path | None,
        "File with a part of a Job, merged into each builder's: resources, tolerations, proxies.",
    ] = None
    lease_seconds: Annotated[
        float, "After which another controller takes over from one that has not renewed its Lease."
    ] = 15.0
    deletion_seconds: Annotated[
        float, "How long the object of a deleted cache waits for nodes that hold its layers."
    ] = 600.0
    grace_seconds: Annotated[
        float, "After which a node that is gone from the cluster counts as holding nothing."
    ] = 86400.0
    settle_seconds: Annotated[
        float,
        "Until all machines see what was announced in the store: three times acregmax of their"
        " mounts.",
    ] = 180.0
    collect_seconds: Annotated[float, "Pause between two rounds of the garbage collector."] = 60.0
    refresh_hours: Annotated[
        float,
        "After which every cache's tags are looked up again; 0: only where the object asks for it.",
    ] = 0.0
    tag_seconds: Annotated[
        float,
        "How often the tags of caches that serve are looked up, each with one HEAD for all caches"
        " with the same credentials; 0: only after a registry's notification.",
    ] = 600.0
    tag_rate: Annotated[
        float,
        "Tags that are looked up in a second, at all registries together, at most.",
        _Rate,
    ] = 20.0
    push_listen: Annotated[
        str,
        "HOST:PORT for registries' notifications of pushes, :PORT for all interfaces; empty: none.",
        _Address,
    ] = ""
    push_tokens: Annotated[
        pathlib.Path | None,
        "File with the tokens, one a line, of which a notification must have one.",
    ] = None
    push_tls: Annotated[
        pathlib.Path | None,
        "Folder with tls.crt and tls.key for these; empty: plain HTTP, for a proxy that does TLS.",
    ] = None
    serve_stale: Annotated[
        str,
        "What pods get of a tag that has moved: the cached image until-rebuilt, for a time (for"
        " 10m) or never (an ordinary pull meanwhile), or always (the cache is not built again);"
        " empty: until-rebuilt, and always for caches in a cloud's dialect.",
        _ServeStale,
    ] = ""
    pull_images: Annotated[
        int,
        "Images of which it is kept what their pulls cost, for `uimgacc advise`: from the kubelets'"
        " events, in the ConfigMap uimgacc-pulls; 0: no event is read.",
    ] = 2000
    ca: Annotated[
        pathlib.Path | None,
        "PEM file of certificate authorities besides the public ones, for looking tags up.",
    ] = None
    auto_caches: Annotated[
        int,
        "Automatic caches that may exist, 0: none; -1: no limit but those of a namespace and of"
        " bytes. Beyond, those are deleted that could not be built, then those that were not used"
        " for the longest, of the namespace that has the most.",
    ] = -1
    auto_namespace_caches: Annotated[
        int,
        "Automatic caches of one namespace that may exist; beyond, they go as with `auto_caches`.",
    ] = 500
    auto_bytes: Annotated[
        str,
        "What all automatic caches may take in the store together, a layer that several have"
        " counted for each; beyond, the namespace that has the most gives up those that were not"
        " used for the longest. 0: no limit.",
        _Quantity,
    ] = "10Ti"
    auto_factor: Annotated[
        float,
        "So many times what its images have at the registry, compressed, an automatic cache may"
        " take in the store, where that is more than 30 GiB; 0: never more.",
    ] = 3.0
    auto_share: Annotated[
        str,
        "What the automatic caches of one namespace may take in the store together; beyond, those"
        " are deleted that were not used for the longest. One that needs more than 30 GiB is not"
        " built beyond it (with 0, none of these is, and none is deleted).",
        _Quantity,
    ] = "1Ti"
    auto_native: Annotated[
        bool,
        "Automatic caches may be of images with native EROFS layers, which the kernels of nodes"
        " parse as their author has made them.",
    ] = False
    unused_days: Annotated[float, "How long an automatic cache is kept that no pod has used."] = 7.0
    used_days: Annotated[float, "How long an automatic cache is kept after its last use."] = 30.0
    failed_hours: Annotated[
        float,
        "How long the object of an automatic or Alibaba cache that cannot be built is kept.",
    ] = 24.0

    @property
    def plain_http_registries(self) -> tuple[str, ...]:
        """`plain_http`, one by one."""
        return _items(self.plain_http)

    @property
    def allowed_registries(self) -> tuple[str, ...]:
        """The registries that may be in networks of `registry_deny`."""
        return _items(f"{self.registry_allow},{self.plain_http}")

    @property
    def mirror_folders(self) -> tuple[pathlib.Path, ...]:
        """`mirrors`, one by one."""
        return tuple(map(pathlib.Path, _items(self.mirrors)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`uimgacc build`, as the controller's Jobs run it.

    What is the same for all builds of a cluster may also come from the environment, which the
    cluster's own part of the Job sets (docs/use/builders.md).
    """

    store: Annotated[pathlib.Path, "Root folder of the store."]
    cache_id: Annotated[str, "ID of the cache.", flags.FlagOnly()]
    name: Annotated[str, "Name of the cache.", flags.FlagOnly()]
    image: Annotated[tuple[str, ...], "An image that the cache holds.", flags.FlagOnly()]
    capacity_gib: Annotated[int, "What the layers may take in the store.", flags.FlagOnly()]
    capacity_factor: Annotated[
        float,
        "So many times what the images have at the registry the layers may take as well.",
        flags.FlagOnly(),
    ] = 0.0
    capacity_most: Annotated[int, "Bytes up to which that holds.", flags.FlagOnly()] = 0
    platform: Annotated[
        tuple[str, ...],
        "Platform to build for, as linux/arm64; the builder's own where none is named.",
        flags.FlagOnly(),
    ] = ()
    some_platform: Annotated[
        bool, "An image need not have all of the platforms.", flags.FlagOnly()
    ] = False
    no_native_layers: Annotated[
        bool, "Refuse images with native EROFS layers.", flags.FlagOnly()
    ] = False
    namespace: Annotated[
        tuple[str, ...],
        "Namespace whose pods may use the cache; all where none is named.",
        flags.FlagOnly(),
    ] = ()
    retention_days: Annotated[
        int | None, "Days after which the cache is deleted.", flags.FlagOnly()
    ] = None
    plain_http: Annotated[tuple[str, ...], "Registry without TLS.", flags.FlagOnly()] = ()
    insecure: Annotated[
        tuple[str, ...], "Registry whose certificate is not verified.", flags.FlagOnly()
    ] = ()
    registry_deny: Annotated[
        str,
        "Networks, separated by commas, in which nothing is connected to; empty: none. The API"
        " server's Service is added.",
        _Networks,
        flags.FlagOnly(),
    ] = networks.OWN_HOST
    registry_allow: Annotated[
        tuple[str, ...], "Registry that may be in these networks all the same.", flags.FlagOnly()
    ] = ()
    mirrors: Annotated[
        tuple[pathlib.Path, ...],
        "Folder, as containerd's certs.d, or registries.yaml that says which hosts have the images"
        " of a registry.",
        flags.FlagOnly(),
    ] = ()
    signature_policy: Annotated[
        pathlib.Path | None,
        "File that says which images need whose signature; empty: all are built.",
        flags.FlagOnly(),
    ] = None
    ca: Annotated[
        pathlib.Path | None, "PEM file of certificate authorities besides the public ones."
    ] = None
    docker_configs: Annotated[
        pathlib.Path | None,
        "Folder of docker config JSON files with credentials.",
        flags.FlagOnly(),
    ] = None
    acr_instance: Annotated[
        tuple[str, ...],
        "Instance of Alibaba's Container Registry, as [REGION:]cri-...",
        flags.FlagOnly(),
    ] = ()
    image_credential_provider_config: Annotated[
        pathlib.Path | None, "The kubelet's CredentialProviderConfig: its plug-ins are asked, too."
    ] = None
    image_credential_provider_bin_dir: Annotated[
        pathlib.Path | None,
        "Folder of the programs of these plug-ins; empty: beside their configuration.",
    ] = None
    scratch: Annotated[
        pathlib.Path | None,
        "Local folder for the files of layers at work; empty: TMPDIR, else /tmp.",
        flags.FlagOnly(),
    ] = None
    scratch_bytes: Annotated[
        int | None,
        "What layers at work may take there together; empty: all but a reserve of the disk.",
        flags.FlagOnly(),
    ] = None
    parallel: Annotated[
        int,
        "Layers worked on at a time; each may take a processor and 40 MiB.",
        flags.FlagOnly(),
    ] = 3
    job: Annotated[
        str, "Name of the Job, under which the controller reads the report.", flags.FlagOnly()
    ] = ""
    termination_message: Annotated[
        pathlib.Path | None,
        "File for the reason of a failure, or for what the build vouches for.",
        flags.FlagOnly(),
    ] = None
    keys_json: Annotated[
        str,
        "Keys of the store, as JSON: a stored layer that none of them has signed is made again.",
        flags.FlagOnly(),
    ] = ""


ROLES: Mapping[str, type] = {
    "agent": Agent,
    "snapshotter": Snapshotter,
    "controller": Controller,
    "build": Build,
}
"""The settings of each role, by the name of its command."""
