"""Caches created on demand, and the time at which caches were last matched.

Every node that meets the same pod creates an object of the same name, so many nodes at
once create one cache. That it exists already is success. A request that fails is repeated
by the next pod that asks: nothing is kept for long.

When a cache was last matched stands in an annotation that the controller shows and its
expiry reads. Of a whole fleet one node in a while writes it: each reads it first, at most
every six hours, and does not write where another node has.
"""

import asyncio
import collections
import dataclasses
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.kits.aio import backoff
from agent.matching import decisions
from agent.model import cache_manifest, caches, keys, pods, times
from agent.node.report import pod_events

logger = logging.getLogger(__name__)

_REMEMBERED = 1024
_WAITING = 256
_PODS = 32
_PATIENCE = 600.0
_FORBIDDEN = 403


@dataclasses.dataclass(slots=True)
class _Request:
    """A cache asked for, and the pods that get an event when it is being built."""

    wanted: decisions.AutoCreate
    pods: list[pods.Pod]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often, in seconds, objects are written.

    `again` is how long a created cache is remembered, `matched_every` how often a use is
    written, `spread` the time over which nodes write it, `pauses` those before each retry.
    """

    again: float = 600.0
    matched_every: float = 6 * 3600.0
    spread: float = 300.0
    pauses: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Creator:
    """Creates caches: see prepare.CacheCreator. `sink` gets the pods' events.

    `now` is the clock that all nodes and the controller share: the API server's.
    """

    def __init__(
        self,
        api: rest_client.Objects,
        sink: pod_events.EventSink,
        *,
        timing: Timing | None = None,
        now: times.Clock = times.now,
    ) -> None:
        timing = timing or Timing()
        self._api = api
        self._sink = sink
        self._timing = timing
        self._now = now
        self._requests: collections.OrderedDict[str, _Request] = collections.OrderedDict()
        self._made = _Recent(timing.again)
        self._noted = _Recent(timing.matched_every)
        self._due: collections.OrderedDict[tuple[str, str], float] = collections.OrderedDict()
        self._requested = asyncio.Event()
        self._matched = asyncio.Event()

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Take one request; the pod gets its event when the cache is being built."""
        name = wanted.request.name
        if name in self._made:
            self._sink.emit(pod, wanted.event)
        elif request := self._requests.get(name):
            if len(request.pods) < _PODS and pod not in request.pods:
                request.pods.append(pod)
        elif len(self._requests) < _WAITING:
            self._requests[name] = _Request(wanted, [pod])
            self._requested.set()

    def matched(self, group: str, name: str) -> None:
        """Note that a pod was served from the cache of an object of this API group."""
        used = group, name
        if used in self._noted or len(self._due) >= _WAITING:
            return
        self._noted.add(used)
        # Not all nodes at once: by the time most of them look, one of them has written it.
        wait = random.uniform(0, self._timing.spread)  # noqa: S311 - not a secret
        self._due[used] = asyncio.get_running_loop().time() + wait
        self._matched.set()

    async def run(self) -> None:
        """Create the caches that are asked for, for ever."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            while self._requests:
                name, request = next(iter(self._requests.items()))
                if await self._try(
                    functools.partial(self._create, request.wanted, request.pods[0])
                ):
                    self._made.add(name)
                    for pod in request.pods:
                        self._sink.emit(pod, request.wanted.event)
                del self._requests[name]

    async def run_matched(self) -> None:
        """Write when caches were last matched, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._matched.wait()
            self._matched.clear()
            while self._due:
                used = min(self._due, key=self._due.__getitem__)
                await asyncio.sleep(max(0.0, self._due[used] - loop.time()))
                del self._due[used]
                await self._try(functools.partial(self._note, *used))

    async def _try(self, act: Callable[[], Awaitable[None]]) -> bool:
        """Act until that succeeds or is given up; whether it succeeded."""
        pauses = backoff.Backoff(self._timing.pauses, deadline=_PATIENCE)
        while True:
            try:
                await act()
            except errors.TemporaryError as error:
                if isinstance(error, refusals.Denied) and error.refusal.status == _FORBIDDEN:
                    _complain(error)
                    return False
                if not await pauses.wait(error.delay):
                    return False
            except errors.PermanentError as error:
                _complain(error)
                return False
            else:
                return True

    async def _create(self, wanted: decisions.AutoCreate, pod: pods.Pod) -> None:
        try:
            await self._api.create(rest_client.IMAGE_CACHES, manifest_of(wanted.request, pod))
        except refusals.AlreadyExists:
            return
        logger.info(
            "a cache is asked for",
            extra={"cache": wanted.cache_id, "object": wanted.request.name},
        )

    async def _note(self, group: str, name: str) -> None:
        kind = dataclasses.replace(rest_client.IMAGE_CACHES, group=group)
        try:
            metadata = (await self._api.get(kind, name)).get("metadata", {})
            if not self._is_stale((metadata.get("annotations") or {}).get(keys.LAST_MATCHED, "")):
                return
            await self._api.patch(
                kind,
                name,
                {
                    "metadata": {
                        "resourceVersion": metadata["resourceVersion"],
                        "annotations": {keys.LAST_MATCHED: times.stamp(self._now())},
                    }
                },
            )
        except (refusals.Conflict, refusals.NotFound):
            # Another node was faster, or the cache is gone, or was never an object.
            return

    def _is_stale(self, text: str) -> bool:
        moment = times.parse(text)
        if moment is None:
            return True
        # A time that another node wrote after its own wait counts as old when this node reads it
        # again. Only the controller corrects a time in the future: nodes must not set a time back.
        oldest = self._timing.matched_every - 2 * self._timing.spread
        return (self._now() - moment).total_seconds() >= oldest


def _complain(error: errors.AgentError) -> None:
    logger.warning("a cache cannot be asked for", extra={"reason": str(error)})


class _Recent:
    """Names, or others, that were there within so many seconds; a bounded number of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: collections.OrderedDict[Hashable, float] = collections.OrderedDict()

    def __contains__(self, name: Hashable) -> bool:
        return self._until.get(name, 0.0) > asyncio.get_running_loop().time()

    def add(self, name: Hashable) -> None:
        """Remember a name from now on."""
        self._until[name] = asyncio.get_running_loop().time() + self._seconds
        self._until.move_to_end(name)
        while len(self._until) > _REMEMBERED:
            self._until.popitem(last=False)


def manifest_of(request: caches.CacheRequest, pod: pods.Pod) -> dict[str, Any]:
    """The ImageCache object for a request; all nodes make the same but for the annotations."""
    return cache_manifest.write(
        cache_manifest.Draft(
            name=request.name,
            images=request.images,
            pull_secrets=request.pull_secrets,
            size_gib=request.size_gib,
            acr_instances=request.acr_instances,
            labels={keys.AUTO_CREATED: "true"},
            annotations={
                keys.CREATED_FOR: f"{pod.namespace}/{pod.name}",
                keys.CREATED_FOR_UID: pod.uid,
                keys.CREATED_ON: pod.node,
                keys.DIALECT: request.dialect.value,
            },
        )
    )
