"""A process with many agents: the Kubernetes side of each as in agent.roles.agent_cluster.

What decides for a pod (the store) and what has its images present (containerd) are fakes: each pod
that asks is a hit of one cache. Everything that speaks to the API server is the agent's own, with
a connection, a token and tasks for each agent. One order is a line of JSON on standard input, its
answer a line on standard output.
"""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import socket
import struct
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from agent.matching import annotations, decisions
from agent.metrics import shared_metrics
from agent.model import images, keys, pods, records
from agent.node.health import capability
from agent.node.images import registration_plan
from agent.node.pods import pod_worker, prepare, served_pods
from agent.node.report import pod_events, savings_note
from agent.roles import agent_cluster, agent_environment
from agent.settings import agent_settings

CACHE = "fleet"
"""Name of the ImageCache from which all pods are served."""

_CAPABLE = capability.Verdict(capable=True)
_STEP = 0.05
_TCP_INFO = 104
_BYTES_ACKED = 120
"""Offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h); tcpi_bytes_received follows it."""


class Store:
    """Decides that each pod that asks is served from one cache."""

    async def decide(self, pod: pods.Pod) -> decisions.Decision:
        """See prepare.Decider."""
        request = annotations.request_of(pod)
        if not request.asks:
            outcome = decisions.Outcome.NOT_ASKED
            return decisions.Decision(pod=pod, request=request, outcome=outcome, summary="no")
        event = decisions.Event(
            reason="SuccessfulHitImageCache", message=f"Successfully hit image cache {CACHE}."
        )
        candidate = decisions.Candidate(
            cache_id=f"imc-{CACHE}", name=CACHE, chosen=True, reasons=()
        )
        return decisions.Decision(
            pod=pod,
            request=request,
            outcome=decisions.Outcome.HIT,
            summary="a hit",
            reported=f"imc-{CACHE}",
            candidates=(candidate,),
            events=(event,),
        )


class Containerd:
    """Has no image made present: decisions name none."""

    async def provide(
        self, reference: images.Reference, record: records.ImageRecord, *, each: bool = False
    ) -> registration_plan.Registration | None:
        """See prepare.Provider."""
        raise NotImplementedError

    async def provide_layers(
        self, reference: images.Reference, record: records.ImageRecord
    ) -> registration_plan.Registration | None:
        """See prepare.Provider."""
        raise NotImplementedError

    async def lay_out(self, wanted: registration_plan.Registration) -> None:
        """See prepare.Provider."""

    async def withdraw(self, reference: images.Reference) -> None:
        """See prepare.Provider."""

    async def clear(self, names: Sequence[str]) -> Sequence[str]:
        """See prepare.Clearer."""
        return ()


class Member:
    """One agent. `source` is how it reaches the server, as fields of agent_settings.Agent."""

    def __init__(self, name: str, source: Mapping[str, str]) -> None:
        self._wanted = agent_settings.Agent(
            store=pathlib.Path("/nonexistent"),
            kubernetes=name,
            startup_taint="uimgacc.io/starting:NoSchedule",
            **{key: pathlib.Path(value) for key, value in source.items()},
        )
        self._environment: agent_environment.Environment | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its pod would be ready, as far as that is up to the API server."""
        there = self._environment
        return there is not None and there.source.synced and not there.node.unwritten

    @property
    def is_well(self) -> bool:
        """Whether it is ready, and its watch of pods is open."""
        return self.is_ready and not (self._environment and self._environment.source.problems)

    def acknowledge(self, generation: int) -> None:
        """What agent.node.images.retirement does once the node holds nothing of a generation."""
        if self._environment is not None:
            self._environment.node.annotate(**{keys.GENERATION: str(generation)})

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start it in a task of its own."""
        self._task = loop.create_task(self._run(), name=self._wanted.kubernetes)

    async def stop(self) -> None:
        """End it as SIGTERM does."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._environment = None

    async def _run(self) -> None:
        served = served_pods.ServedPods()
        async with agent_cluster.opened(self._wanted, served) as environment:
            self._environment = environment
            containerd = Containerd()
            preparer = prepare.Preparer(
                Store(),
                prepare.Supply(provider=containerd),
                containerd,
                environment.creator,
            )
            worker = pod_worker.Worker(
                environment.source,
                preparer,
                pod_events.Once(environment.events),
                served,
                environment.node,
            )
            environment.node.judged(_CAPABLE)
            services: dict[str, Coroutine[Any, Any, None]] = {
                "pods": worker.run(),
                "account": savings_note.Accountant(Ledger(), environment.notes).run(),
                **environment.services(),
            }
            async with asyncio.TaskGroup() as group:
                for name, service in services.items():
                    group.create_task(service, name=name)


class Ledger:
    """What such a node has saved: nothing."""

    class totals:  # noqa: N801 - stands for an attribute
        """See savings.Totals."""

        images: Mapping[str, int] = {}


class Traffic:
    """Bytes of all connections to the server, also of those that are closed by now.

    The kernel counts them for each socket; what a socket moved after the last look at it and
    before its end is missing.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, tuple[int, int]] = {}

    def look(self) -> None:
        """Read the counters of the sockets that are open."""
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                place = str(pathlib.Path(entry.path).readlink())
                if place.startswith("socket:"):
                    self._sockets[place] = _moved(int(entry.name))

    @property
    def total(self) -> tuple[int, int]:
        """Sent and received."""
        sent, received = zip(*(self._sockets.values() or [(0, 0)]), strict=True)
        return sum(sent), sum(received)


