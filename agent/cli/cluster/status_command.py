"""`uimgacc status`: reads a cluster and shows it, once or again and again."""

import time

import typer

from agent.cli import cluster_access, output, progress
from agent.cli.cluster import problems, status_view, survey, surveying

_AGAIN = 10.0


def status(target: cluster_access.Target, *, as_json: bool, watch: bool) -> None:
    """Show how a cluster is; exit with 1 where something is wrong, or could not be read."""
    while True:
        read = _read(target, quiet=as_json or watch)
        found = problems.of_survey(read)
        console = output.console()
        if as_json:
            output.show_json(status_view.to_json(read, found))
        else:
            if watch:
                console.clear()
            status_view.show(console, read, found)
        if not watch:
            break
        time.sleep(_AGAIN)
    if not status_view.is_well(read, found):
        raise typer.Exit(output.Status.FAILED)


def _read(target: cluster_access.Target, *, quiet: bool) -> survey.Survey:
    # Lines about the progress would be the whole of what a script logs.
    shown = output.console(stderr=True).is_terminal and not quiet
    with progress.shown(quiet=not shown) as report:
        return cluster_access.run(
            target,
            lambda client: surveying.read(client, namespace=target.namespace, report=report),
        )
