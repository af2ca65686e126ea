"""Processes of agents, each with a share of the fleet."""

import concurrent.futures
import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Figures = dict[str, float]


class Crew:
    """All processes; an order goes to each, and is carried out side by side."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"]) -> None:
        self._processes = processes
        self._pool = concurrent.futures.ThreadPoolExecutor(len(processes))
        self._names: list[list[str]] = [[] for _ in processes]

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._processes]

    @property
    def size(self) -> int:
        """How many agents run."""
        return sum(map(len, self._names))

    def join(self, sources: Mapping[str, Mapping[str, str]], seconds: float) -> float:
        """Start agents within so many seconds; the seconds until all of them are ready."""
        shares: list[dict[str, Mapping[str, str]]] = [{} for _ in self._processes]
        for number, (name, source) in enumerate(sources.items()):
            shares[number % len(shares)][name] = source
        for names, share in zip(self._names, shares, strict=True):
            names.extend(share)
        return self._longest([{"order": "join", "sources": s, "seconds": seconds} for s in shares])

    def restart(self, part: int, parts: int) -> float:
        """Restart one part of so many; the seconds until all of it are ready again."""
        names = [names[part::parts] for names in self._names]
        return self._longest([{"order": "restart", "names": each} for each in names])

    def acknowledge(self, generation: int, seconds: float) -> None:
        """Have all agents acknowledge a generation of deletions, spread over the seconds."""
        order = {"order": "acknowledge", "generation": generation, "seconds": seconds}
        self._all([order] * self._count)

    def wait_well(self) -> float:
        """The seconds until all agents have a watch again."""
        return self._longest([{"order": "wait_well"}] * len(self._processes))

    def unwell(self) -> int:
        """How many know that the server does not answer."""
        return int(sum(each["unwell"] for each in self._all([{"order": "unwell"}] * self._count)))

    def figures(self) -> Figures:
        """The sums of all processes: requests by verb and code, bytes, memory."""
        total: Figures = {}
        for found in self._all([{"order": "figures"}] * self._count):
            requests = found.pop("requests")
            for name, value in {**found, **requests}.items():
                total[name] = total.get(name, 0.0) + value
            total["requests"] = total.get("requests", 0.0) + sum(requests.values())
        return total

    @property
    def _count(self) -> int:
        return len(self._processes)

    def _longest(self, orders: Sequence[Mapping[str, Any]]) -> float:
        return max(float(answer["seconds"]) for answer in self._all(orders))

    def _all(self, orders: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return list(self._pool.map(_carried_out, self._processes, orders))


def _carried_out(process: "subprocess.Popen[str]", order: Mapping[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of agents has ended with {process.wait(60)}")
    return dict(json.loads(line))


@contextlib.contextmanager
def assembled(count: int, folder: pathlib.Path, environment: Mapping[str, str]) -> Iterator[Crew]:
    """So many processes, without agents yet."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(count):
            log = stack.enter_context((folder / f"members-{number}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fleet.members"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=dict(environment),
            )
            stack.callback(_end, process)
            processes.append(process)
        yield Crew(processes)


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
