"""Processes under measurement: their memory and processor time, from /proc."""

import os
import pathlib
import sys
import time

COMMAND = pathlib.Path(sys.executable).with_name("uimgacc")
_TICKS = os.sysconf("SC_CLK_TCK")


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


def children(pid: int) -> list[int]:
    """The children of a process and of all its threads."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


def tree_rss_mib(pid: int) -> float:
    """Resident memory of a process and its children; shared pages count in each."""
    return rss_mib(pid) + sum(tree_rss_mib(child) for child in children(pid))


def tree_pss_mib(pid: int) -> float:
    """Memory of a process and its children, each page counted once: what its container has."""
    own = _mib(f"/proc/{pid}/smaps_rollup", "Pss:")
    return own + sum(tree_pss_mib(child) for child in children(pid))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + sum(cpu_seconds(child) for child in children(pid))


def idle_percent(pids: list[int], seconds: float) -> float:
    """Processor time of processes over a while, in percent of one core."""
    before = sum(cpu_seconds(pid) for pid in pids)
    started = time.monotonic()
    time.sleep(seconds)
    used = sum(cpu_seconds(pid) for pid in pids) - before
    return 100 * used / (time.monotonic() - started)
