"""Progress of an operation: a bar for a person, lines for a log."""

import contextlib
from collections.abc import Callable, Iterator

import rich.progress

from agent.cli import output

Report = Callable[[str, int], None]
"""Takes a sentence and how much is done, in percent."""


@contextlib.contextmanager
def shown(*, quiet: bool) -> Iterator[Report]:
    """Show what is reported on stderr; with `quiet`, nothing."""
    console = output.console(stderr=True)
    if quiet:
        yield lambda _sentence, _percent: None
        return
    if not console.is_terminal:
        last = ""

        def say(sentence: str, _percent: int) -> None:
            nonlocal last
            if sentence != last:
                last = sentence
                output.say(sentence)

        yield say
        return
    bars = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=100)
        yield lambda sentence, percent: bars.update(
            task, description=sentence[:100], completed=percent
        )


Count = Callable[[int, int], None]
"""Takes how much is done, and how much there is in all."""


@contextlib.contextmanager
def counted(label: str, figure: rich.progress.ProgressColumn, *, quiet: bool) -> Iterator[Count]:
    """Show a bar on stderr for work that is counted; where no person reads it, nothing.

    `figure` is the column that says how much is done.
    """
    console = output.console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _total: None
        return
    bars = rich.progress.Progress(
        rich.progress.TextColumn(label),
        rich.progress.BarColumn(),
        figure,
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
