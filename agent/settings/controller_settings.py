"""The settings of `uimgacc controller`."""

import dataclasses
import pathlib
from typing import Annotated, Literal

from agent.kits import flags, networks
from agent.model import keys
from agent.settings import daemon_settings, setting_types


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Controller(daemon_settings.Daemon):
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
        str, "HOST:PORT of /metrics, /healthz and /readyz; empty: none.", setting_types.Address
    ] = "0.0.0.0:9467"
    api_listen: Annotated[
        str,
        "HOST:PORT of UCloud's API and of the page for people, :PORT for all interfaces; empty:"
        " neither.",
        setting_types.Address,
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
        setting_types.Address,
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
        setting_types.Networks,
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
        "Most tags that are looked up in a second, at all registries together.",
        setting_types.Rate,
    ] = 20.0
    push_listen: Annotated[
        str,
        "HOST:PORT for registries' notifications of pushes, :PORT for all interfaces; empty: none.",
        setting_types.Address,
    ] = ""
    push_tokens: Annotated[
        pathlib.Path | None,
        "File with tokens, one on each line; a notification must have one of them.",
    ] = None
    push_tls: Annotated[
        pathlib.Path | None,
        "Folder with tls.crt and tls.key for these; empty: plain HTTP, for a proxy that does TLS.",
    ] = None
    serve_stale: Annotated[
        str,
        "What pods get when a tag has moved: the cached image until it is built again"
        " (until-rebuilt), for a time (for 10m), never (an ordinary pull meanwhile), or always"
        " (the cache is not built again); empty: until-rebuilt, but always for caches in a"
        " cloud's dialect.",
        setting_types.ServeStale,
    ] = ""
    pull_images: Annotated[
        int,
        "For how many images the costs of pulls are kept, for `uimgacc advise`: they are read"
        " from kubelets' events and written to the ConfigMap uimgacc-pulls; 0: no event is read.",
    ] = 2000
    ca: Annotated[
        pathlib.Path | None,
        "PEM file of certificate authorities besides the public ones, for looking tags up.",
    ] = None
    auto_caches: Annotated[
        int,
        "Most automatic caches; 0: none, -1: no limit except those for a namespace and in bytes."
        " Above it, caches that could not be built are deleted first, then the least recently"
        " used ones of the namespace that has the most.",
    ] = -1
    auto_namespace_caches: Annotated[
        int,
        "Most automatic caches of one namespace; above it, they are deleted as with `auto_caches`.",
    ] = 500
    auto_bytes: Annotated[
        str,
        "What all automatic caches may take in the store together; a layer counts once for each"
        " cache that has it. Above it, the least recently used caches of the namespace that takes"
        " the most are deleted. 0: no limit.",
        setting_types.Quantity,
    ] = "10Ti"
    auto_factor: Annotated[
        float,
        "An automatic cache may take so many times the compressed size of its images at the"
        " registry, where that is more than 30 GiB; 0: 30 GiB at most.",
    ] = 3.0
    auto_share: Annotated[
        str,
        "What the automatic caches of one namespace may take in the store together; above it, the"
        " least recently used are deleted. A cache that needs more than 30 GiB is not built if"
        " that would exceed this value. With 0, no such cache is built, and none is deleted.",
        setting_types.Quantity,
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
        return setting_types.comma_separated(self.plain_http)

    @property
    def allowed_registries(self) -> tuple[str, ...]:
        """The registries that may be in networks of `registry_deny`."""
        return setting_types.comma_separated(f"{self.registry_allow},{self.plain_http}")

    @property
    def mirror_folders(self) -> tuple[pathlib.Path, ...]:
        """`mirrors`, one by one."""
        return tuple(map(pathlib.Path, setting_types.comma_separated(self.mirrors)))
