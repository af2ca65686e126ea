"""Pods that were moved and that no node takes: they are told why, and new ones are left alone."""

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.clients.kube import event_writer, rest_client
from agent.control.admission import twin_classes, waiting_pods
from agent.metrics import admission_metrics
from agent.model import keys, times
from tests.kube import apis, servers

pytestmark = pytest.mark.skipif(
    servers.is_cluster(), reason="counts the nodes of a cluster, which others change"
)

REASON = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."


class World:
    """A twin, its nodes and its pods, and what the leader makes of them."""

    def __init__(self, api: apis.Api, client: rest_client.Client) -> None:
        self.api = api
        self.client = client
        self.twin = f"uimgacc-{uuid.uuid4().hex[:8]}"
        self.label = f"handler.uimgacc.io/{self.twin}"
        self.events: list[event_writer.Record] = []
        self.ahead = datetime.timedelta(seconds=120)
        api.create(
            rest_client.RUNTIME_CLASSES,
            {
                "metadata": {"name": self.twin, "labels": {keys.TWIN_OF: self.twin[8:]}},
                "handler": self.twin,
                "scheduling": {"nodeSelector": {self.label: "true"}},
            },
        )
        self.classes = twin_classes.TwinClasses(client)

    def emit(self, record: event_writer.Record) -> None:
        self.events.append(record)

    def looking(self, **settings: Any) -> waiting_pods.WaitingPods:
        return waiting_pods.WaitingPods(
            self.client,
            self.classes,
            self,
            settings=waiting_pods.Settings(**settings),
            now=lambda: times.now() + self.ahead,
        )

    def node(self, **spec: Any) -> str:
        name = self.api.node(labels={self.label: "true"})
        # A real server's admission taints a node until it is Ready, as the kubelet says.
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m"}
        self.api.patch(
            rest_client.NODES,
            name,
            {"status": {"conditions": [ready]}},
            subresource="status",
            how=rest_client.Patch.STRATEGIC,
        )
        self.api.patch(rest_client.NODES, name, {"spec": {"taints": None, **spec}})
        return name

    def pod(self, name: str = "p", reason: str = "Unschedulable", **spec: Any) -> None:
        body = apis.pod(name, "")
        del body["spec"]["nodeName"]
        body["spec"] |= {"runtimeClassName": self.twin, **spec}
        self.api.create(rest_client.PODS, body, namespace=self.api.namespace)
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": REASON}
        self.api.pod_status(name, {"phase": "Pending", "conditions": [condition]})

    @property
    def is_spared(self) -> bool:
        labels = self.api.get(rest_client.RUNTIME_CLASSES, self.twin)["metadata"]["labels"]
        return labels.get(keys.NO_NODE) == "true"

    def has_node(self) -> bool | None:
        return {each.name: each.has_node for each in self.classes.all()}.get(self.twin)

    async def wait_known(self, has_node: bool) -> None:
        """Until the watch has brought it."""
        async with asyncio.timeout(60):
            while self.has_node() is not has_node:
                await asyncio.sleep(0.02)


@pytest.fixture
async def world(api: apis.Api, client: rest_client.Client) -> AsyncIterator[World]:
    made = World(api, client)
    following = asyncio.get_running_loop().create_task(made.classes.run())
    try:
        await made.wait_known(True)
        yield made
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        api.delete(rest_client.RUNTIME_CLASSES, made.twin)


async def test_a_pod_that_no_node_can_take_is_told_why(world: World) -> None:
    world.pod()

    looking = world.looking()
    await looking.round()
    await looking.round()

    (event,) = world.events
    assert (event.reason, event.type, event.involved.name) == ("ImageCacheNoNode", "Warning", "p")
    assert event.involved.namespace == world.api.namespace
    assert f"{world.label}=true" in event.message
    assert "delete this one" in event.message
    assert world.is_spared


async def test_a_class_that_is_deleted_meanwhile_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pod()
    known = iter([world.classes.all()])
    monkeypatch.setattr(world.classes, "all", lambda: next(known, ()))

    await world.looking().round()

    assert [event.involved.name for event in world.events] == ["p"]


