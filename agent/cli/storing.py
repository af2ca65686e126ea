"""`uimgacc store`: make, verify and tidy a store."""

import contextlib
import pathlib
from collections.abc import Iterator

import rich.progress

from agent.cli import output
from agent.store import checking, layout, publishing

_HOUR = 3600.0
_COMPRESSIONS = ("lz4", "none")


def init(store: pathlib.Path, *, compression: str, as_json: bool) -> None:
    """Make an empty folder a store; one that is one already is left as it is."""
    if compression not in _COMPRESSIONS:
        raise output.UsageError(f"--compression is one of {', '.join(_COMPRESSIONS)}")
    record = publishing.create(store, compression=compression)
    if as_json:
        output.show_json(
            {"format": record.format, "id": record.id, "compression": record.compression}
        )
    else:
        print(f"{store} is a store (format {record.format}, {record.compression}, {record.id})")


def check(store: pathlib.Path, *, quick: bool, as_json: bool) -> None:
    """Verify a store; ends with status 1 where anything is damaged or missing."""
    with _progress(quiet=as_json or quick) as progress:
        found = list(checking.check(layout.Layout(store), content=not quick, progress=progress))
    bad = [
        finding
        for finding in found
        if finding.kind in (checking.Kind.DAMAGED, checking.Kind.MISSING)
    ]
    if as_json:
        output.show_json(
            {
                "ok": not bad,
                "findings": [
                    {
                        "kind": finding.kind.value,
                        "path": str(finding.path),
                        "reason": finding.reason,
                        "fix": finding.fix,
                    }
                    for finding in found
                ],
            }
        )
    elif not found:
        print(f"{store} is as its records say")
    else:
        _show(found, store)
    if bad:
        count = f"{len(bad)} damaged or missing"
        output.fail(f"{store}: {count}", output.Status.FAILED)


def prune(store: pathlib.Path, *, older_than: float, as_json: bool) -> None:
    """Remove what no cache names."""
    removed, freed = publishing.prune(layout.Layout(store), older_than=older_than * _HOUR)
    if as_json:
        output.show_json({"layers": [path.stem for path in removed], "bytes": freed})
    else:
        print(f"removed {len(removed)} layers, {output.size(freed)}")


def _show(found: list[checking.Finding], store: pathlib.Path) -> None:
    made = output.table("WHAT", "PATH", "REASON")
    for finding in found:
        path = finding.path
        with contextlib.suppress(ValueError):
            path = path.relative_to(store)
        made.add_row(finding.kind.value, str(path), finding.reason)
    console = output.console()
    console.print(made)
    for fix in dict.fromkeys(finding.fix for finding in found):
        console.print(f"Fix: {fix}")


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[checking.Progress]:
    console = output.console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _total: None
        return
    bars = rich.progress.Progress(
        rich.progress.TextColumn("reading layers"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(binary_units=True),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
