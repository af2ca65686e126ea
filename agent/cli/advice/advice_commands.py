"""Commands about what pulls cost: advise."""

from typing import Annotated

import typer

from agent.cli import options, output
from agent.model import keys

app = typer.Typer()


@app.command()
@output.reported
def advise(
    kubeconfig: options.Kubeconfig = "",
    system: options.System = keys.NAMESPACE,
    since: Annotated[
        str, typer.Option(help="How far to look back, as 30m, 24h or 7d; a week at most.")
    ] = "24h",
    count: Annotated[
        int, typer.Option("--next", min=1, max=100, help="Images to cache next.")
    ] = 10,
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="Read the cluster's events now, of the last hour in most clusters, in place of"
            " the controller's account of a week. Needs no controller.",
        ),
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print only the ImageCaches for the next images.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Create these ImageCaches in the cluster.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show which images cost the fleet most time and bytes of pulling, and what to cache next.

    The figures are those that kubelets report. What a cache would have saved: each download's
    median time but one second, for as often as the image was downloaded.

    Example: uimgacc advise --since 7d --next 5 --apply
    """
    from agent.cli import cluster_access
    from agent.cli.advice import advise_command

    if as_yaml and as_json:
        raise output.UsageError("give --yaml or --json")
    target = cluster_access.Target(kubeconfig=kubeconfig, namespace=system)
    wanted = advise_command.Wanted(
        hours=advise_command.hours_of(since), count=count, events=events, apply=apply
    )
    form: advise_command.Form = "yaml" if as_yaml else "json" if as_json else "table"
    advise_command.advise(target, wanted, form=form)
