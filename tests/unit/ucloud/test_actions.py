"""UCloud's actions by several controllers at once: what one begins, the others see."""

import asyncio
import dataclasses
import datetime

import pytest

from agent.clients.kube import rest_client
from agent.control.caches import cache_state
from agent.model import images, keys
from agent.ucloud import (
    accelerated_images,
    actions,
    activation,
    image_objects,
    operation_lock,
    protocol,
)
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


class Objects:
    """The objects of a cluster; a list is on its way for a second."""

    def __init__(self) -> None:
        self.there: list[accelerated_images.Accelerated] = []
        self.enabled = True
        self.leader = True

    async def all(self) -> list[accelerated_images.Accelerated]:
        found = list(self.there)
        await asyncio.sleep(1)
        return found

    async def create(self, name: str, original: str, target: str) -> None:
        each = accelerated_images.Accelerated(name=name, uid="u", original=original, target=target)
        self.there = [*(other for other in self.there if other.name != name), each]

    async def delete(self, each: accelerated_images.Accelerated) -> None:
        self.there.remove(each)
        self.there.append(dataclasses.replace(each, deleted=NOW))

    async def mark_reported(self, each: accelerated_images.Accelerated, *, reported: bool) -> None:
        self.there[self.there.index(each)] = dataclasses.replace(each, reported=reported)

    async def has_leader(self) -> bool:
        return self.leader

    async def read(self) -> activation.State:
        return activation.State(enabled=self.enabled)

    async def turn_on(self, _wanted: protocol.Enable) -> None:
        self.enabled = True

    async def turn_off(self) -> None:
        self.enabled = False


def controller(objects: Objects, api: fakes.Api, nfs: str = "h:/p") -> actions.Actions:
    lock = operation_lock.OperationLock(api, namespace="system")
    store = actions.Store(nfs=nfs, problem=str)
    return actions.Actions(objects, objects, lock, store, clock=lambda: NOW)


def create(tag: str) -> protocol.Create:
    return protocol.Create(
        images.parse_reference(f"r.io/app:{tag}"), images.parse_reference(f"r.io/app:{tag}-acc")
    )


async def outcome(actions: actions.Actions, request: protocol.Request) -> str:
    try:
        await actions.do(request)
    except protocol.ApiError as error:
        return error.code.name
    return "done"


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("second", [create("2"), protocol.Disable(), create("1")])
async def test_of_two_operations_at_the_same_moment_one_begins(second, several: bool) -> None:
    objects, api = Objects(), fakes.Api()
    first = controller(objects, api)
    other = controller(objects, api) if several else first

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(outcome(actions, request))
            for actions, request in ((first, create("1")), (other, second))
        ]

    assert [task.result() for task in asked] == ["done", "BUSY"]
    assert [each.original for each in objects.there] == ["r.io/app:1"]
    assert objects.enabled


async def test_a_get_does_not_need_the_lock() -> None:
    objects, api = Objects(), fakes.Api()
    async with operation_lock.OperationLock(api, namespace="system").held():
        assert await outcome(controller(objects, api), protocol.Get()) == "done"


@pytest.mark.parametrize(
    ("store", "asked", "expected"),
    [
        ("h:/p", "h", "done"),
        ("h:/p", "h:/p", "done"),
        ("h:/p", "other", "WRONG_PARAMETER"),
        ("", "other", "done"),  # no NFS export is known: there is nothing to compare
    ],
)
async def test_a_request_cannot_move_the_store(store: str, asked: str, expected: str) -> None:
    objects = Objects()
    objects.enabled = False
    actions = controller(objects, fakes.Api(), store)
    assert await outcome(actions, protocol.Enable(nfs=asked)) == expected
    assert objects.enabled is (expected == "done")


def going(seconds: float, **more: object) -> accelerated_images.Accelerated:
    """An image whose deletion a node holds up for so long."""
    return accelerated_images.Accelerated(
        name=accelerated_images.name_of(images.parse_reference("r.io/app:held")),
        uid="u",
        original="r.io/app:held",
        target="r.io/app:held-acc",
        deleted=NOW - datetime.timedelta(seconds=seconds),
        state=cache_state.State(message="held by pod a/b on node-1"),
        **more,
    )


async def shown(actions: actions.Actions) -> tuple[str, str]:
    found = await actions.do(protocol.Get())
    assert found is not None
    return found.status.value, found.error


async def test_a_deletion_that_is_held_up_keeps_nobody_from_the_next_operation() -> None:
    objects = Objects()
    actions = controller(objects, fakes.Api())
    objects.there = [going(59)]
    assert await shown(actions) == ("Deleting", "")
    assert await outcome(actions, create("1")) == "BUSY"
    assert await outcome(actions, protocol.Disable()) == "BUSY"

    objects.there = [going(61)]
    error = ("DeleteError", "r.io/app:held: held by pod a/b on node-1")
    assert await shown(actions) == error
    # What is being deleted is not created again meanwhile.
    assert await outcome(actions, create("held")) == "BUSY"
    assert await shown(actions) == error

    assert await outcome(actions, create("1")) == "done"
    assert await shown(actions) == ("Creating", "")
    assert await outcome(actions, create("2")) == "BUSY"
    # It was reported; from now on the status is of what was begun since.
    objects.there = [
        dataclasses.replace(each, failed=each.deleted is None) for each in objects.there
    ]
    assert (await shown(actions))[0] == "CreateError"
    assert await outcome(actions, protocol.Disable()) == "done"


