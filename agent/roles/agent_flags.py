"""The flags of `uimgacc agent`, and their environment variables."""

import argparse
from collections.abc import Sequence

from agent import settings
from agent.kits import flags
from agent.node.health import node_patch


def _taint(text: str) -> str:
    try:
        if text:
            node_patch.parse_taint(text)
    except node_patch.TaintError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


_FLAGS: Sequence[flags.Flag] = (
    ("pods", flags.path, "folder of pod manifests, where there is no cluster"),
    ("kubernetes", str, "name of this node: its pods come from the API server"),
    ("kubeconfig", flags.path, "how to reach the API server; without it, as a pod does"),
    ("service-account", flags.path, "folder of the pod's token and the API server's authority"),
    ("api-seconds", float, "how long the API server may take for one answer"),
    ("drain", flags.truth, "true: serve nothing and let go of what nothing uses"),
    ("startup-taint", _taint, "KEY[=VALUE]:EFFECT to take off the node once it can serve"),
    ("store", flags.path, "root folder of the shared store"),
    ("nfs", str, "SERVER:/EXPORT to mount as the store; empty: the store is there already"),
    ("nfs-options", str, "options of that mount, beside or instead of the defaults"),
    ("nfs-seconds", float, "how long the NFS server may take for one mount"),
    ("containerd", str, "containerd's socket"),
    ("snapshotter-name", str, "name of our snapshotter in containerd's configuration"),
    ("default-snapshotter", flags.truth, "true where it is containerd's default snapshotter"),
    ("listen", str, "host:port of the page, /status, /metrics, /healthz, /readyz; empty: nowhere"),
    ("metrics-address", str, "host:port for /metrics alone; empty: nowhere"),
    ("copied-mounts", flags.path, "a container's volume: what is mounted below it is let go of"),
    ("state", flags.path, "local folder for what should survive a restart"),
    ("store-seconds", float, "how long the store may take for one answer"),
    ("containerd-seconds", float, "how long containerd may take for one call"),
    ("probe-seconds", float, "how often store, containerd and snapshotter are probed"),
    ("retired-seconds", float, "how often the store is asked what was deleted"),
    ("canary-seconds", float, "how often a registered image is checked"),
    ("parallel", int, "pods served at the same time"),
    ("stop-seconds", float, "how long a clean stop may take"),
    ("verbose", flags.truth, "true: log routine, too"),
)


def parse(arguments: Sequence[str]) -> settings.Agent:
    """Read flags and their environment variables (UIMGACC_STORE for --store, ...)."""
    parser = flags.parser(
        "uimgacc agent",
        "The node agent: has the images of this node's pods present before they start.",
        _FLAGS,
        settings.Agent,
    )
    found = settings.Agent(**vars(parser.parse_args(arguments)))
    if bool(found.pods) is bool(found.kubernetes):
        parser.error("either --pods or --kubernetes is needed: where pods come from")
    return found
