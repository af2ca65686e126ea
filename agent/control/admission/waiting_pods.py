"""Pods of a twin that no node takes: an event says why, and no other pod is moved to the twin.

Moving a pod to a twin makes it need a node with the twin's handler. Where there is none, the twin
gets the label keys.NO_NODE: the admission policy and the webhook move no pod to it until a node can
take it, so new pods start by an ordinary pull. In the same way the twin's labels
keys.USER_NAMESPACES_LABEL and keys.IMAGE_VOLUMES_LABEL say that a node takes its pods in user
namespaces, and those with image volumes.

The leader looks at a few nodes for each twin, and at the pods that are bound to no node: twice a
minute while all is well, more often while a twin has no node.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from agent import errors
from agent.clients.kube import event_writer, rest_client
from agent.control.admission import twin_classes
from agent.control.reconcile import cache_events
from agent.kits.aio import backoff
from agent.matching import pod_moves
from agent.metrics import admission_metrics
from agent.model import keys, times

logger = logging.getLogger(__name__)

REASON = "ImageCacheNoNode"

_ROUND, _ROUND_WITHOUT_NODE = 30.0, 10.0
_ROUND_WITHIN_PASS = 5.0
"""The API server keeps a list's version for five minutes."""
_JITTER = 0.2
# Whole nodes have the names of their images: some dozen kilobytes each.
_NODES_PAGE = 5
_NODES_PAGES = 40
_PODS_PAGES = 5
"""In one round; the next one goes on behind them, until all pods were looked at."""
_UNREACHABLE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_USER_NAMESPACES = {keys.USER_NAMESPACES_LABEL: "true"}
_IMAGE_VOLUMES = {keys.IMAGE_VOLUMES_LABEL: "true"}
_UNSCHEDULED = "spec.nodeName=,status.phase=Pending"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`wait` is in seconds, 0 for never; `spare`: no pod is moved while no node can take it."""

    wait: float = 60.0
    spare: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A pod that the scheduler has found no node for, in its own words."""

    involved: event_writer.Involved
    twin: str
    since: datetime.datetime
    scheduler: str


@dataclasses.dataclass(slots=True)
class _Pass:
    """One look at all pods that are bound to no node, in as many rounds as it takes.

    `more` is where the next round goes on, "" at its beginning and its end. `seen` are the UIDs of
    those that wait, and whether there was a node for them.
    """

    more: str = ""
    seen: set[tuple[str, bool]] = dataclasses.field(default_factory=set)


