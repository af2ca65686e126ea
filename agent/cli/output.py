"""How commands print: results on stdout, everything else on stderr, one line for an error.

Exit status: 0 done; 1 failed, or something found wrong; 2 wrong use of the
command line; 3 what was named does not exist; 130 interrupted.
"""

import datetime
import enum
import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

import typer

from agent import errors
from agent.kits import units
from agent.model import times

if TYPE_CHECKING:
    import rich.console
    import rich.table

Parameters = ParamSpec("Parameters")

_NUMERIC = frozenset(
    {"SIZE", "LAYERS", "AGE", "PULLED", "IN STORE", "IMAGES"}
    | {"PULLS", "NODES", "TIME", "BYTES", "WOULD SAVE", "SAVED TODAY"}
)


class Status(enum.IntEnum):
    """Exit status of the command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    INTERRUPTED = 130


class NotFound(errors.PermanentError):
    """What the command line names does not exist; `name` is it."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class UsageError(errors.PermanentError):
    """Options that do not go together, or a file that cannot be used."""


def reported(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose foreseen errors are one line on stderr and an exit status."""

    @functools.wraps(command)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            fail("interrupted", Status.INTERRUPTED)
        except NotFound as error:
            fail(str(error), Status.NOT_FOUND)
        except UsageError as error:
            fail(str(error), Status.USAGE)
        except errors.AgentError as error:
            fail(str(error), Status.FAILED)
        except BrokenPipeError:
            # The reader (`| head`) has seen enough; the flush at exit must not report an error.
            sys.stdout = None
            raise typer.Exit(Status.OK) from None
        except OSError as error:
            fail(_of_system(error), Status.FAILED)

    return run


def fail(message: str, status: Status) -> None:
    """Say why on stderr and end the command."""
    print(f"uimgacc: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(status)


def say(message: str) -> None:
    """Print something that is not the result, on stderr."""
    print(message, file=sys.stderr)


def show_json(value: object) -> None:
    """Print a result for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> "rich.console.Console":
    """A terminal as it is; without one 200 columns wide, so that pipes get whole lines."""
    import rich.console

    made = rich.console.Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        made.width = 200
    return made


def table(*columns: str) -> "rich.table.Table":
    """A table without lines, as kubectl prints them."""
    import rich.table

    made = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in _NUMERIC
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return made


def age(created: str, now: datetime.datetime) -> str:
    """How long ago an RFC 3339 time was: 5m, 3h, 12d."""
    moment = times.parse(created)
    if moment is None:
        return "?"
    return units.age((now - moment).total_seconds())


def _of_system(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
