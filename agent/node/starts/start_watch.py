"""Observes one start: which parts of the image's layer files come into memory, look by look.

A start shows what it reads only of files that were not in memory before. So a layer of which more
than a little is in memory already is not observed. While another container uses one of the layers,
the state of memory is noted again and again until the image's own container runs: what the other
container reads does not count as read by this start.
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
"""Units (1 MiB in all) of a layer that may be in memory before: a mount reads as much."""


class Node(node_root.Rooted, Protocol):
    """This node, as the agent knows it."""

    async def process(self) -> int:
        """containerd's process; raises AgentError."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds.

    `soon` is the pause between looks in the first `first` seconds, `later` the pause after these.
    The watch waits `patience` for a container. A start is over when nothing new was read for
    `calm`, and after `longest` at the latest. One look may take `deadline`.
    """

    soon: float = 0.5
    later: float = 2.0
    first: float = 15.0
    patience: float = 600.0
    calm: float = 8.0
    longest: float = 90.0
    deadline: float = 5.0


Bits = Mapping[str, int]
"""Which units of each layer: by diff ID a number, whose bit n stands for unit n."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one start.

    `before` was in memory before the start; each of `looks` has what was new then. Only `cold`
    layers show what the start has read. `started` is False where no container came, or one ran
    already. `unused` is what of that the kernel has only read ahead by itself; it is None where
    the kernel does not say. What has gone from memory by the end counts as read.
    """

    before: Bits
    looks: Sequence[Bits] = ()
    cold: frozenset[str] = frozenset()
    started: bool = False
    unused: Bits | None = None

    def of_profile(self) -> list[dict[str, list[int]]]:
        """The looks for start_profiles.make; the first one includes what the mount has read."""
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
        return -1 if self.unused is None else ~self.unused[layer]


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
        """Observe the next start of an image with these layer files, and return when it is over.

        The units of `foreseen` are read ahead meanwhile: they may be in memory of a cold layer.
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
        return Observation(
            before.units, looks, cold, started=True, unused=await self._unused(layers)
        )

    async def _unused(self, layers: Sequence[str]) -> Bits | None:
        """The units of the layers that are in memory and were not read; None where the kernel does
        not say."""
        names = [layer.removeprefix("sha256:") for layer in layers]
        try:
            unused = await self._pool.call(
                "unused", self._store, names, deadline=2 * self._timing.deadline
            )
        except OSError as error:
            logger.info(
                "what was read ahead counts as read", extra={"reason": error.strerror or str(error)}
            )
            return None
        return {
            layer: int.from_bytes(bits, "little")
            for layer, bits in zip(layers, unused, strict=True)
        }

    async def _next(
        self, look_at: Callable[..., Awaitable[_Look]], *, until: float
    ) -> _Look | None:
        """Wait, then look whether the container runs; None after the time `until`."""
        now = asyncio.get_running_loop().time()
        if now >= until:
            return None
        early = now < until - self._timing.patience + self._timing.first
        await asyncio.sleep(self._timing.soon if early else self._timing.later)
        return await look_at(everything=False)

    async def _follow(
        self, look_at: Callable[..., Awaitable[_Look]], before: Bits, look: _Look
    ) -> list[Bits]:
        """Look until nothing new was read for a while, or the container has ended."""
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
    """The units of a profile, as bits."""
    return {layer: bits_of(profile.units_of(layer)) for layer in profile.layers}