class WaitingPods:
    """Looks for them in the whole cluster; `now` is the time by the API server's clock."""

    def __init__(
        self,
        client: rest_client.Client,
        twins: twin_classes.TwinClasses,
        events: cache_events.Writer,
        *,
        settings: Settings,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._client = client
        self._twins = twins
        self._events = events
        self._settings = settings
        self._now = now
        self._emitted: set[tuple[str, bool]] = set()
        self._pass = _Pass()
        self._refused: set[str] = set()
        self._all_have_nodes = True

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await self.round()
            except errors.AgentError as error:
                logger.warning("pods that wait were not looked for", extra={"reason": str(error)})
            await asyncio.sleep(backoff.spread(self._pause, _JITTER))

    @property
    def _pause(self) -> float:
        if self._pass.more:
            return _ROUND_WITHIN_PASS
        return _ROUND if self._all_have_nodes else _ROUND_WITHOUT_NODE

    async def round(self) -> None:
        """Label the twins, and emit the events of pods that wait. Raises AgentError."""
        capable: dict[str, bool] = {}
        # As they are now: a twin may be deleted while pods are listed.
        twins = {twin.name: twin for twin in self._twins.all()}
        for twin in twins.values():
            capable[twin.name] = await self._has_node(twin)
            maps_ids = await self._has_node(twin, _USER_NAMESPACES)
            # A pod in a user namespace may have image volumes: then it needs one node for both.
            volumes = _IMAGE_VOLUMES | (_USER_NAMESPACES if maps_ids else {})
            await self._label(
                dataclasses.replace(
                    twin,
                    has_node=capable[twin.name] or not self._settings.spare,
                    maps_ids=maps_ids,
                    mounts_volumes=await self._has_node(twin, volumes),
                ),
                before=twin,
            )
        # Before the first list of twins there is nothing to look at.
        self._all_have_nodes = all(capable.values()) and self._twins.synced
        waiting = await self._waiting(capable) if capable and self._settings.wait else []
        for pod in waiting:
            key = (pod.involved.uid, capable[pod.twin])
            self._pass.seen.add(key)
            if key not in self._emitted:
                self._emitted.add(key)
                twin = twins[pod.twin]
                self._events.emit(self._event(pod, twin, has_node=capable[twin.name]))
        if not self._pass.more:
            admission_metrics.WAITING_PODS.set(len({uid for uid, _ in self._pass.seen}))
            self._emitted = self._pass.seen
            self._pass = _Pass()

    async def _has_node(
        self, twin: pod_moves.Twin, further: Mapping[str, str] = MappingProxyType({})
    ) -> bool:
        """Whether a node has what the twin's pods need, is Ready, and is not cordoned."""
        selector = {**twin.selector, **further}
        if not selector:
            return True
        labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        pages = 0
        async for page in self._client.pages(rest_client.NODES, labels=labels, limit=_NODES_PAGE):
            if any(map(_takes_pods, page.items)):
                return True
            pages += 1
            if pages == _NODES_PAGES:
                # So many that are not Ready are an outage of the whole cluster.
                return False
        return False

    async def _label(self, twin: pod_moves.Twin, *, before: pod_moves.Twin) -> None:
        """Have a class say of nodes what its twin does now; `before` is what it says."""
        if twin == before:
            return
        labels = {
            keys.NO_NODE: None if twin.has_node else "true",
            keys.USER_NAMESPACES_LABEL: "true" if twin.maps_ids else None,
            keys.IMAGE_VOLUMES_LABEL: "true" if twin.mounts_volumes else None,
        }
        patch = {"metadata": {"labels": labels}}
        try:
            await self._client.patch(
                rest_client.RUNTIME_CLASSES, twin.name, patch, manager=keys.CONTROLLER
            )
        except errors.AgentError as error:
            # A class of the user's own, for instance, that the controller's role does not name.
            if twin.name not in self._refused:
                self._refused.add(twin.name)
                logger.warning(
                    "a runtime class cannot be labelled",
                    extra={"class": twin.name, "reason": str(error)},
                )
            return
        self._refused.discard(twin.name)
        if twin.maps_ids is not before.maps_ids:
            logger.info(
                "whether nodes serve user namespaces has changed",
                extra={"class": twin.name, "serve": twin.maps_ids},
            )
        if twin.mounts_volumes is not before.mounts_volumes:
            logger.info(
                "whether nodes mount image volumes has changed",
                extra={"class": twin.name, "mount": twin.mounts_volumes},
            )
        if twin.has_node is before.has_node:
            return
        if twin.has_node:
            logger.info("pods are moved to the runtime class", extra={"class": twin.name})
        else:
            logger.info(
                "no node can take pods of the runtime class: none is moved to it",
                extra={"class": twin.name},
            )

    async def _waiting(self, capable: Mapping[str, bool]) -> Sequence[_Waiting]:
        latest = self._now() - datetime.timedelta(seconds=self._settings.wait)
        waiting: list[_Waiting] = []
        pages = 0
        # From the server's memory: a database would be read for every pod of the cluster.
        listed = self._client.pages(
            rest_client.PODS, fields=_UNSCHEDULED, not_older_than="0", after=self._pass.more
        )
        # Where the list's version is too old by now, the next round begins a new pass.
        self._pass.more = ""
        async with contextlib.aclosing(listed):
            async for page in listed:
                read = (_waiting_of(pod) for pod in page.items if _class_of(pod) in capable)
                waiting += [pod for pod in read if pod is not None and pod.since <= latest]
                pages += 1
                if pages == _PODS_PAGES:
                    self._pass.more = page.more
                    break
        return waiting

    def _event(self, pod: _Waiting, twin: pod_moves.Twin, *, has_node: bool) -> event_writer.Record:
        return event_writer.Record(
            involved=pod.involved,
            reason=REASON,
            message=message_of(twin, pod.scheduler, has_node=has_node, spare=self._settings.spare),
            type="Warning",
            once=True,
        )


def message_of(twin: pod_moves.Twin, scheduler: str, *, has_node: bool, spare: bool) -> str:
    """Why a pod of a twin waits, and what its owner can do."""
    if has_node:
        return (
            f"The pod runs under the runtime class {twin.name} of uimgacc, and none of the nodes"
            f" that have its handler takes the pod: {scheduler}"
        )
    labels = ", ".join(f"{key}={value}" for key, value in sorted(twin.selector.items()))
    meanwhile = (
        "New pods are left to an ordinary pull meanwhile: delete this one to have it created so."
        if spare
        else "To start without uimgacc, the pod must be created without asking for a cache."
    )
    return (
        f"The pod waits for a node with the handler {twin.handler} of uimgacc: no node that is"
        f" Ready has the labels {labels}. The condition {keys.NODE_CONDITION} of the nodes says"
        f" why. {meanwhile}"
    )


def _takes_pods(node: Mapping[str, Any]) -> bool:
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        return False
    return not any(taint.get("key") in _UNREACHABLE for taint in spec.get("taints") or ())


def _class_of(pod: Mapping[str, Any]) -> str:
    return str((pod.get("spec") or {}).get("runtimeClassName") or "")


def _waiting_of(pod: Mapping[str, Any]) -> _Waiting | None:
    """None for one that the scheduler has not tried, or must not try yet (a scheduling gate)."""
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    since = times.parse(str(metadata.get("creationTimestamp") or ""))
    conditions = (pod.get("status") or {}).get("conditions") or ()
    for condition in conditions:
        if condition.get("type") != "PodScheduled" or condition.get("reason") != "Unschedulable":
            continue
        if since is None:
            return None
        involved = event_writer.Involved(
            api_version="v1",
            kind="Pod",
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
        )
        return _Waiting(
            involved=involved,
            twin=_class_of(pod),
            since=since,
            scheduler=str(condition.get("message") or "the scheduler gives no reason"),
        )
    return None
