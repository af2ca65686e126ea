"""Commands about single nodes: node list, enable, disable, resume."""

from typing import Annotated

import typer

from agent.cli import options, output

app = typer.Typer(
    help="Single nodes of a cluster: which serve, whose containerd restarts, in and out.",
    no_args_is_help=True,
)

_Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node in the cluster.")]
_Cordon = Annotated[
    bool,
    typer.Option(
        "--cordon",
        help="Let no new pods come to the node meanwhile; at the end it is uncordoned, unless it"
        " was cordoned before.",
    ),
]


@app.command("list")
@output.reported
def list_nodes(kubeconfig: options.Kubeconfig = "", as_json: options.Json = False) -> None:
    """List the nodes: do they serve images, which hold a slot, and why not."""
    from agent.cli import cluster_access
    from agent.cli.nodes import node_table

    node_table.show(cluster_access.Target(kubeconfig=kubeconfig), as_json=as_json)


@app.command("enable")
@output.reported
def enable(
    name: _Name,
    cordon: _Cordon = False,
    kubeconfig: options.Kubeconfig = "",
    wait: options.Wait = True,
    seconds: options.Timeout = 600,
) -> None:
    """Set a node up that was disabled.

    Its containerd is restarted once, when one of the cluster's slots is free. Running containers
    are not affected.
    """
    from agent.cli import cluster_access
    from agent.cli.nodes import node_switch

    if cordon and not wait:
        raise output.UsageError("--cordon goes with --wait: the node is uncordoned at the end")
    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    node_switch.enable(cluster, name, cordon=cordon, wait=wait, seconds=seconds)


@app.command("disable")
@output.reported
def disable(
    name: _Name,
    cordon: _Cordon = False,
    kubeconfig: options.Kubeconfig = "",
    seconds: options.Timeout = 600,
) -> None:
    """Put a node back as it was before uimgacc.

    Refused while pods of the node run on the snapshotter; with --cordon it waits until they are
    gone. Images that only the snapshotter has are removed, and containerd is restarted once. Run
    it again to go on where it has ended too early.
    """
    from agent.cli import cluster_access
    from agent.cli.nodes import node_switch

    cluster = cluster_access.Target(kubeconfig=kubeconfig)
    node_switch.disable(cluster, name, cordon=cordon, seconds=seconds)


@app.command("resume")
@output.reported
def resume(name: _Name, kubeconfig: options.Kubeconfig = "") -> None:
    """Free the slot of a node that did not come back, so that the next node may begin.

    See to the node first. One that recovers frees its slot by itself.
    """
    from agent.cli import cluster_access
    from agent.cli.nodes import node_resume

    node_resume.resume(cluster_access.Target(kubeconfig=kubeconfig), name)
