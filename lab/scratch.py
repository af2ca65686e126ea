"""The folder of a demo or a benchmark, and what one that was killed has left.

Only the standard library is needed here: `lab/clean` runs this with the machine's own Python.
"""

import contextlib
import fcntl
import pathlib
import shutil
import signal
import tempfile
import types
from collections.abc import Iterator

from lab import processes

PREFIX = "uimgacc-lab-"
_LOCK = "lock"


@contextlib.contextmanager
def folder(name: str) -> Iterator[pathlib.Path]:
    """A folder for the time of a block: nothing is mounted below it, and it is gone, afterwards.

    SIGTERM and SIGHUP end the block as an exception does. Daemons have sessions of their own, so
    nothing else would end them. For SIGKILL there is `sweep`: the folder's lock says who lives.
    """
    end_on_signals()
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
    with (path / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            _remove(path)


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, once: what follows is the cleaning up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup SIGHUP is ignored, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: types.FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def sweep() -> list[pathlib.Path]:
    """End and remove what killed ones have left on this machine; their folders."""
    found = []
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*/"):
        with contextlib.suppress(FileNotFoundError), (path / _LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it runs
            _kill_below(path)
            _remove(path)
            found.append(path)
    return found


def _kill_below(path: pathlib.Path) -> None:
    """Kill the processes that name the folder in their arguments, and what these have started.

    A container names nothing, but it is its shim's child; killed later, it would be init's.
    """
    for pid in processes.naming(path):
        for child in processes.children(pid):
            processes.kill(child)
        processes.kill(pid)


def _remove(path: pathlib.Path) -> None:
    processes.unmount_below(path)
    shutil.rmtree(path)


if __name__ == "__main__":
    for swept in sweep():
        print(f"lab: removed {swept}, which a killed run had left")
