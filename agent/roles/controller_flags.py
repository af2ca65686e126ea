"""The flags of `uimgacc controller`, and their environment variables."""

from collections.abc import Sequence

from agent import settings
from agent.kits import flags

_FLAGS: Sequence[flags.Flag] = (
    ("store", flags.path, "root folder of the shared store; an empty one becomes a store"),
    ("namespace", str, "namespace of the builders and of the leader's Lease"),
    ("pod", str, "name of this pod: builders get its image and its volume of the store"),
    ("kubeconfig", flags.path, "how to reach the API server; without it, as a pod does"),
    ("service-account", flags.path, "folder of the pod's token and the API server's authority"),
    ("api-seconds", float, "how long the API server may take for one answer"),
    ("store-seconds", float, "how long the store may take for one answer"),
    ("compression", str, "lz4 or none: of a store that is made"),
    ("listen", str, "host:port of /metrics, /healthz, /readyz; empty: nowhere"),
    ("api-listen", str, "host:port of UCloud's API and of the page; empty: nowhere"),
    ("api-keys", flags.path, "JSON file: private keys by public key, of who may use those"),
    ("api-tls", flags.path, "folder with tls.crt and tls.key for those"),
    ("cluster-id", str, "ClusterId that UCloud's API answers for; empty: any"),
    ("nfs", str, "SERVER:/EXPORT of the store, as the nodes mount it"),
    ("uhub", str, "registries that UCloud's user and password are for, with commas"),
    ("uhub-namespaces", str, "namespaces that caches made with that user serve; *: all"),
    ("plain-http", str, "registries without TLS, with commas: for all builds and UCloud's API"),
    ("parallel-builds", int, "builds that run at the same time"),
    ("build-seconds", float, "after which a build is given up"),
    ("retry-seconds", float, "after which a build that failed is tried again, at first"),
    ("lease-seconds", float, "after which a silent leader is replaced"),
    ("keep-seconds", float, "for how long a build's Job and log are kept"),
    ("scratch", str, "what a builder's local folder may take"),
    ("builder-patch", flags.path, "file with a part of a Job, merged into each builder's"),
    ("deletion-seconds", float, "for how long a deleted object waits for nodes"),
    ("grace-seconds", float, "after which a node that is gone holds nothing"),
    ("settle-seconds", float, "until what the store announces is seen by all machines"),
    ("collect-seconds", float, "how often the collector looks"),
    ("refresh-hours", float, "after which all tags are looked up again; 0: never"),
    ("auto-caches", int, "automatic caches that may exist"),
    ("unused-days", float, "for which an automatic cache is kept that nobody uses"),
    ("used-days", float, "for which an automatic cache is kept after its last use"),
    ("failed-hours", float, "for which an automatic cache is kept that cannot be built"),
    ("stop-seconds", float, "how long a clean stop may take"),
    ("verbose", flags.truth, "true: log routine, too"),
)


def parse(arguments: Sequence[str]) -> settings.Controller:
    """Read flags and their environment variables (UIMGACC_STORE for --store, ...)."""
    parser = flags.parser(
        "uimgacc controller",
        "Keeps the store as ImageCache objects want it: builds, expires, deletes.",
        _FLAGS,
        settings.Controller,
    )
    found = settings.Controller(**vars(parser.parse_args(arguments)))
    if found.compression not in ("lz4", "none"):
        parser.error(f"--compression: lz4 or none, not {found.compression}")
    return found
