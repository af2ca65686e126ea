"""What a run was: its commit, its time, how busy the machine was; and the file of its figures.

A file is of one run, always: figures of two runs side by side would compare two machines.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A run at its start."""

    commit: str
    """As git describes it; `-dirty` where files differ from it. Empty without git."""
    started: str
    """UTC, ISO 8601."""
    load: float
    """The load average over one minute."""
    stolen: float

    @property
    def text(self) -> str:
        """One line for people."""
        return (
            f"commit {self.commit or 'unknown'}, {self.started}, {os.cpu_count()} processors,"
            f" load average {self.load:.2f}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A run at its end; the fields are keys in its file."""

    commit: str
    started: str
    ended: str
    load_before: float
    load_after: float
    stolen_s: float
    """Processor time in which the hypervisor ran somebody else."""

    @property
    def text(self) -> str:
        """One line for people."""
        return (
            f"commit {self.commit or 'unknown'}, {self.started} to {self.ended},"
            f" {os.cpu_count()} processors, load average before {self.load_before:.2f},"
            f" after {self.load_after:.2f}, stolen {self.stolen_s:.0f} s"
        )


def begin() -> Begun:
    """Look before anything is measured."""
    return Begun(commit=_commit(), started=_now(), load=os.getloadavg()[0], stolen=_stolen())


def end(begun: Begun) -> Record:
    """Look after everything was measured."""
    return Record(
        commit=begun.commit,
        started=begun.started,
        ended=_now(),
        load_before=begun.load,
        load_after=os.getloadavg()[0],
        stolen_s=_stolen() - begun.stolen,
    )


def write(
    folder: pathlib.Path,
    record: Record,
    flat: Mapping[str, float],
    *,
    parts: Collection[str],
    every: Collection[str],
) -> pathlib.Path:
    """Write the figures, whole: latest.json where all parts were measured, else parts.json."""
    figures: dict[str, object] = {**dataclasses.asdict(record), **flat}
    whole = set(parts) == set(every)
    if not whole:
        figures["parts"] = " ".join(parts)
    path = folder / ("latest.json" if whole else "parts.json")
    path.write_text(json.dumps(figures, indent=1) + "\n")
    return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _stolen() -> float:
    """The eighth number of /proc/stat's first line, as of proc(5)."""
    fields = pathlib.Path("/proc/stat").read_text().partition("\n")[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")
