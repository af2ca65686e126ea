"""The settings of `uimgacc agent`."""

import dataclasses
import pathlib
from typing import Annotated, Literal

from agent.model import keys
from agent.settings import daemon_settings, setting_types


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agent(daemon_settings.Daemon):
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
    trusted_keys: setting_types.TrustedKeys = None
    unsigned: setting_types.Unsigned = "auto"
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
    native: Annotated[
        bool,
        "Serve images by the EROFS snapshotter of containerd 2.4 in place of uimgacc's, as"
        " `uimgacc node-setup --native` sets it up.",
    ] = False
    native_folder: Annotated[
        pathlib.Path,
        "With UIMGACC_NATIVE: local folder of links to layers, which containerd has as a cache of"
        " layers. Snapshots refer to it.",
    ] = keys.NATIVE_FOLDER
    native_compressed: Annotated[
        bool,
        "With UIMGACC_NATIVE: serve a store with compressed layers as well. Only where containerd"
        " has the change of its pull request 14077; without it such containers do not start.",
    ] = False
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
        setting_types.Address,
    ] = "127.0.0.1:9465"
    metrics_address: Annotated[
        str,
        "HOST:PORT of /metrics alone, for a Prometheus elsewhere; empty: none.",
        setting_types.Address,
    ] = ""
    warm: Annotated[
        str,
        "Images, separated by commas, that are made present before any pod asks for them, beside"
        " those of caches with spec.keepWarm. A cache must have them.",
    ] = ""
    warm_spread: Annotated[
        float,
        "Copying of warm images begins at a random time within so many seconds, so that many"
        " nodes that start together do not all read from the store at once.",
    ] = 120.0
    local: setting_types.Local = "after-start"
    local_bytes: Annotated[
        str,
        "What these copies may take together: bytes (20Gi), or a percentage of their file system.",
        setting_types.Share,
    ] = "20%"
    local_free: Annotated[
        str,
        "What stays free on that file system; when less is free, copies are removed. Keep it"
        " above the kubelet's own thresholds: eviction at 15% and garbage collection of images at"
        " 15%.",
        setting_types.Share,
    ] = "20%"
    local_rate: Annotated[
        str, "Most bytes that are copied in a second; 0: no limit.", setting_types.Quantity
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
        int, "Most bytes that are read ahead of the start of one image."
    ] = 512 << 20
    read_ahead_requests: Annotated[
        int,
        "Most requests to the store at the same time, for everything that this node reads ahead.",
    ] = 16

    @property
    def warm_images(self) -> tuple[str, ...]:
        """`warm`, one by one."""
        return setting_types.comma_separated(self.warm)
