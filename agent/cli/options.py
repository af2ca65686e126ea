"""Options that several commands share, each declared once."""

import pathlib
from typing import Annotated

import typer

Store = Annotated[
    pathlib.Path,
    typer.Option(
        envvar="UIMGACC_STORE",
        help="Folder of the store: a directory on shared storage, or a local one.",
        show_default=False,
    ),
]
MaybeStore = Annotated[
    pathlib.Path | None,
    typer.Option(
        envvar="UIMGACC_STORE",
        help="Work on the store in this folder, without a cluster. By default the command works"
        " on a cluster.",
    ),
]
Kubeconfig = Annotated[
    str,
    typer.Option(
        help="Kubeconfig file of the cluster; by default as for kubectl: KUBECONFIG,"
        " ~/.kube/config, or the service account of the pod."
    ),
]
System = Annotated[
    str,
    typer.Option(
        "--system-namespace",
        envvar="UIMGACC_NAMESPACE",
        help="Namespace that uimgacc is installed in.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Wait until it is done and show progress, or return at once."
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for the nodes.")]
Overlay = Annotated[
    str,
    typer.Option(
        help="runtimeclass: only pods of the runtime class `uimgacc`, which a policy gives to pods"
        " that ask for a cache. default-snapshotter: all pods."
    ),
]
Component = Annotated[
    list[str] | None,
    typer.Option(
        help="Optional part of the installation, a folder of manifests/components such as"
        " `alibaba` or `claim`. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ContainerdConfig = Annotated[
    str,
    typer.Option(
        envvar="UIMGACC_CONTAINERD_CONFIG",
        help="containerd's main configuration file; by default the one that is in use, also that"
        " of k3s and RKE2.",
    ),
]
ContainerdBinary = Annotated[
    str,
    typer.Option(
        envvar="UIMGACC_CONTAINERD_BINARY",
        help="containerd program to ask about a configuration; by default the one that runs.",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        envvar="UIMGACC_ADDRESS", help="Socket on which the snapshotter serves containerd."
    ),
]
Root = Annotated[
    str,
    typer.Option(
        envvar="UIMGACC_ROOT",
        help="Local folder of the snapshotter; by default the folder that containerd would name.",
    ),
]
Mkfs = Annotated[
    str, typer.Option(envvar="UIMGACC_MKFS", help="mkfs.erofs program to use for layers.")
]

SOCKET = "/run/uimgacc/snapshotter.sock"
MKFS = "mkfs.erofs"
