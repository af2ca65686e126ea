"""When pods start on this node, and what their images want of local copies.

Copying in the background begins when no pod is starting any more. Kubernetes does not say when a
start has ended: it counts as ended when for some seconds no pod has changed and nothing was
mounted. On a node where pods start all the time, copying begins all the same after some minutes.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.model import caches, times
from agent.node.pods import served_pods

_CALM_SECONDS = 15.0
_PATIENCE_SECONDS = 300.0
_TABLE = "/proc/self/mountinfo"


class Wishes(Protocol):
    """What wants layers to be copied beside the containers that run."""

    def layers(self) -> Mapping[str, caches.LocalMode]:
        """When each layer is to be copied, by diff ID.

        `before-start`: at once, whether a container runs on it or not; `after-start` and `off`
        say so of a layer that containers run on. A layer that is not named is copied as
        the node's setting says.
        """


class PodWishes:
    """What the pods of this node say, and the caches that they use."""

    def __init__(self, served: served_pods.ServedPods, default: caches.LocalMode) -> None:
        self._served = served
        self._default = default

    def layers(self) -> Mapping[str, caches.LocalMode]:
        """See Wishes. Of several pods with a layer, the one that wants it soonest decides."""
        wishes: dict[str, caches.LocalMode] = {}
        for served in self._served.current.values():
            if served.result is None or served.ended is not None:
                continue
            for image in served.result.decision.images:
                mode = image.local or self._default
                for layer in image.layers:
                    wishes[layer] = caches.strongest((wishes.get(layer), mode)) or mode
        return wishes


class Starts:
    """Notices that pods start."""

    def __init__(self, served: served_pods.ServedPods) -> None:
        self._served = served
        self._seen: tuple[object, ...] = ()
        self._changed_at = time.monotonic()
        self._waiting_since: float | None = None

    def look(self) -> bool:
        """Look whether anything has changed since the last call; cheap."""
        with open(_TABLE, "rb") as file:  # noqa: PTH123 - read in one piece, from the kernel
            table = hash(file.read())
        versions = tuple((key, each.version) for key, each in self._served.current.items())
        seen = (table, versions)
        is_new = seen != self._seen
        if is_new:
            self._seen, self._changed_at = seen, time.monotonic()
        return is_new

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until a pod appears."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._served.appeared.wait()
        self._served.appeared.clear()

    @property
    def changed_at(self) -> float:
        """When `look` has seen the last change, by the monotonic clock."""
        return self._changed_at

    @property
    def are_calm(self) -> bool:
        """Whether no pod is starting, or copying has waited for that long enough."""
        now = time.monotonic()
        if now >= self._changed_at + _CALM_SECONDS:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = now
        return now >= self._waiting_since + _PATIENCE_SECONDS

    @property
    def is_preparing(self) -> bool:
        """Whether images are being made ready now, for a pod that has just appeared."""
        recent = times.now() - datetime.timedelta(seconds=_CALM_SECONDS)
        return any(
            each.result is None and each.ended is None and each.since > recent
            for each in self._served.current.values()
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What decides when to copy: starts, and what asks for copies."""

    starts: Starts
    wishes: Sequence[Wishes]