async def test_a_repeated_request_for_a_deletion_that_waits_gets_the_error_again() -> None:
    objects = Objects()
    actions = controller(objects, fakes.Api())
    objects.there = [going(61, reported=True)]
    assert await shown(actions) == ("Ready", "")

    assert (
        await outcome(actions, protocol.Delete(images.parse_reference("r.io/app:held"))) == "done"
    )

    assert (await shown(actions))[0] == "DeleteError"


async def test_without_a_leader_nothing_is_begun_and_the_status_is_unknown() -> None:
    objects = Objects()
    objects.leader = False
    actions = controller(objects, fakes.Api())

    found = await actions.do(protocol.Get())

    assert found is not None
    assert (found.nfs_ready, found.agent_ready, found.status) == (
        True,
        False,
        protocol.Status.UNKNOWN,
    )
    assert "no controller leads" in found.error
    assert await outcome(actions, create("1")) == "UNAVAILABLE"
    assert await outcome(actions, protocol.Delete(images.parse_reference("a:1"))) == "UNAVAILABLE"
    assert objects.there == []
    assert await outcome(actions, protocol.Disable()) == "done"


@pytest.mark.parametrize(
    ("lease", "expected"),
    [
        (None, False),
        ({"renewTime": "2026-06-30T23:59:50.000000Z", "holderIdentity": "c-0"}, True),
        ({"renewTime": "2026-06-30T23:59:50.000000Z", "holderIdentity": ""}, True),  # handed on
        ({"renewTime": "2026-06-30T23:57:00.000000Z", "holderIdentity": "c-0"}, False),
        ({}, False),
    ],
)
async def test_who_leads_is_seen_by_the_lease(lease, expected: bool) -> None:
    api = fakes.Api()
    if lease is not None:
        body = {"metadata": {"name": "uimgacc-controller"}, "spec": lease}
        api.put(rest_client.LEASES, body, namespace="system")
    switch = activation.Activation(api, namespace="system")

    assert await switch.has_leader() is expected


@pytest.mark.parametrize(
    ("has_login", "serves", "named", "expected"),
    [
        (
            True,
            ("default", "team"),
            (),
            {"imagePullSecrets": ["system/uimgacc-uhub"], "namespaces": ["default", "team"]},
        ),
        # The registry is always asked: no pod is in the namespace of that Secret.
        (True, (), (), {"imagePullSecrets": ["system/uimgacc-uhub"]}),
        (False, ("default",), (), {}),
        (
            True,
            ("default",),
            ("lab",),
            {"imagePullSecrets": ["system/uimgacc-uhub"], "namespaces": ["lab"]},
        ),
        (False, ("default",), ("lab",), {"namespaces": ["lab"]}),
    ],
)
async def test_what_a_password_has_opened_is_for_the_namespaces_of_the_setting(
    has_login: bool, serves: tuple[str, ...], named: tuple[str, ...], expected
) -> None:
    api = fakes.Api()
    data = {"enabled": "true", "hasLogin": str(has_login).lower()}
    body = {"metadata": {"name": "uimgacc-ucloud"}, "data": data}
    api.put(rest_client.Resource(plural="configmaps"), body, namespace="system")
    switch = activation.Activation(api, namespace="system")
    settings = image_objects.Settings(serves=serves, named=named)
    objects = image_objects.ImageObjects(api, switch, namespace="system", settings=settings)

    await objects.create("ucloud-1", "r.io/app:1", "r.io/app:1-acc")

    (made,) = api.all(rest_client.IMAGE_CACHES)
    assert made["spec"] == {"images": ["r.io/app:1"], "imageCacheSize": 32768, **expected}


async def test_that_an_error_was_reported_is_noted_in_the_object() -> None:
    """So another controller, or this one after a restart, continues from there."""
    api = fakes.Api()
    meta = {"name": "ucloud-1", "labels": {keys.UCLOUD_LABEL: "true"}}
    body = {"apiVersion": "uimgacc.io/v1", "kind": "ImageCache", "metadata": meta}
    api.put(rest_client.IMAGE_CACHES, {**body, "spec": {"images": ["r.io/app:1"]}})
    switch = activation.Activation(api, namespace="system")
    objects = image_objects.ImageObjects(api, switch, namespace="system")

    for reported in (True, False):
        (before,) = map(image_objects.accelerated, api.all(rest_client.IMAGE_CACHES))
        await objects.mark_reported(before, reported=reported)
        (after,) = map(image_objects.accelerated, api.all(rest_client.IMAGE_CACHES))
        assert after.reported is reported
