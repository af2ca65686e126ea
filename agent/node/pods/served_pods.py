"""The pods of this node and how far each of them is: what the services of the agent share.

pod_worker writes it; others read it, or have pods served again.
"""

import asyncio
import collections
import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from agent.model import pods, times
from agent.node.pods import prepare

_ENDED = 50
WAITING = "waiting"
MISSED = "it ended before its turn came"


@dataclasses.dataclass(slots=True)
class Served:
    """A pod of this node and how far it is. `version` grows with each change of the pod.

    `ended` is when it was seen to have ended, None before.
    """

    pod: pods.Pod
    version: int = 0
    done: int = -1
    sentence: str = WAITING
    result: prepare.Result | None = None
    since: datetime.datetime = dataclasses.field(default_factory=times.now)
    ended: datetime.datetime | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def change(self) -> None:
        """Have it served again."""
        self.version += 1
        self.changed.set()


class ServedPods:
    """All pods of this node, and the last ones that are gone.

    The latter are kept because people ask afterwards: why a Job took so long, for instance.
    """

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self._ended: collections.deque[Served] = collections.deque(maxlen=_ENDED)
        self.appeared = asyncio.Event()
        """Set when a pod has appeared. Local copies wait for it, and clear it."""

    @property
    def current(self) -> Mapping[str, Served]:
        """The pods on the node, by `namespace/name`."""
        return self._served

    @property
    def ended(self) -> Sequence[Served]:
        """The last pods that are gone, the latest first."""
        return tuple(self._ended)

    def accelerated(self, key: str) -> bool:
        """Whether images of a pod were made present here, for it or for a pod before it."""
        served = self._served.get(key)
        return bool(served and served.result and served.result.ready)

    @property
    def is_waiting(self) -> bool:
        """Whether a pod waits to be served."""
        return any(
            served.done != served.version and served.ended is None
            for served in self._served.values()
        )

    def foreign_images(self) -> set[str]:
        """The images, normalised, of pods whose runtime does not use the snapshotter."""
        return {
            str(image.reference)
            for served in self._served.values()
            if served.result is not None and served.result.decision.foreign
            for image in served.result.decision.images
            if image.reference is not None
        }

    def on_node(self) -> list[pods.Pod]:
        """The pods on the node."""
        return [served.pod for served in self._served.values()]

    def add(self, key: str, served: Served) -> None:
        """Add a pod that has appeared."""
        self._served[key] = served
        self.appeared.set()

    def remove(self, key: str) -> Served | None:
        """Move a pod that is gone to the ended ones; None where it is not known."""
        served = self._served.pop(key, None)
        if served is not None:
            self._ended.appendleft(_remembered(served))
        return served

    def serve_again(self) -> None:
        """Have all pods served again: registered images may be gone."""
        for served in self._served.values():
            served.change()

    def retry_now(self) -> None:
        """Have the pods that wait for a retry served now: the store answers again."""
        for served in self._served.values():
            if served.done != served.version:
                served.change()


def _remembered(served: Served) -> Served:
    """What people may want to know of a pod that is gone, without the caches considered."""
    result = served.result
    if result is not None:
        decision = dataclasses.replace(result.decision, candidates=(), events=())
        result = dataclasses.replace(result, decision=decision)
    return Served(
        served.pod,
        version=served.version,
        done=served.version,
        sentence=served.sentence if served.sentence != WAITING else MISSED,
        result=result,
        since=served.since,
        ended=served.ended or times.now(),
    )
