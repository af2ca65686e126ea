"""Serving the pods of this node: each one in order, several side by side.

A pod is served by its last state, not by each of its changes. What fails for now is
retried with growing pauses until the pod is gone, or until the kubelet has long pulled
what it needed.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from agent import errors
from agent.kits.aio import backoff
from agent.model import pods, times
from agent.node.pods import pod_source, prepare, served_pods
from agent.node.report import pod_events

logger = logging.getLogger(__name__)


class Preparer(Protocol):
    """Serves one pod: agent.node.pods.prepare.Preparer."""

    async def serve(self, pod: pods.Pod, *, running: bool = False) -> prepare.Result:
        """Have its images present; AgentError: not (yet). `running`: its containers run already."""


class NodeObject(Protocol):
    """What others know of this node: agent.node.health.node_object.Announcer."""

    async def wait_known(self) -> None:
        """Wait until it says which deletions the node has acknowledged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many pods are served side by side, and how long one that fails is retried.

    `pauses` are the seconds before each retry, of which the last repeats; `give_up` the
    seconds after which a pod is left to the kubelet.
    """

    parallel: int = 8
    pauses: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    give_up: float = 600.0


class Worker:
    """Takes pods from a source and serves them; none before the node object is written."""

    def __init__(
        self,
        source: pod_source.PodSource,
        preparer: Preparer,
        events: pod_events.Once,
        served: served_pods.ServedPods,
        node: NodeObject,
        limits: Limits | None = None,
    ) -> None:
        self._source = source
        self._preparer = preparer
        self._events = events
        self._served = served
        self._node = node
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(self._limits.parallel)

    async def run(self) -> None:
        """Serve for ever."""
        async with asyncio.TaskGroup() as group, _closing(self._source.changes()) as changes:
            async for change in changes:
                if change.pod is None:
                    self._drop(change.key)
                else:
                    self._take(group, change.key, change.pod)

    def _take(self, group: asyncio.TaskGroup, key: str, pod: pods.Pod) -> None:
        served = self._served.current.get(key)
        if served is None:
            served = served_pods.Served(pod)
            self._served.add(key, served)
            served.task = group.create_task(self._serve(key, served), name=f"pod {key}")
        else:
            served.pod = pod
        if pod.has_ended:
            served.ended = served.ended or times.now()
        served.change()

    def _drop(self, key: str) -> None:
        served = self._served.remove(key)
        if served is None:
            return
        if served.task is not None:
            served.task.cancel()
        self._events.forget(key)

    async def _serve(self, key: str, served: served_pods.Served) -> None:
        """Serve a pod at each of its changes, until it is gone."""
        served.sentence = "waiting until the cluster knows what this node acknowledges"
        await self._node.wait_known()
        served.sentence = served_pods.WAITING
        while True:
            await served.changed.wait()
            served.changed.clear()
            version = served.version
            # A pod that has ended needs nothing, and keeps the sentence about what it got.
            if served.ended is None:
                await self._serve_version(key, served, version)
            elif served.sentence == served_pods.WAITING:
                served.sentence = served_pods.MISSED
            served.done = version

    async def _serve_version(self, key: str, served: served_pods.Served, version: int) -> None:
        """Serve one version of a pod until that is done; a newer version ends it."""
        pauses = backoff.Backoff(self._limits.pauses, deadline=self._limits.give_up)
        while served.version == version:
            failure = await self._try(key, served, first=pauses.failures == 0)
            if failure is None:
                return
            if not await pauses.wait(failure.delay, wake=served.changed):
                logger.warning("a pod is left to the kubelet", extra={"pod": key})
                return

    async def _try(
        self, key: str, served: served_pods.Served, *, first: bool
    ) -> errors.TemporaryError | None:
        """Serve a pod once; the reason why it should be retried, None where it is done."""
        try:
            async with self._slots:
                running = self._source.is_running(key)
                result = await self._preparer.serve(served.pod, running=running)
        except errors.TemporaryError as error:
            served.sentence = str(error)
            if first:
                logger.warning("a pod is not served yet", extra={"pod": key, "reason": str(error)})
            return error
        except errors.AgentError as error:
            served.sentence = str(error)
            logger.warning("a pod is not served", extra={"pod": key, "reason": str(error)})
            return None
        before = served.result.failed.keys() if served.result else None
        if result.retry is None or result.failed.keys() != before:
            # Once, not at each retry: the wording of a failure may differ each time.
            self._report(key, served, result)
        served.sentence, served.result = result.sentence, result
        return result.retry

    def _report(self, key: str, served: served_pods.Served, result: prepare.Result) -> None:
        """One sentence in the log where there is a new one, and the pod's events."""
        if served.sentence != result.sentence and result.decision.request.asks:
            logger.log(
                logging.WARNING if result.failed else logging.INFO,
                "served a pod",
                extra={
                    "pod": key,
                    "outcome": result.decision.outcome.value,
                    "cache": result.decision.reported,
                    "said": result.sentence,
                    "milliseconds": round(result.seconds * 1000, 1),
                },
            )
        for event in result.decision.events:
            self._events.emit(served.pod, event)


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
