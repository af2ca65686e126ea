"""Serving the pods of this node: each by itself in order, several side by side.

What is served is a pod's last state, not each of its changes. What fails for now
is tried again with growing pauses until the pod is gone, or an end is reached
after which the kubelet has long pulled what it needed.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.model import pods, times
from agent.node.pods import pod_source, prepare
from agent.node.report import pod_events

logger = logging.getLogger(__name__)

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_GIVE_UP_SECONDS = 600.0
_ENDED = 50
_WAITING = "waiting"
_MISSED = "it ended before its turn came"


class Premounter(Protocol):
    """Serves one pod: agent.node.pods.prepare.Premounter."""

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> prepare.Result:
        """Have its images present; AgentError: not (yet). `running`: its containers run already."""


@dataclasses.dataclass(slots=True)
class Served:
    """A pod of this node and how far it is. `version` grows with each change of it.

    `ended` is when it was seen to have ended, None before.
    """

    pod: pods.Pod
    version: int = 0
    done: int = -1
    sentence: str = _WAITING
    result: prepare.Result | None = None
    since: datetime.datetime = dataclasses.field(default_factory=times.now)
    ended: datetime.datetime | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Server:
    """Takes pods from a source and serves them, `parallel` at a time.

    None is served before `wait_known` returns. What became of the last pods that are gone is
    kept, because it is often looked for afterwards: why a Job took so long, for instance.
    """

    def __init__(
        self,
        source: pod_source.PodSource,
        premounter: Premounter,
        reporter: pod_events.Once,
        *,
        wait_known: Callable[[], Awaitable[None]] | None = None,
        parallel: int = 8,
        pauses: Sequence[float] = _PAUSES,
        give_up: float = _GIVE_UP_SECONDS,
    ) -> None:
        self._source = source
        self._premounter = premounter
        self._reporter = reporter
        self._wait_known = wait_known
        self._slots = asyncio.Semaphore(parallel)
        self._pauses = pauses
        self._give_up = give_up
        self._served: dict[str, Served] = {}
        self._ended: collections.deque[Served] = collections.deque(maxlen=_ENDED)

    @property
    def served(self) -> Mapping[str, Served]:
        """The pods that there are, by `namespace/name`."""
        return self._served

    @property
    def ended(self) -> Sequence[Served]:
        """The last pods that are gone, the latest first."""
        return tuple(self._ended)

    def accelerated(self, key: str) -> bool:
        """Whether images of a pod were made present here, for it or for one before it."""
        served = self._served.get(key)
        return bool(served and served.result and served.result.registered)

    def on_node(self) -> list[pods.Pod]:
        """The pods that there are."""
        return [served.pod for served in self._served.values()]

    async def run(self) -> None:
        """Serve for ever."""
        async with asyncio.TaskGroup() as group, _closing(self._source.changes()) as changes:
            async for change in changes:
                if change.pod is None:
                    self._drop(change.key)
                else:
                    self._take(group, change.key, change.pod)

    def serve_again(self) -> None:
        """Look at all pods again: what was registered may be gone."""
        for served in self._served.values():
            _change(served)

    def retry_now(self) -> None:
        """Look at once at the pods that wait for another try: what failed them may be well."""
        for served in self._served.values():
            if served.done != served.version:
                _change(served)

    def _take(self, group: asyncio.TaskGroup, key: str, pod: pods.Pod) -> None:
        served = self._served.get(key)
        if served is None:
            served = self._served[key] = Served(pod)
            served.task = group.create_task(self._look_after(key, served), name=f"pod {key}")
        else:
            served.pod = pod
        if pod.has_ended:
            served.ended = served.ended or times.now()
        _change(served)

    def _drop(self, key: str) -> None:
        served = self._served.pop(key, None)
        if served is None:
            return
        if served.task is not None:
            served.task.cancel()
        self._reporter.forget(key)
        self._ended.appendleft(_remembered(served))

    async def _look_after(self, key: str, served: Served) -> None:
        if self._wait_known is not None:
            served.sentence = "waiting until the cluster knows what this node acknowledges"
            await self._wait_known()
            served.sentence = _WAITING
        while True:
            await served.changed.wait()
            served.changed.clear()
            version = served.version
            # One that has ended needs nothing; what was said of it stays: it is what became of it.
            if served.ended is None:
                await self._serve_until_done(key, served, version)
            elif served.sentence == _WAITING:
                served.sentence = _MISSED
            served.done = version

    async def _serve_until_done(self, key: str, served: Served, version: int) -> None:
        """Serve one version of a pod; a newer one ends it."""
        pauses = backoff.Backoff(self._pauses, deadline=self._give_up)
        while served.version == version:
            try:
                async with self._slots:
                    running = self._source.is_running(key)
                    result = await self._premounter.serve(served.pod, running=running)
            except errors.TemporaryError as error:
                served.sentence = str(error)
                if pauses.failures == 0:
                    logger.warning(
                        "a pod is not served yet", extra={"pod": key, "reason": str(error)}
                    )
                if not await pauses.wait(error.delay, wake=served.changed):
                    logger.warning("a pod is left to itself", extra={"pod": key})
                    return
            except errors.AgentError as error:
                served.sentence = str(error)
                logger.warning("a pod is not served", extra={"pod": key, "reason": str(error)})
                return
            else:
                self._finish(key, served, result)
                return

    def _finish(self, key: str, served: Served, result: prepare.Result) -> None:
        """One sentence for the log where anything new came of it, and the pod's events."""
        if served.sentence != result.sentence and result.decision.request.asks:
            logger.info(
                "served a pod",
                extra={
                    "pod": key,
                    "outcome": result.decision.outcome.value,
                    "cache": result.decision.reported,
                    "said": result.sentence,
                    "milliseconds": round(result.seconds * 1000, 1),
                },
            )
        served.sentence, served.result = result.sentence, result
        for event in result.decision.events:
            self._reporter.emit(served.pod, event)


def _remembered(served: Served) -> Served:
    """What people may want to know of a pod that is gone; the caches considered are many."""
    result = served.result
    if result is not None:
        decision = dataclasses.replace(result.decision, candidates=(), events=())
        result = dataclasses.replace(result, decision=decision)
    return Served(
        served.pod,
        version=served.version,
        done=served.version,
        sentence=served.sentence if served.sentence != _WAITING else _MISSED,
        result=result,
        since=served.since,
        ended=served.ended or times.now(),
    )


def _change(served: Served) -> None:
    served.version += 1
    served.changed.set()


@contextlib.asynccontextmanager
async def _closing(
    changes: AsyncIterator[pod_source.Change],
) -> AsyncIterator[AsyncIterator[pod_source.Change]]:
    """Close an async generator with its consumer, not whenever it is collected."""
    try:
        yield changes
    finally:
        if (close := getattr(changes, "aclose", None)) is not None:
            await close()