def _moved(descriptor: int) -> tuple[int, int]:
    copy = socket.socket(fileno=os.dup(descriptor))
    with copy:
        if copy.type is not socket.SOCK_STREAM or copy.family is socket.AF_UNIX:
            return 0, 0
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 16)
        acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED)
        return acked, received


class Members:
    """The agents of this process, and the orders that it takes."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._traffic = Traffic()

    async def join(
        self, sources: Mapping[str, Mapping[str, str]], seconds: float
    ) -> dict[str, Any]:
        """Start agents, spread over so many seconds; return when all are ready."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, (name, source) in enumerate(sources.items()):
            await asyncio.sleep(begun + seconds * number / len(sources) - loop.time())
            self._members[name] = Member(name, source)
            self._members[name].start(loop)
        await self._until(lambda member: member.is_ready, list(sources))
        return {"seconds": loop.time() - begun}

    async def restart(self, names: Sequence[str]) -> dict[str, Any]:
        """End these agents and start them again; return when they are ready."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for name in names:
            await self._members[name].stop()
            self._members[name].start(loop)
        await self._until(lambda member: member.is_ready, names)
        return {"seconds": loop.time() - begun}

    async def acknowledge(self, generation: int, seconds: float) -> dict[str, Any]:
        """Have each agent say that it holds nothing that was deleted, spread over the seconds."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, member in enumerate(self._members.values()):
            await asyncio.sleep(begun + seconds * number / len(self._members) - loop.time())
            member.acknowledge(generation)
        return {"seconds": loop.time() - begun}

    async def wait_well(self) -> dict[str, Any]:
        """Return when all have what they know from the server again."""
        begun = time.monotonic()
        await self._until(lambda member: member.is_well, list(self._members))
        return {"seconds": time.monotonic() - begun}

    async def unwell(self) -> dict[str, Any]:
        """How many agents know that the server does not answer."""
        return {"unwell": sum(not member.is_well for member in self._members.values())}

    async def figures(self) -> dict[str, Any]:
        """What all of them have done so far."""
        self._traffic.look()
        sent, received = self._traffic.total
        requests: dict[str, float] = {}
        for family in shared_metrics.API_REQUEST.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    key = f"{sample.labels['verb']} {sample.labels['code']}"
                    requests[key] = requests.get(key, 0) + sample.value
        return {
            "requests": requests,
            "sent": sent,
            "received": received,
        }

    async def look_at_traffic(self) -> None:
        """Read the counters of sockets again and again, for ever."""
        while True:
            self._traffic.look()
            await asyncio.sleep(5)

    async def _until(self, condition: Any, names: Sequence[str]) -> None:
        for name in names:
            while not condition(self._members[name]):
                await asyncio.sleep(_STEP)


async def main() -> None:
    """Carry out orders until standard input ends."""
    said = logging.Formatter("%(asctime)s %(message)s: %(reason)s", defaults={"reason": ""})
    handler = logging.StreamHandler()
    handler.setFormatter(said)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    members = Members()
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    looking = loop.create_task(members.look_at_traffic())
    while line := await reader.readline():
        order = json.loads(line)
        answer = await getattr(members, order.pop("order"))(**order)
        print(json.dumps(answer), flush=True)
    looking.cancel()
    os._exit(0)  # Nothing of the agents is to be kept, and a thousand are slow to end.


if __name__ == "__main__":
    asyncio.run(main())
