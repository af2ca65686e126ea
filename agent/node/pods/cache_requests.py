"""Caches made on demand: asking the control plane for them, and telling it which are used.

Every node that meets the same pod asks for an object of the same name, so many
nodes at once make one cache. That it exists already is success. What cannot be
asked for now is asked for again by the next pod that wants it: nothing is kept
for long.

A cache that is matched says so by an annotation, which the controller shows, and its
expiry reads. Of a whole fleet one node in a while writes it: each looks first, at most
every six hours, and leaves it alone where somebody has been there.
"""

import asyncio
import collections
import dataclasses
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Protocol

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
_AGAIN = 600.0
_MATCHED = 6 * 3600.0
_SPREAD = 300.0
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_PATIENCE = 600.0
_FORBIDDEN = 403


class Api(Protocol):
    """What of the API is used: agent.clients.kube.rest_client.Client."""

    async def get(self, resource: rest_client.Resource, name: str) -> rest_client.Object:
        """Read an object."""

    async def create(
        self, resource: rest_client.Resource, body: rest_client.Object
    ) -> rest_client.Object:
        """Create an object."""

    async def patch(
        self, resource: rest_client.Resource, name: str, body: object
    ) -> rest_client.Object:
        """Change an object by a merge patch."""


@dataclasses.dataclass(slots=True)
class _Wish:
    """A cache asked for, and the pods to tell when it is being made."""

    wanted: decisions.AutoCreate
    pods: list[pods.Pod]


class Creator:
    """See premounting.CacheCreator. `sink` gets the pods' events.

    `now` is the clock that all nodes and the controller share: the API server's.
    """

    def __init__(
        self,
        api: Api,
        sink: pod_events.EventSink,
        *,
        again: float = _AGAIN,
        matched_every: float = _MATCHED,
        spread: float = _SPREAD,
        pauses: Sequence[float] = _PAUSES,
        now: times.Clock = times.now,
    ) -> None:
        self._api = api
        self._sink = sink
        self._again = again
        self._matched_every = matched_every
        self._spread = spread
        self._pauses = pauses
        self._now = now
        self._wishes: collections.OrderedDict[str, _Wish] = collections.OrderedDict()
        self._made = _Recent(again)
        self._noted = _Recent(matched_every)
        self._due: collections.OrderedDict[tuple[str, str], float] = collections.OrderedDict()
        self._wished = asyncio.Event()
        self._matched = asyncio.Event()

    def create(self, pod: pods.Pod, wanted: decisions.AutoCreate) -> None:
        """Take one wish; the pod gets its event when the cache is in the making."""
        name = wanted.request.name
        if name in self._made:
            self._sink.emit(pod, wanted.event)
        elif wish := self._wishes.get(name):
            if len(wish.pods) < _PODS and pod not in wish.pods:
                wish.pods.append(pod)
        elif len(self._wishes) < _WAITING:
            self._wishes[name] = _Wish(wanted, [pod])
            self._wished.set()

    def matched(self, group: str, name: str) -> None:
        """Take note that a pod was served from the cache of an object of this API group."""
        used = group, name
        if used in self._noted or len(self._due) >= _WAITING:
            return
        self._noted.add(used)
        # Not all nodes at once: by the time most of them look, one of them has written it.
        wait = random.uniform(0, self._spread)  # noqa: S311 - not a secret
        self._due[used] = asyncio.get_running_loop().time() + wait
        self._matched.set()

    async def run(self) -> None:
        """Create what is wished for, for ever."""
        while True:
            await self._wished.wait()
            self._wished.clear()
            while self._wishes:
                name, wish = next(iter(self._wishes.items()))
                if await self._try(functools.partial(self._create, wish.wanted, wish.pods[0])):
                    self._made.add(name)
                    for pod in wish.pods:
                        self._sink.emit(pod, wish.wanted.event)
                del self._wishes[name]

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
        """Act until it is done or given up; whether it is done."""
        pauses = backoff.Backoff(self._pauses, deadline=_PATIENCE)
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
            found = (await self._api.get(kind, name)).get("metadata", {})
            if not self._is_stale((found.get("annotations") or {}).get(keys.LAST_MATCHED, "")):
                return
            await self._api.patch(
                kind,
                name,
                {
                    "metadata": {
                        "resourceVersion": found["resourceVersion"],
                        "annotations": {keys.LAST_MATCHED: times.stamp(self._now())},
                    }
                },
            )
        except (refusals.Conflict, refusals.NotFound):
            # Another node was faster, or the cache is gone, or never was an object: as good.
            return

    def _is_stale(self, text: str) -> bool:
        moment = times.parse(text)
        if moment is None:
            return True
        # What another node wrote after its own wait counts as old when this one looks again. So
        # does what is of the future: a wrong clock must not keep an unused cache for ever.
        oldest = self._matched_every - 2 * self._spread
        return abs((self._now() - moment).total_seconds()) >= oldest


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
