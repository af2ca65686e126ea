"""The turn of a node of a cluster: it holds a slot while containerd is changed and restarted.

The slot's name is noted on the node's disk before it is taken, so that what a crash or a reboot
interrupts is found again. Without an answer of the API server there is no turn:
the node stays as it is, and pods are pulled as usual.

Many nodes may wait for long: each looks at one slot, chosen at random, and reads all of them only
where that one is free, and now and then, because one node may hold several.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from agent import errors
from agent.clients.kube import lease, refusals, rest_client
from agent.kits.aio import backoff
from agent.model import times
from agent.setup.config import places, settings_view
from agent.setup.node import host
from agent.setup.slots import node_return, slot_leases, slot_rules, turns

Result = TypeVar("Result")

_LOOK_SECONDS = 2.0
_RETRY_SECONDS = 20.0
_API_SECONDS = 60.0
_JITTER = 0.25
_LOOKS = 15
"""Of so many looks, some five minutes, one is at all slots."""


Connect = Callable[[], AbstractAsyncContextManager[slot_leases.Api]]


class SlotTurn:
    """See agent.setup.slots.turns.Turn. `connect` opens the API for the time of a question."""

    def __init__(
        self,
        machine: host.Host,
        main: settings_view.Path,
        wanted: turns.Settings,
        connect: Connect,
    ) -> None:
        self._machine = machine
        self._main = main
        self._wanted = wanted
        self._connect = connect

    def take(self) -> None:
        """See Turn."""
        try:
            self._run(self._take)
        except errors.AgentError as error:
            if isinstance(error, turns.NotYet):
                raise
            raise _not_yet(f"the API server: {error}", error) from error

    def drop(self) -> None:
        """See Turn."""
        if self._noted():
            self._try(self._release)

    def fail(self, problem: str) -> None:
        """See Turn."""

        async def report(api: slot_leases.Api) -> None:
            await self._leases(api).report(
                self._noted(), node=self._wanted.node, problem=problem[:1000]
            )

        if self._noted():
            self._try(report)

    def settle(self, seconds: float) -> str:
        """See Turn."""
        return asyncio.run(self._settle(seconds)) if self._noted() else ""

    async def _settle(self, seconds: float) -> str:
        loop = asyncio.get_running_loop()
        began, end = loop.time(), loop.time() + seconds
        while True:
            is_last = loop.time() >= end
            leave = functools.partial(self._leave, waited=loop.time() - began)
            try:
                problem = await self._opened(leave)
            except errors.AgentError as error:
                problem = f"the API server: {error}"
            if not problem or is_last:
                return problem
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, end - loop.time())))

    async def _take(self, api: slot_leases.Api) -> None:
        leases, node = self._leases(api), self._wanted.node
        if noted := self._noted():
            if (await leases.read(noted)).holder == node:
                return
            self._machine.remove(turns.NOTE)
        body = await self._node(api)
        if self._needs_none(api, body):
            # One that it held before its disk was made anew is freed once it is back.
            if own := [slot.name for slot in await leases.all() if slot.holder == node]:
                self._machine.write(turns.NOTE, own[0].encode())
            return
        name = await self._free(leases, await self._count(api))
        self._machine.write(turns.NOTE, name.encode())
        try:
            uid = str(body["metadata"]["uid"]) if body is not None else ""
            await leases.take(name, node=node, seconds=self._wanted.slot_seconds, uid=uid)
        except lease.Raced as error:
            self._machine.remove(turns.NOTE)
            raise _not_yet("another node was faster", error) from error

    async def _node(self, api: slot_leases.Api) -> rest_client.Object | None:
        try:
            return await api.get(rest_client.NODES, self._wanted.node)
        except refusals.NotFound:
            return None

    def _needs_none(self, api: slot_leases.Api, node: rest_client.Object | None) -> bool:
        if node is None:
            return False
        created = times.parse(node["metadata"].get("creationTimestamp")) or times.EPOCH
        standing = slot_rules.standing(node, (api.now() - created).total_seconds())
        return slot_rules.needs_none(standing, young=self._wanted.young_seconds)

    async def _count(self, api: slot_leases.Api) -> int:
        """The number of slots, by how many nodes the DaemonSet is for."""
        nodes = 0
        if self._wanted.slots.endswith("%"):
            try:
                daemon_set = await api.get(
                    rest_client.DAEMON_SETS,
                    self._wanted.daemon_set,
                    namespace=self._wanted.namespace,
                )
                nodes = int((daemon_set.get("status") or {}).get("desiredNumberScheduled") or 0)
            except refusals.NotFound:
                nodes = 0
        return slot_rules.count(self._wanted.slots, nodes)

    async def _free(self, leases: slot_leases.SlotLeases, slot_count: int) -> str:
        """A slot that may be taken; raise NotYet."""
        node = self._wanted.node
        if not slot_count:
            raise _not_yet(slot_rules.taken((), 0))
        index = random.randrange(slot_count)  # noqa: S311 - not a secret
        looked_at = await leases.read(slot_rules.name_of(index))
        is_all = random.randrange(_LOOKS) == 0  # noqa: S311 - not a secret
        if looked_at.holder not in ("", node) and not is_all:
            raise _not_yet(f"of {slot_count} slots, {looked_at.name} has {looked_at.sentence}")
        slots = await leases.all()
        if free := slot_rules.free(slots, slot_count, node):
            return random.choice(free)  # noqa: S311 - not a secret
        raise _not_yet(slot_rules.taken(slots, slot_count))

    async def _leave(self, api: slot_leases.Api, *, waited: float) -> str:
        """Free the slot if the node is back, else say why it is not, in time also in the slot.

        `waited` is for how long this process has waited: the server's clock has whole seconds.
        """
        wanted = self._wanted
        slot = await self._leases(api).read(self._noted())
        if slot.holder != wanted.node:
            self._machine.remove(turns.NOTE)
            return ""
        try:
            socket = str(self._machine.place(places.of(self._machine, self._main).socket))
            problem = await node_return.missing(
                api, node=wanted.node, containerd=socket, agent_address=wanted.agent_address
            )
        except settings_view.ConfigError as error:
            problem = str(error)
        if not problem:
            await self._release(api)
        elif max(slot.seconds, waited) >= wanted.slot_seconds and not slot.problem:
            await self._leases(api).report(slot.name, node=wanted.node, problem=problem[:1000])
        return problem

    async def _release(self, api: slot_leases.Api) -> None:
        await self._leases(api).release(self._noted(), node=self._wanted.node)
        self._machine.remove(turns.NOTE)

    def _leases(self, api: slot_leases.Api) -> slot_leases.SlotLeases:
        return slot_leases.SlotLeases(api, namespace=self._wanted.namespace)

    def _noted(self) -> str:
        """The slot that this node holds, or is about to; "" for none."""
        name = (self._machine.read(turns.NOTE) or b"").decode(errors="replace")
        return name if slot_rules.is_slot(name) else ""

    def _run(self, work: Callable[[slot_leases.Api], Awaitable[Result]]) -> Result:
        return asyncio.run(self._opened(work))

    def _try(self, work: Callable[[slot_leases.Api], Awaitable[None]]) -> None:
        """Do what `settle` makes up for where it fails."""
        try:
            self._run(work)
        except errors.AgentError:
            return

    async def _opened(self, work: Callable[[slot_leases.Api], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(_API_SECONDS), self._connect() as api:
                return await work(api)
        except TimeoutError as error:
            raise refusals.Unavailable(f"no answer within {_API_SECONDS:g} s") from error


def _not_yet(reason: str, error: errors.AgentError | None = None) -> turns.NotYet:
    """To be raised; the nodes of a cluster, which begin together, do not ask again together."""
    asked = error.delay if isinstance(error, errors.TemporaryError) else None
    return turns.NotYet(reason, delay=backoff.spread(asked or _RETRY_SECONDS, _JITTER))
