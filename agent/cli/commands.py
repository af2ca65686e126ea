"""The command line: one module for each subject, put together here.

What a command does stands in a module that is imported when it runs, so that `--help`
and tab completion answer at once.
"""

import typer

from agent.cli import role_commands
from agent.cli.advice import advice_commands
from agent.cli.bugreport import bugreport_commands
from agent.cli.caches import cache_commands, store_commands
from agent.cli.cluster import cluster_commands
from agent.cli.install import install_commands
from agent.cli.machine import machine_commands, profile_commands
from agent.cli.nodes import node_commands
from agent.cli.pods import pod_commands

app = typer.Typer(
    name="uimgacc",
    help="Starts large container images in a fraction of the time of a pull: each image is unpacked"
    " once into a shared store, and every node mounts it from there.",
    epilog="Exit status: 0 done, 1 failed or found a problem, 2 wrong use, 3 not found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for subject in (
    install_commands,
    cluster_commands,
    pod_commands,
    bugreport_commands,
    cache_commands,
    advice_commands,
    machine_commands,
):
    app.add_typer(subject.app)
app.add_typer(node_commands.app, name="node")
app.add_typer(store_commands.app, name="store")
app.add_typer(profile_commands.app, name="profile")
app.add_typer(role_commands.app)


def run() -> None:
    """Parse `sys.argv` and run the command that it names."""
    app()
