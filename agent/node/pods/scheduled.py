"""The pods of this node: those that the API server has bound to it.

While the API server is away, what is known stays known: nothing is taken from pods
that run.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Protocol

from agent.clients.kube import reflector
from agent.matching import annotations
from agent.model import pods
from agent.node.pods import pod_source


class Observer(Protocol):
    """Takes every state of a pod, also those that change nothing for serving it."""

    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        """A pod is in this state; `first`: it was there when the agent started."""

    def gone(self, key: str) -> None:
        """A pod is gone."""


class Labels(Protocol):
    """What namespaces say for their pods: agent.node.pods.namespace_labels.NamespaceLabels."""

    def value_of(self, namespace: str) -> str:
        """The value of the label keys.CACHE of a namespace, "" for none."""

    async def wait_known(self) -> None:
        """Until the labels are known, or for some seconds."""


class Scheduled:
    """The pods that the API server has bound to this node; see pod_source.PodSource.

    `source` is that of node_pods.select. A pod has the annotation that its namespace's label stands
    for, as if it had been written on it.
    """

    def __init__(
        self,
        source: reflector.Source[pods.Pod],
        observer: Observer,
        *,
        labels: Labels | None = None,
        delays: Sequence[float] = reflector.DELAYS,
    ) -> None:
        self._reflector = reflector.Reflector(source, subject="pods", delays=delays)
        self._observer = observer
        self._labels = labels
        self._known: dict[str, pods.Pod] = {}
        self._started_with: dict[str, Sequence[str]] = {}

    @property
    def synced(self) -> bool:
        """See pod_source.PodSource."""
        return self._reflector.synced

    @property
    def problem(self) -> str:
        """What is wrong, for people; "" while all is well."""
        return self._reflector.problem

    @property
    def problems(self) -> Mapping[str, str]:
        """See pod_source.PodSource."""
        return {"API server": self.problem} if self.problem else {}

    async def changes(self) -> AsyncIterator[pod_source.Change]:
        """See pod_source.PodSource."""
        self._known.clear()
        self._started_with.clear()
        if self._labels is not None:
            await self._labels.wait_known()
        async with contextlib.aclosing(self._reflector.changes()) as updates:
            async for update in updates:
                for change in self._apply(update):
                    yield change

    def is_running(self, key: str) -> bool:
        """See pod_source.PodSource."""
        pod = self._known.get(key)
        return pod is not None and self._started_with.get(key) == pod.images

    def _apply(self, update: reflector.Update[pods.Pod]) -> Iterator[pod_source.Change]:
        key, pod = update.key, update.item
        if pod is None:
            self._started_with.pop(key, None)
            self._observer.gone(key)
            if self._known.pop(key, None) is not None:
                yield pod_source.Change(key, None)
            return
        if self._labels is not None:
            label = self._labels.value_of(pod.namespace)
            spoken_for = annotations.in_namespace(pod.annotations, label)
            pod = dataclasses.replace(pod, annotations=spoken_for)
        self._observer.seen(key, pod, first=not self.synced)
        if pod.has_started:
            self._started_with.setdefault(key, pod.images)
        relevant = _relevant(pod)
        if relevant != self._known.get(key):
            self._known[key] = relevant
            yield pod_source.Change(key, relevant)


def _relevant(pod: pods.Pod) -> pods.Pod:
    """The pod without what changes while it runs: no consumer needs most of its changes."""
    phase = pod.phase if pod.has_finished else ""
    return dataclasses.replace(pod, phase=phase, accepted_at=None, started_at=None)
