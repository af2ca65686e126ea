"""Processes under measurement: their memory and processor time, from /proc."""

import collections
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from lab import processes

COMMAND = pathlib.Path(sys.executable).with_name("uimgacc")
_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.05


def rss_mib(pid: int) -> float:
    """Resident memory of one process in MiB."""
    return _mib(f"/proc/{pid}/status", "VmRSS:")


def peak_mib(pid: int) -> float:
    """The most resident memory that one process ever had, in MiB."""
    return _mib(f"/proc/{pid}/status", "VmHWM:")


def _mib(path: str, field: str) -> float:
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{path} has no {field}")


def tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for child in processes.children(pid):
        yield from tree(child)


def tree_pss_mib(pid: int) -> float:
    """Memory of a process and its children, each page counted once: what its container has."""
    return sum(_mib(f"/proc/{each}/smaps_rollup", "Pss:") for each in tree(pid))


def peak_tree_pss_mib(
    command: Sequence[str | os.PathLike[str]], pause: float = _SAMPLE_SECONDS
) -> dict[str, float]:
    """Run a command; by program, the memory of its tree when that had the most of all samples."""
    most: collections.Counter[str] = collections.Counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            now = tree_pss_by_program(process.pid)
            most = max(most, now, key=collections.Counter.total)
            time.sleep(pause)
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed with {process.returncode}")
    return dict(most)


def tree_pss_by_program(pid: int) -> collections.Counter[str]:
    """The same by program, of those processes that are there."""
    found: collections.Counter[str] = collections.Counter()
    for each in tree(pid):
        try:
            name = pathlib.Path(f"/proc/{each}/comm").read_text().strip()
            found[name] += _mib(f"/proc/{each}/smaps_rollup", "Pss:")
        except (OSError, RuntimeError):
            continue  # it has ended meanwhile
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + sum(cpu_seconds(child) for child in processes.children(pid))


def used_percent(pids: list[int], seconds: float) -> float:
    """Processor time of processes over a while that is waited for, in percent of one core."""
    before = sum(cpu_seconds(pid) for pid in pids)
    started = time.monotonic()
    time.sleep(seconds)
    used = sum(cpu_seconds(pid) for pid in pids) - before
    return 100 * used / (time.monotonic() - started)
