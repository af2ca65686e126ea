"""What happens to the fleet, and what that asks of the API server.

A thousand agents join in three steps; nothing happens for five minutes; pods come at the rate of
ten thousand in ten minutes; layers are deleted, which all nodes acknowledge; all agents are
restarted, a tenth at a time; the server is killed and comes back. Ten minutes of pods are not
waited for: the rate counts.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence

from benchmarks import processes
from benchmarks.cluster import control
from benchmarks.fleet import cluster, crew
from tests.kube import apis, servers

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything. Seconds, unless they say otherwise."""

    levels: Sequence[int] = (100, 300, 1000)
    """Agents that run at each step."""
    join_rate: float = 12.0
    """Nodes a second that join."""
    joined: float = 3.0
    """After the agents of a step are ready, for what follows from their start."""
    quiet: float = 6.0
    """After each step, for memory and processor time."""
    pods: int = 1200
    pod_rate: float = 10_000 / 600
    settled: float = 200.0
    """At which age of the agents, on average, `idle` begins."""
    idle: float = 300.0
    """A watch is renewed after 300 to 600 s, the node read each 270 to 330 s: from 200 s on, this
    has 4/3 and 1 of them, as many as any such time has on average."""
    acknowledged: float = 30.0
    """Within which all nodes see a new generation of deletions (UIMGACC_RETIRED_SECONDS)."""
    parts: int = 10
    """Of the fleet, restarted one after the other."""
    down: float = 10.0
    """For which the server is away."""
    crew: int = 2
    """Processes of agents."""


REAL = Plan()
EMULATED = Plan(levels=(10, 30, 100), pods=120, crew=1)
"""kmock, a server in Python, goes through all watches at each change."""


