"""Events of pods that wait for a cache which is being built: how far the build is.

A pod that has asked for a cache gets an event with the percent, at most one a minute, until its
containers run or the build ends. It is not held up: its images are pulled meanwhile. The store is
read at most once for all pods together, and more rarely the longer none of their caches is being
built.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.matching import events
from agent.node.pods import served_pods
from agent.node.report import pod_events

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_EVERY_SECONDS = 60.0
_PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Before it is looked again for a pod of whose cache nothing is known."""


class Builds(Protocol):
    """How far builds are: agent.store.lookup.catalog.Catalog."""

    async def builds(self) -> Mapping[str, int]:
        """In percent, by the IDs of their caches. Raises AgentError."""


class Served(Protocol):
    """The pods of this node: agent.node.pods.served_pods.ServedPods."""

    @property
    def current(self) -> Mapping[str, served_pods.Served]:
        """By namespace and name."""


@dataclasses.dataclass(slots=True)
class _Waiting:
    """A pod that waits: when it is looked for again, by the loop's clock, and what was said."""

    uid: str
    due: float
    pauses: backoff.Backoff
    percents: dict[str, int] = dataclasses.field(default_factory=dict)


class BuildProgress:
    """Emits the events."""

    def __init__(self, served: Served, builds: Builds, sink: pod_events.EventSink) -> None:
        self._served = served
        self._builds = builds
        self._sink = sink
        self._waiting: dict[str, _Waiting] = {}

    async def run(self) -> None:
        """Look for pods that wait, for ever."""
        while True:
            await asyncio.sleep(backoff.spread(_LOOK_SECONDS, 0.2))
            now = asyncio.get_running_loop().time()
            if due := self._due(now):
                await self._emit(due, now)

    def _due(self, now: float) -> dict[str, served_pods.Served]:
        """The pods that wait and are due, by their keys."""
        waiting = {key: served for key, served in self._served.current.items() if _waits(served)}
        for key in self._waiting.keys() - waiting.keys():
            del self._waiting[key]
        for key, served in waiting.items():
            known = self._waiting.get(key)
            if known is None or known.uid != served.pod.uid:
                self._waiting[key] = _Waiting(served.pod.uid, now, backoff.Backoff(_PAUSES))
        return {key: served for key, served in waiting.items() if self._waiting[key].due <= now}

    async def _emit(self, due: Mapping[str, served_pods.Served], now: float) -> None:
        try:
            percents = await self._builds.builds()
        except errors.AgentError as error:
            logger.debug("it is not known how far builds are", extra={"reason": str(error)})
            percents = {}
        for key, served in due.items():
            known = self._waiting[key]
            awaited = served.result.decision.awaited if served.result is not None else ()
            under_way = {each: percents[each] for each in awaited if each in percents}
            if not under_way:
                known.due = now + known.pauses.take()
                continue
            known.due = now + _EVERY_SECONDS
            known.pauses.reset()
            for cache_id, percent in under_way.items():
                if known.percents.get(cache_id) != percent:
                    known.percents[cache_id] = percent
                    self._sink.emit(served.pod, events.building(cache_id, percent))


def _waits(served: served_pods.Served) -> bool:
    """Whether a pod has asked for a cache that is not built yet, and does not run yet."""
    if served.ended is not None or served.pod.has_started or served.result is None:
        return False
    return bool(served.result.decision.awaited)
