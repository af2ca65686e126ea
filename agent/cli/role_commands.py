"""The roles, which the manifests run, and the version.

The roles stand here for `--help` only: agent.cli.entry starts them before typer is loaded.
"""

import typer

from agent.cli import options, output

app = typer.Typer()


@app.command(add_help_option=False)
def agent() -> None:
    """Run the node agent: has images present before pods start."""


@app.command(add_help_option=False)
def snapshotter() -> None:
    """Run the snapshotter: serves layers of the store to containerd."""


@app.command(add_help_option=False)
def controller() -> None:
    """Run the controller: builds and deletes caches of a cluster."""


@app.command(add_help_option=False)
def build() -> None:
    """Run a builder: builds one cache, in a Job of the controller."""


@app.command()
@output.reported
def version(as_json: options.Json = False) -> None:
    """Print the version of this program."""
    from importlib import metadata

    number = metadata.version("uimgacc")
    if as_json:
        output.show_json({"version": number})
    else:
        print(f"uimgacc {number}")