class Scenes:
    """The cluster and its fleet while they are measured."""

    def __init__(self, place: cluster.Cluster, agents: crew.Crew, plan: Plan) -> None:
        self._place = place
        self._agents = agents
        self._plan = plan
        self._servers = ("kube-apiserver", "etcd")
        self._started = 0.0
        """When the agents were started, on average."""

    def run(self, controller: control.Controller) -> Iterator[Figures]:
        """All but the server's restart, in order; the figures of each as soon as it is done."""
        watching = cluster.Watching(self._place)
        follower = asyncio.run_coroutine_threadsafe(watching.run(), self._place.loop.loop)
        try:
            for size in self._plan.levels:
                yield self._joined(size)
            self._wait_settled()
            yield self._idle(watching)
            yield self._pods()
            yield self._deleted()
            yield self._rolled_out(watching)
            yield {"fleet_controller_rss_mib": processes.rss_mib(controller.pid)}
        finally:
            follower.cancel()
            concurrent.futures.wait([follower], 30)

    def _joined(self, size: int) -> Figures:
        """So many agents run: the rest of them join, and what they are together."""
        first = self._agents.size
        sources = self._place.nodes(first, size)
        with self._measured(f"fleet_{size}_join", size - first) as figures:
            begun = time.monotonic()
            seconds = self._agents.join(sources, (size - first) / self._plan.join_rate)
        middle = begun + seconds / 2
        self._started += (middle - self._started) * (size - first) / size
        time.sleep(self._plan.joined)
        figures[f"fleet_{size}_join_s"] = seconds
        before, started = self._used(), time.monotonic()
        time.sleep(self._plan.quiet)
        elapsed = time.monotonic() - started
        for name, used in self._used().items():
            figures[f"fleet_{size}_{name}_percent"] = 100 * (used - before[name]) / elapsed
        for program in self._servers:
            if (pid := self._place.pid(program)) is not None:
                figures[f"fleet_{size}_{_short(program)}_rss_mib"] = processes.rss_mib(pid)
        agents = sum(map(processes.rss_mib, self._agents.pids))
        figures[f"fleet_{size}_agents_rss_mib"] = agents
        if watches := self._place.counted()["watches"]:
            figures[f"fleet_{size}_watches"] = watches
        return figures

    def _pods(self) -> Figures:
        """Pods that ask for a cache, spread over all nodes."""
        plan = self._plan
        with self._measured("fleet_pod", plan.pods) as figures:
            work = self._place.pods(plan.pods, plan.pod_rate, self._agents.size)
            before = self._agents.figures()["requests"]
            figures["fleet_pods_per_s"] = self._place.run(work)
            self._wait_for(before + plan.pods)  # the events of the last ones
            self._place.run(self._place.run_pods(plan.pods))
        return figures

    def _wait_for(self, requests: float) -> None:
        """Return when all agents together have sent so many requests since they run."""
        apis.wait_until(lambda: self._agents.figures()["requests"] >= requests, seconds=120)

    def _wait_settled(self) -> None:
        time.sleep(max(0.0, self._started + self._plan.settled - time.monotonic()))

    def _idle(self, watching: cluster.Watching) -> Figures:
        """Nothing happens."""
        nodes = self._agents.size * self._plan.idle / 60
        changes = watching.changes
        with self._measured("fleet_idle", nodes) as figures:
            time.sleep(self._plan.idle)
        figures["fleet_idle_node_changes"] = watching.changes - changes
        return figures

    def _deleted(self) -> Figures:
        """A generation of deletions is acknowledged by all nodes."""
        with self._measured("fleet_deletion", self._agents.size) as figures:
            before = self._agents.figures()["requests"]
            self._agents.acknowledge(1, self._plan.acknowledged)
            # Each reads its node and patches it.
            self._wait_for(before + 2 * self._agents.size)
        return figures

    def _rolled_out(self, watching: cluster.Watching) -> Figures:
        """All agents are restarted, one part after the other."""
        changes, size = watching.changes, watching.size
        longest, started = 0.0, time.monotonic()
        with self._measured("fleet_roll_out", self._agents.size) as figures:
            for part in range(self._plan.parts):
                longest = max(longest, self._agents.restart(part, self._plan.parts))
        figures["fleet_roll_out_s"] = time.monotonic() - started
        figures["fleet_roll_out_part_s"] = longest
        figures["fleet_roll_out_node_changes"] = watching.changes - changes
        if watching.changes:
            figures["fleet_node_change_bytes"] = watching.size / watching.changes
        figures["fleet_roll_out_watcher_bytes"] = watching.size - size
        return figures

    def restarted(self) -> Figures:
        """The server is killed, and starts again."""
        before = self._agents.figures()
        self._place.restart(self._plan.down)
        started = time.monotonic()
        unwell = self._agents.unwell()
        self._agents.wait_well()
        seconds = time.monotonic() - started
        asked = self._agents.figures()["requests"] - before["requests"]
        figures = {
            "fleet_restart_unwell": unwell,
            "fleet_restart_s": seconds,
            "fleet_restart_requests": asked / self._agents.size,
            "fleet_restart_requests_per_s": asked / (seconds + self._plan.down),
        }
        pid = self._place.pid("kube-apiserver")
        return figures | ({"fleet_restart_server_rss_mib": processes.rss_mib(pid)} if pid else {})

    @contextlib.contextmanager
    def _measured(self, name: str, each: float) -> Iterator[Figures]:
        """What happens in the context, divided by `each`: requests, bytes, patches of nodes."""
        figures: Figures = {}
        before, counted = self._agents.figures(), self._place.counted()
        used, started = self._used(), time.monotonic()
        yield figures
        elapsed = time.monotonic() - started
        after = self._agents.figures()
        for kind in ("requests", "sent", "received"):
            figures[f"{name}_{kind}"] = (after[kind] - before[kind]) / each
        failed = {key for key in after if key.split(" ")[-1] in ("none", "deadline", "429", "500")}
        figures[f"{name}_failed"] = sum(after[key] - before.get(key, 0) for key in failed)
        figures[f"{name}_requests_per_s"] = (after["requests"] - before["requests"]) / elapsed
        for group, now in self._used().items():
            figures[f"{name}_{group}_percent"] = 100 * (now - used[group]) / elapsed
        if counted:
            done = self._place.counted() - counted
            for what, key in (
                ("PATCH nodes", "node_patches"),
                ("PATCH nodes/status", "node_status_patches"),
                ("PATCH leases", "lease_patches"),
            ):
                figures[f"{name}_{key}"] = done[what] / each

    def _used(self) -> Figures:
        """Processor seconds so far, of the server and of the agents."""
        found = {"agents": cluster.used(list(self._agents.pids))}
        for program in self._servers:
            if (pid := self._place.pid(program)) is not None:
                found[_short(program)] = cluster.used([pid])
        return found


def _short(program: str) -> str:
    return "server" if program == "kube-apiserver" else program


def run(folder: pathlib.Path, plan: Plan | None = None) -> Iterator[Figures]:
    """All figures, part by part."""
    plan = plan or (REAL if servers.is_own() else EMULATED)
    with (
        cluster.prepared(folder) as place,
        crew.assembled(plan.crew, folder / "crew", place.environment) as agents,
    ):
        print(f"the server: {place.name}", flush=True)
        scenes = Scenes(place, agents, plan)
        with control.Controller(place.plane) as controller:
            yield from scenes.run(controller)
        if servers.is_own():
            # Without the controller, and the proxy through which it asks: that expects a server.
            place.plane.proxy.stop()
            yield scenes.restarted()
