"""Commands about pods: match."""

from typing import Annotated

import typer

from agent.cli import options, output

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
