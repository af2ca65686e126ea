"""`uimgacc`: the one executable, one subcommand per role and per task of a person.

The snapshotter is dispatched before anything else is imported: containers'
starts depend on it, so it is kept small (60 MiB with 500 layers) and does not
load the libraries that the other commands need. The agent, a daemon as well,
does without those of the command line, too.

The other roles are imported without the garbage collector, which would look through all modules
time and again and take a fifth of the start; nothing of them is ever garbage. It goes through what
comes after them only: else each full collection would hold up the event loop for 40 ms.
"""

import gc
import sys


def main() -> None:
    """Run the command that `sys.argv` names."""
    if sys.argv[1:2] == ["snapshotter"]:
        from agent.roles import snapshotter

        sys.exit(snapshotter.main(sys.argv[2:]))
    if sys.argv[1:2] == ["agent"]:
        gc.disable()
        from agent.roles import agent

        _collect_from_now_on()
        sys.exit(agent.main(sys.argv[2:]))
    if sys.argv[1:2] == ["build"]:
        gc.disable()
        from agent.roles import builder

        _collect_from_now_on()
        sys.exit(builder.main(sys.argv[2:]))
    if sys.argv[1:2] == ["controller"]:
        gc.disable()
        from agent.roles import controller

        _collect_from_now_on()
        sys.exit(controller.main(sys.argv[2:]))
    from agent.cli import commands

    commands.run()


def _collect_from_now_on() -> None:
    gc.freeze()
    gc.enable()