async def test_where_nodes_can_the_scheduler_s_own_words_are_passed_on(world: World) -> None:
    world.node()
    world.pod()

    await world.looking().round()

    (event,) = world.events
    assert REASON in event.message
    assert not world.is_spared


async def test_pods_behind_many_others_are_looked_at_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_client, "_PAGE", 2)
    monkeypatch.setattr(waiting_pods, "_PODS_PAGES", 1)
    names = {f"p{number}" for number in range(7)}
    for name in names:
        world.pod(name)
    looking = world.looking()

    for _ in range(8):
        await looking.round()

    assert sorted(event.involved.name for event in world.events) == sorted(names)
    assert admission_metrics.WAITING_PODS._value.get() == 7


async def test_a_pod_that_has_not_waited_long_is_not_told_yet(world: World) -> None:
    world.pod()
    world.ahead = datetime.timedelta()

    await world.looking().round()

    assert world.events == []


@pytest.mark.parametrize(
    ("reason", "spec"),
    [("SchedulingGated", {}), ("Unschedulable", {"runtimeClassName": "kata"})],
    ids=["gated", "another class"],
)
async def test_pods_that_wait_for_something_else_are_left_out(
    world: World, reason: str, spec: Any
) -> None:
    world.api.runtime_class("kata")
    world.pod(reason=reason, **spec)

    await world.looking().round()

    assert world.events == []


@pytest.mark.parametrize(
    "spec",
    [
        {"unschedulable": True},
        {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
    ],
    ids=["cordoned", "unreachable"],
)
async def test_a_node_that_takes_no_pods_does_not_count(world: World, spec: Any) -> None:
    world.node(**spec)

    await world.looking().round()

    assert world.is_spared


async def test_pods_are_moved_again_once_a_node_can_take_them(world: World) -> None:
    looking = world.looking()
    await looking.round()
    await world.wait_known(False)
    world.node()

    await looking.round()

    assert not world.is_spared
    await world.wait_known(True)


ABILITIES = {keys.USER_NAMESPACES_LABEL: "maps_ids", keys.IMAGE_VOLUMES_LABEL: "mounts_volumes"}


async def said_of_class(world: World, *expected: str) -> None:
    """Have the twins labelled, and compare; wait until the watch has brought it."""
    await world.looking().round()
    labels = world.api.get(rest_client.RUNTIME_CLASSES, world.twin)["metadata"]["labels"]
    assert {key for key in ABILITIES if labels.get(key) == "true"} == set(expected)
    async with asyncio.timeout(60):
        while any(
            getattr(each, ability) is not (key in expected)
            for each in world.classes.all()
            for key, ability in ABILITIES.items()
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("label", ABILITIES)
async def test_a_class_says_what_its_nodes_can_serve(world: World, label: str) -> None:
    own = world.node()

    await said_of_class(world)
    world.api.patch(rest_client.NODES, own, {"metadata": {"labels": {label: "true"}}})
    await said_of_class(world, label)
    world.api.patch(rest_client.NODES, own, {"spec": {"unschedulable": True}})
    await said_of_class(world)


async def test_image_volumes_and_user_namespaces_are_said_of_one_node(world: World) -> None:
    """A pod may need both: where no node has both, it is left alone."""
    mapping, mounting = world.node(), world.node()
    both = (keys.USER_NAMESPACES_LABEL, keys.IMAGE_VOLUMES_LABEL)
    for node, label in zip((mapping, mounting), both, strict=True):
        world.api.patch(rest_client.NODES, node, {"metadata": {"labels": {label: "true"}}})

    await said_of_class(world, keys.USER_NAMESPACES_LABEL)
    world.api.patch(rest_client.NODES, mounting, {"metadata": {"labels": {both[0]: "true"}}})
    await said_of_class(world, *both)


async def test_with_the_setting_always_pods_wait_for_a_node(world: World) -> None:
    world.pod()

    await world.looking(spare=False).round()

    assert not world.is_spared
    assert "without asking for a cache" in world.events[0].message


async def test_with_no_time_there_are_no_events(world: World) -> None:
    world.pod()

    await world.looking(wait=0).round()

    assert world.events == []
