"""Commands about reports of faults: bugreport."""

from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command()
@output.reported
def bugreport(
    path: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write, a .tar.gz; by default a name with the time, in this folder.",
        ),
    ] = "",
    node: Annotated[
        bool,
        typer.Option(
            "--node", help="Report about this machine (run it as root), without a cluster."
        ),
    ] = False,
    agents: Annotated[
        int, typer.Option(min=0, max=100, help="How many agents to ask, those not ready first.")
    ] = 5,
    pods: Annotated[
        int, typer.Option(min=0, max=500, help="Of how many pods of uimgacc to read the logs.")
    ] = 20,
    lines: Annotated[
        int, typer.Option(min=1, max=100_000, help="Last lines of each container's log.")
    ] = 2000,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds to collect; what is there then is written.")
    ] = 300.0,
    store: options.MaybeStore = None,
    config: options.ContainerdConfig = "",
    containerd_binary: options.ContainerdBinary = "",
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    as_json: options.Json = False,
) -> None:
    """Collect what a maintainer needs to find a fault, without secrets.

    Versions, manifests, settings, nodes' conditions, image caches, logs, events and what agents
    say go into one archive of at most 24 MiB before compression. Secrets are never read, and
    what looks like a credential is taken out everywhere. Needs rights to read only.
    """
    from agent.cli import cluster_access
    from agent.cli.bugreport import bugreport_command, cluster_material
    from agent.setup.doctor import examination

    wanted = bugreport_command.Wanted(path=path, seconds=seconds)
    if node:
        patient = examination.Patient(
            store=store, config=config, containerd_binary=containerd_binary
        )
        bugreport_command.of_machine(wanted, patient, as_json=as_json)
        return
    target = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    amount = cluster_material.Wanted(namespace=system, agents=agents, pods=pods, lines=lines)
    bugreport_command.of_cluster(target, wanted, amount, as_json=as_json)
