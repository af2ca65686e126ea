"""Run a `uimgacc` command in a fork of a process that has imported its modules already.

Where a command is run a hundred times, most of the processor's time would go into imports. The
process that forks has one thread and has run nothing. What is forked is a process of its own, with
its own end, be that a kill.
"""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence

from agent.cli import entry
from tests import crashing


class Forker:
    """Runs commands, one after the other; a context manager.

    `modules` are what the commands import when they run.
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=pathlib.Path(__file__).parents[1],
            start_new_session=True,
        )

    def __enter__(self) -> "Forker":
        return self

    def __exit__(self, *exc: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def run(self, command: Sequence[str], *, die: tuple[str, str, int] | None = None) -> int:
        """The exit status of a command; `die` is where it is killed, as in tests.crashing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps([die, list(command)])}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    """Fork for each line of the standard input; write the exit status of what was forked."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            be(*json.loads(line))
            return
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def be(die: tuple[str, str, int] | None, command: list[str]) -> None:
    """Be the process of a command, which reads nothing and is not heard."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (sys.stdin, sys.stdout):
        os.dup2(nothing, standard.fileno())
    if die is not None:
        crashing.arm(*die)
    sys.argv = ["uimgacc", *command]
    entry.main()


if __name__ == "__main__":
    main()
