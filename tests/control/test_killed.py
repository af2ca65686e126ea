"""The controller ends between any two calls: the next one goes on, and builds nothing twice."""

import base64
import contextlib
import dataclasses
import pathlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.control.decisions import retention
from agent.store.lookup import direct_reader
from tests.control import worlds
from tests.kube import apis
from tests.kube.conftest import Fixed

pytestmark = pytest.mark.timeout(300)

GoOn = Callable[[Callable[[], bool]], Awaitable[None]]
"""Controllers, one after the other as each ends, until something holds."""


async def changed(world: worlds.World, go_on: GoOn) -> None:
    """Made, changed, and deleted."""
    await go_on(lambda: world.holds(world.image))
    other = f"{world.image}-other"
    world.api.patch(worlds.RESOURCE, world.name, {"spec": {"images": [other]}})
    await go_on(lambda: world.holds(other))
    world.api.delete(worlds.RESOURCE, world.name)
    await go_on(world.is_gone)


async def expired(world: worlds.World, go_on: GoOn) -> None:
    """Made for a pod that is soon gone, never used, and deleted by the controller itself."""
    await go_on(lambda: world.holds(world.image))
    world.advance(seconds=UNUSED)
    await go_on(world.is_gone)


async def retried(world: worlds.World, go_on: GoOn) -> None:
    """Built at the second attempt, which is due after a while."""
    await go_on(lambda: bool(world.status().get("phase") == "Failed"))
    assert "(failure 1)" in world.status()["message"]
    world.advance(seconds=60)
    await go_on(lambda: world.holds(world.image))


async def waited_for(world: worlds.World, go_on: GoOn) -> None:
    """Deleted while a node holds its layers: the object says so, until the node lets go."""
    world.holder = "It is deleted; node a holds it."
    world.api.delete(worlds.RESOURCE, world.name)
    await go_on(lambda: bool(world.status().get("message") == world.holder))
    assert world.deleted(), "its layers are not waited for"
    world.holder = ""
    await go_on(world.is_gone)


async def given_up(world: worlds.World, go_on: GoOn) -> None:
    """Deleted while a node holds its layers that never lets go: the object goes all the same."""
    world.holder = "It is deleted; node a holds it."
    world.api.delete(worlds.RESOURCE, world.name)
    await go_on(world.is_gone)
    assert world.deleted(), "what a node holds is forgotten"


UNUSED = 1800.0
"""Seconds after which an automatic cache goes that no pod has used; less than a deletion waits."""


@dataclasses.dataclass(frozen=True)
class Life:
    """What happens to a cache, in which world, and how many builds that takes.

    `ready`: it begins with a cache that is Ready, which another life has as well.
    """

    live: Callable[[worlds.World, GoOn], Awaitable[None]]
    builds: int
    ready: bool = False
    world: dict[str, Any] = dataclasses.field(default_factory=dict)


LIVES = [
    Life(changed, builds=2),
    Life(
        expired,
        builds=1,
        world={
            "automatic": True,
            "rules": retention.Rules(unused_days=UNUSED / 86400, deletion_seconds=2 * UNUSED),
        },
    ),
    Life(retried, builds=2, world={"failing": 1}),
    Life(waited_for, builds=1, ready=True),
    Life(given_up, builds=1, ready=True, world={"rules": retention.Rules(deletion_seconds=0)}),
]


@pytest.fixture
def made(api: apis.Api, kinds: None, tmp_path: pathlib.Path) -> Iterator[Any]:
    """Makes worlds, which have the Secret for pulls in common; they end with the test."""
    body = {
        "metadata": {"name": worlds.PULL_SECRET},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(b'{"auths": {}}').decode()},
    }
    api.create(rest_client.SECRETS, body, namespace=api.namespace)
    with contextlib.ExitStack() as stack:

        def make(**more: Any) -> worlds.World:
            world = worlds.World(api, tmp_path, **more)
            stack.callback(world.close)
            return world

        yield make


def administrator(api: apis.Api) -> rest_client.Client:
    access = Fixed(api.access.server)

    async def given() -> Any:
        return api.access

    access.read = given  # type: ignore[method-assign]
    return rest_client.Client(access, deadline=20)


async def whole(
    life: Life, world: worlds.World, client: rest_client.Client, calls: worlds.Calls
) -> None:
    """A whole life, and what must be true after each."""
    if life.ready:
        await worlds.go_on(world, client, worlds.Calls(), lambda: world.holds(world.image))
    await life.live(world, lambda until: worlds.go_on(world, client, calls, until))

    assert len(world.built) == life.builds, world.built
    assert bool(list(direct_reader.Reader(world.place).caches())) is not world.is_gone()
    left = world.api.list(rest_client.SECRETS, namespace=world.api.namespace)
    owners = {
        owner["name"] for secret in left for owner in secret["metadata"].get("ownerReferences", ())
    }
    assert owners <= set(world.built), "a Secret without an owner"
    for name in owners:
        world.api.delete(rest_client.SECRETS, name, namespace=world.api.namespace)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.live.__name__)
async def test_killed_at_every_call(api: apis.Api, made: Any, life: Life) -> None:
    async with administrator(api) as client:
        calls = worlds.Calls()
        await whole(life, made(**life.world), client, calls)
        assert calls.count >= 2
        for at in range(calls.count):
            for after in (False, True):
                world = made(**life.world)
                try:
                    await whole(life, world, client, worlds.Calls(at, after=after))
                except AssertionError as error:
                    error.add_note(f"killed {'after' if after else 'before'} call {at}")
                    raise
                world.close()


async def test_two_controllers_at_once_build_once(api: apis.Api, made: Any) -> None:
    """In the moment in which one does not know yet that it leads no more."""
    life = LIVES[0]
    async with administrator(api) as client:
        world = made(**life.world)
        pair = [worlds.reconciler(world, client, worlds.Calls()) for _ in range(2)]
        for one, _ in pair:
            with contextlib.suppress(Exception):  # a conflict is what is to be expected
                await one.step(world.key)
        world.turn()
        assert len(world.jobs) == 1

        await whole(life, world, client, worlds.Calls())
