"""Commands about pods: why, match."""

from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command()
@output.reported
def match(
    store: options.Store,
    file: Annotated[
        str,
        typer.Argument(
            help="YAML file with pods, Deployments, Jobs or other workloads, and perhaps their"
            " Namespace with its labels. -: read from stdin."
        ),
    ],
    platform: Annotated[
        str,
        typer.Option(help="Platform of the node, as linux/arm64; by default that of this machine."),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Show which cache would serve the pods of a manifest.

    Explains it image by image. Decides as the node agent does; changes nothing.
    """
    from agent.cli.pods import match_command

    match_command.match(store, file, platform=platform, as_json=as_json)


@app.command()
@output.reported
def why(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="POD, NAMESPACE/POD, a workload as TYPE/NAME (deployment/web), an image"
            " (registry.example.com/team/app:1), or imc/NAME.",
        ),
    ],
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="The namespace of the pod or workload.")
    ] = "default",
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    as_json: options.Json = False,
) -> None:
    """Say why a pod was accelerated, or was not; why an image is cached, or is not.

    One sentence, then the evidence. Of a pod, or of the newest one of a workload: whether it asks,
    its runtime, its node, the cache that matches or the nearest miss, what the agent of its node
    did, events, what was saved. Of an image: the caches and policies that name it, and what its
    pulls cost. What may not be read is said.
    """
    from agent.cli import cluster_access
    from agent.cli.pods import why_command, why_subject

    target = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    why_command.why(target, why_subject.parse(subject, namespace), as_json=as_json)
