"""Commands that install uimgacc in a cluster and remove it: enable, disable."""

import sys
from typing import Annotated

import typer

from agent.cli import options, output

app = typer.Typer()


@app.command()
@output.reported
def enable(
    nfs: Annotated[
        str,
        typer.Option(
            envvar="UIMGACC_NFS",
            help="SERVER:/PATH of the NFS export that holds the store. Needed, unless --component"
            " claim takes the store from a PersistentVolumeClaim.",
            show_default=False,
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            help="Container image of uimgacc, in a registry that your nodes can pull from; by"
            " default the one that the manifests name."
        ),
    ] = "",
    overlay: options.Overlay = "runtimeclass",
    component: options.Component = None,
    username: Annotated[
        str,
        typer.Option(
            help="User of UCloud's registry UHub who may push, for `create IMAGE TARGET`; with"
            " --password-stdin."
        ),
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read that user's password from stdin.")
    ] = False,
    kubeconfig: options.Kubeconfig = "",
    wait: options.Wait = True,
    seconds: options.Timeout = 600,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the manifests that would be applied."),
    ] = False,
) -> None:
    """Install or update uimgacc in a cluster and switch it on.

    Applies the manifests with your kubeconfig and waits until all nodes serve images. Where the
    cluster's release has no policies that change pods, the component webhook is added. Repeat the
    command at any time.

    Example: uimgacc enable --nfs 10.0.0.5:/uimgacc --image registry.example.com/uimgacc:0.1.0
    """
    from agent.cli import cluster_access
    from agent.cli.install import installation, rendering

    if bool(username) is not password_stdin:
        raise output.UsageError("--username and --password-stdin go together")
    wanted = rendering.Wanted(
        nfs=nfs,
        overlay=overlay,
        components=tuple(component or ()),
        image=image,
        username=username,
        password=sys.stdin.readline().rstrip("\n") if password_stdin else "",
    )
    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    installation.enable(cluster, wanted, wait=wait, dry_run=dry_run, seconds=seconds)


@app.command()
@output.reported
def disable(
    uninstall: Annotated[
        bool,
        typer.Option(
            "--uninstall",
            help="Also remove uimgacc and leave every node as it was. ImageCache objects and the"
            " store stay.",
        ),
    ] = False,
    overlay: options.Overlay = "runtimeclass",
    component: options.Component = None,
    image: Annotated[
        str,
        typer.Option(
            help="With --uninstall: container image of uimgacc that restores the nodes; by default"
            " the one that the agents run."
        ),
    ] = "",
    kubeconfig: options.Kubeconfig = "",
    wait: options.Wait = True,
    seconds: options.Timeout = 600,
) -> None:
    """Switch acceleration off in a cluster, or uninstall it.

    Nodes lose their label, and pods pull their images as usual. Running pods are not affected.
    `enable` switches it on again.
    """
    from agent.cli import cluster_access
    from agent.cli.install import installation, rendering

    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    removed = None
    if uninstall:
        parts = tuple(component or ())
        # The address is not in what is removed.
        nfs = "" if rendering.CLAIM in parts else "none:/"
        removed = rendering.Wanted(nfs=nfs, overlay=overlay, components=parts, image=image)
    installation.disable(cluster, removed, wait=wait, seconds=seconds)
