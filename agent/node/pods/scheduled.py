"""Which pods are on this node: those that the API server has bound to it.

One list, then one watch that is resumed where it ended. While the API server is
away, what is known stays known: nothing is taken from pods that run. No clock of
another machine is looked at, only versions.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Protocol

from agent import errors
from agent.clients.kube import node_pods, refusals
from agent.kits.aio import backoff
from agent.model import pods
from agent.node.pods import pod_source

logger = logging.getLogger(__name__)

# Half of each is random: when a server comes back, not all nodes come back to it at once.
_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_JITTER = 0.5
_SHORT_SECONDS = 1.0
# "Too large resource version": the server's data is older than what we have seen, for instance
# after its database was restored from a backup.
_TIMEOUT = 504
_ANY = "0"


class Api(Protocol):
    """The pods of this node: agent.clients.kube.node_pods.NodePods."""

    async def list(self, *, not_older_than: str) -> node_pods.Listing:
        """All pods, at least as new as a version."""

    def watch(self, version: str) -> AsyncGenerator[node_pods.Told, None]:
        """The changes since a version."""


class Observer(Protocol):
    """Who wants to see every state of a pod, also those that change nothing for serving it."""

    def seen(self, key: str, pod: pods.Pod, *, first: bool) -> None:
        """A pod is in this state; `first`: it was there before we began to look."""

    def gone(self, key: str) -> None:
        """A pod is no more."""


class Scheduled:
    """The pods that the API server has bound to this node; see watching.PodSource.

    Never raises for what the API server does: `problem` says what is wrong, for
    people, and is "" while all is well.
    """

    def __init__(
        self,
        api: Api,
        observer: Observer,
        *,
        delays: Sequence[float] = _DELAYS,
    ) -> None:
        self._api = api
        self._observer = observer
        self._delays = delays
        self._known: dict[str, pods.Pod] = {}
        self._started_with: dict[str, Sequence[str]] = {}
        self._version = ""
        self._at_least = _ANY
        self.synced = False
        self.problem = ""

    @property
    def problems(self) -> Mapping[str, str]:
        """See watching.PodSource."""
        return {"API server": self.problem} if self.problem else {}

    async def changes(self) -> AsyncIterator[pod_source.Change]:
        """See watching.PodSource."""
        self._known.clear()
        self._started_with.clear()
        self._version = ""
        pauses = backoff.Backoff(self._delays, jitter=_JITTER)
        while True:
            before = self._version
            try:
                async with contextlib.aclosing(self._step()) as changes:
                    async for change in changes:
                        yield change
            except errors.AgentError as error:
                # A connection that lives, however short, is no reason to wait longer each time.
                if self._version != before:
                    pauses.reset()
                self._failed(error)
                await pauses.wait(getattr(error, "delay", None))
            else:
                pauses.reset()

    def is_running(self, key: str) -> bool:
        """See watching.PodSource."""
        pod = self._known.get(key)
        return pod is not None and self._started_with.get(key) == pod.images

    async def _step(self) -> AsyncGenerator[pod_source.Change, None]:
        """List if that is needed, then one watch to its end."""
        loop = asyncio.get_running_loop()
        if not self._version:
            listing = await self._api.list(not_older_than=self._at_least)
            self._version = listing.version
            for change in self._differences(listing.pods):
                yield change
            self.synced = True
        started, before = loop.time(), self._version
        async with contextlib.aclosing(self._api.watch(self._version)) as watch:
            async for news in watch:
                self._worked()
                self._version = news.version
                if news.key:
                    for change in self._change(news):
                        yield change
        if self._version == before and loop.time() - started < _SHORT_SECONDS:
            # A server that ends each watch at once would be asked without a pause.
            raise refusals.Unavailable("the API server ended a watch at once")

    def _differences(self, found: Mapping[str, pods.Pod | None]) -> Iterator[pod_source.Change]:
        """What has changed between what was told and a list."""
        for key in [key for key in self._known if key not in found]:
            yield from self._gone(key)
        for key, pod in found.items():
            if pod is not None:
                yield from self._seen(key, pod)

    def _change(self, news: node_pods.Told) -> Iterator[pod_source.Change]:
        if news.gone:
            yield from self._gone(news.key)
        elif news.pod is not None:
            yield from self._seen(news.key, news.pod)

    def _seen(self, key: str, pod: pods.Pod) -> Iterator[pod_source.Change]:
        known = self._known.get(key)
        if known is not None and known.uid != pod.uid:
            yield from self._gone(key)
            known = None
        self._observer.seen(key, pod, first=not self.synced)
        if pod.has_started:
            self._started_with.setdefault(key, pod.images)
        matters = _what_matters(pod)
        if matters != known:
            self._known[key] = matters
            yield pod_source.Change(key, matters)

    def _gone(self, key: str) -> Iterator[pod_source.Change]:
        self._started_with.pop(key, None)
        if self._known.pop(key, None) is not None:
            self._observer.gone(key)
            yield pod_source.Change(key, None)

    def _failed(self, error: errors.AgentError) -> None:
        """Note what is wrong, and from where to go on."""
        if isinstance(error, refusals.Gone):
            # Routine: nothing happened for long enough that the server has forgotten when.
            logger.info("the pods are listed again", extra={"reason": str(error)})
            self._at_least = self._version or self._at_least
            self._version = ""
            return
        refusal = error.refusal if isinstance(error, refusals.Unavailable) else None
        if refusal is not None and refusal.status == _TIMEOUT:
            self._version = self._at_least = ""
        if not self.problem:
            logger.warning("the API server is away", extra={"reason": str(error)})
        self.problem = f"{error} ({len(self._known)} pods stay known)"

    def _worked(self) -> None:
        if self.problem:
            logger.info("the API server is back")
            self.problem = ""


def _what_matters(pod: pods.Pod) -> pods.Pod:
    """The pod without what changes while it runs: most of its changes are no news to anybody."""
    phase = pod.phase if pod.has_finished else ""
    return dataclasses.replace(pod, phase=phase, accepted_at=None, started_at=None)
