"""`uimgacc`: the one executable, one subcommand per role and per task of a person.

The snapshotter is dispatched before anything else is imported: containers'
starts depend on it, so it is kept small (60 MiB with 500 layers) and does not
load the libraries that the other commands need. The agent, a daemon as well,
does without those of the command line, too.
"""

import sys


def main() -> None:
    """Run the command that `sys.argv` names."""
    if sys.argv[1:2] == ["snapshotter"]:
        from agent.roles import snapshotter

        sys.exit(snapshotter.main(sys.argv[2:]))
    if sys.argv[1:2] == ["agent"]:
        from agent.roles import agent

        sys.exit(agent.main(sys.argv[2:]))
    if sys.argv[1:2] == ["build"]:
        from agent.roles import builder

        sys.exit(builder.main(sys.argv[2:]))
    if sys.argv[1:2] == ["controller"]:
        from agent.roles import controller

        sys.exit(controller.main(sys.argv[2:]))
    from agent.cli import commands

    commands.run()
