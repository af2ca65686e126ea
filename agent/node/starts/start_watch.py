"""Observing one start: what of the image's layer files comes into memory, look by look.

Before the start the files are to be out of memory, or it does not show what the start reads:
a layer of which more than a little is there already is not observed. While another container uses
one of the layers, what is in memory is noted again and again until this image's own container
runs, so that what the other one reads is not taken for this start's.
"""

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from agent.kits.processes import workers
from agent.model.starts import start_profiles
from agent.node.health import node_root

logger = logging.getLogger(__name__)

_COLD = 16
"""Units (1 MiB) of a layer that may be in memory before: what a mount reads, and small layers."""


class Node(node_root.Rooted, Protocol):
    """This node, as the agent knows it."""

    async def process(self) -> int:
        """containerd's process; raises AgentError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `soon` and `later` are the pauses between looks in the first `first` seconds and
    after; `patience` is how long a container is waited for, `calm` for how long nothing new is to
    be read before the start counts as over, `longest` when it does at the latest, `deadline` what
    one look may take.
    """

    soon: float = 0.5
    later: float = 2.0
    first: float = 15.0
    patience: float = 600.0
    calm: float = 8.0
    longest: float = 90.0
    deadline: float = 5.0


Bits = Mapping[str, int]
"""Units in memory by layer: a number whose bit n stands for unit n."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """`before` is what was in memory before the start, `looks` what came with each look.

    Only `cold` layers show what the start has read. `started` is False where no container came,
    or one ran already. `used` is what was read of all that is in memory; None where the kernel
    does not distinguish that from what it has read ahead by itself.
    """

    before: Bits
    looks: Sequence[Bits] = ()
    cold: frozenset[str] = frozenset()
    started: bool = False
    used: Bits | None = None

    def of_profile(self) -> list[dict[str, list[int]]]:
        """The looks for start_profiles.make; the first has what the mount has read, too."""
        return [
            {layer: units_of(look[layer] & self._mask(layer)) for layer in self.cold}
            for look in (self.before, *self.looks)
        ]

    def read(self, layer: str) -> int:
        """The bits of all that the start has read of a layer."""
        bits = self.before[layer]
        for look in self.looks:
            bits |= look[layer]
        return bits & self._mask(layer)

    def _mask(self, layer: str) -> int:
        return -1 if self.used is None else self.used[layer]


def units_of(bits: int) -> list[int]:
    """The units that a number stands for."""
    octets = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return [
        8 * at + bit
        for at, octet in enumerate(octets)
        if octet
        for bit in range(8)
        if octet >> bit & 1
    ]


def bits_of(units: Collection[int]) -> int:
    """The number that stands for units."""
    octets = bytearray(max(units, default=-8) // 8 + 1)
    for unit in units:
        octets[unit >> 3] |= 1 << (unit & 7)
    return int.from_bytes(octets, "little")


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    runs: bool
    shared: bool
    units: Bits
    through_cache: frozenset[str]


class StartWatch:
    """Observes starts; `pool` runs agent.node.starts.start_files, for the store at `store`."""

    def __init__(
        self, pool: workers.Caller, node: Node, store: str, *, timing: Timing | None = None
    ) -> None:
        self._pool = pool
        self._node = node
        self._store = store
        self._timing = timing or Timing()

    async def files_of(self, chain: Sequence[str]) -> list[str]:
        """The diff IDs by which the layer files of an image are named. Raises as `observe`."""
        names = await self._pool.call(
            "files_of",
            self._store,
            [chain_id.removeprefix("sha256:") for chain_id in chain],
            deadline=self._timing.deadline,
        )
        return [f"sha256:{name}" for name in names]

    async def observe(self, layers: Sequence[str], foreseen: Bits | None = None) -> Observation:
        """Observe the start of an image of these layer files, which is about to come.

        `foreseen` is being read ahead meanwhile: that it is in memory does not count.
        Raises OSError and AgentError where the store or the kernel does not answer.
        """
        if not self._node.root:
            return Observation({})
        process = await self._node.process()
        look_at = functools.partial(self._look, layers, process)
        before = await look_at(everything=True)
        if before.runs:
            return Observation(before.units)
        look: _Look | None = before
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timing.patience
        while look is not None and not look.runs:
            if look.shared and foreseen is None:
                before = look
            look = await self._next(look_at, until=until)
        if look is None:
            return Observation(before.units)
        cold = frozenset(
            layer
            for layer in layers
            if layer in look.through_cache
            and (before.units[layer] & ~(foreseen or {}).get(layer, 0)).bit_count() <= _COLD
        )
        looks = await self._follow(look_at, before.units, look)
        return Observation(before.units, looks, cold, started=True, used=await self._used(layers))

    async def _used(self, layers: Sequence[str]) -> Bits | None:
        """What of the layers was read; None where the kernel does not say."""
        names = [layer.removeprefix("sha256:") for layer in layers]
        try:
            used = await self._pool.call(
                "used", self._store, names, deadline=2 * self._timing.deadline
            )
        except OSError as error:
            logger.info(
                "what was read ahead counts as read", extra={"reason": error.strerror or str(error)}
            )
            return None
        return {
            layer: int.from_bytes(bits, "little") for layer, bits in zip(layers, used, strict=True)
        }

    async def _next(
        self, look_at: Callable[..., Awaitable[_Look]], *, until: float
    ) -> _Look | None:
        """The next look while a container is waited for; None where it is waited for too long."""
        now = asyncio.get_running_loop().time()
        if now >= until:
            return None
        early = now < until - self._timing.patience + self._timing.first
        await asyncio.sleep(self._timing.soon if early else self._timing.later)
        return await look_at(everything=False)

    async def _follow(
        self, look_at: Callable[..., Awaitable[_Look]], before: Bits, look: _Look
    ) -> list[Bits]:
        """Look until nothing new has come for a while, or the container has ended."""
        loop = asyncio.get_running_loop()
        started = changed = loop.time()
        known = dict(before)
        looks: list[Bits] = []
        while True:
            new = {layer: bits & ~known[layer] for layer, bits in look.units.items()}
            looks.append(new)
            known = {layer: known[layer] | bits for layer, bits in look.units.items()}
            now = loop.time()
            if any(new.values()):
                changed = now
            is_over = now >= min(changed + self._timing.calm, started + self._timing.longest)
            if is_over or not look.runs:
                return looks
            early = now < started + self._timing.first
            await asyncio.sleep(self._timing.soon if early else self._timing.later)
            look = await look_at(everything=True)

    async def _look(self, layers: Sequence[str], process: int, *, everything: bool) -> _Look:
        runs, shared, of_layers = await self._pool.call(
            "look",
            self._store,
            self._node.root,
            process,
            [layer.removeprefix("sha256:") for layer in layers],
            everything,
            deadline=self._timing.deadline,
        )
        units = {
            layer: int.from_bytes(bits, "little")
            for layer, (_, bits, _) in zip(layers, of_layers, strict=True)
        }
        through = frozenset(
            layer for layer, (_, _, is_through) in zip(layers, of_layers, strict=True) if is_through
        )
        return _Look(runs, shared, units, through)


def foreseen_by(profile: start_profiles.Profile) -> Bits:
    """What a profile says, as bits."""
    return {layer: bits_of(profile.units_of(layer)) for layer in profile.layers}
