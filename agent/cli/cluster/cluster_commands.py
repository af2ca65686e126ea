"""Commands about a cluster as a whole: status."""

from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command()
@output.reported
def status(
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every ten seconds.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show on one screen whether it works, whether it pays, and what is wrong.

    How many nodes serve images and why the others do not, seconds and bytes saved today by image,
    and each problem with the command that mends it. Reads only. Exit status 1: something is wrong,
    or could not be read.
    """
    from agent.cli import cluster_access
    from agent.cli.cluster import status_command

    if watch and as_json:
        raise output.UsageError("--watch is for people, --json for programs: give one of them")
    target = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    status_command.status(target, as_json=as_json, watch=watch)
