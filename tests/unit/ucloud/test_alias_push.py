"""Other names of images: pushed when an object was delivered; no request is sent otherwise."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent import errors
from agent.clients.registry import connections, credentials, tag_push
from agent.control.caches import cache_object
from agent.model import keys
from agent.ucloud import accelerated_images, alias_push

pytestmark = pytest.mark.looptime


class Objects:
    """Notes what is asked and written."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def login(self) -> bytes | None:
        self.log.append("login")
        return None

    async def pushed(self, each: accelerated_images.Accelerated, layers: int) -> None:
        self.log.append(f"pushed {each.target} {layers}")

    async def failed(self, each: accelerated_images.Accelerated, problem: str) -> None:
        self.log.append(f"failed {problem}")


class Registry:
    """A registry; `errors` are raised first, one a push."""

    errors: list[Exception]

    def __init__(self, _chain: credentials.Chain, _options: object) -> None:
        pass

    async def __aenter__(self) -> "Registry":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def alias(self, _source: object, _target: object) -> None:
        if self.errors:
            raise self.errors.pop(0)

    async def layers(self, _source: object) -> int:
        return 2


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    Registry.errors = []
    monkeypatch.setattr(tag_push, "Client", Registry)
    return Registry.errors


def body(*, ready: bool = True, labelled: bool = True, stage: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": "ucloud-1",
            "uid": "u",
            "resourceVersion": "1",
            "labels": {keys.UCLOUD_LABEL: "true"} if labelled else {},
            "annotations": {
                "uimgacc.io/original-image": "r.io/app:1",
                "uimgacc.io/target-image": "r.io/app:1-acc",
                "uimgacc.io/target-stage": stage,
            },
        },
        "spec": {"images": ["r.io/app:1"]},
    }
    if ready:
        build = {"spec": cache_object.parse(made).spec_hash}
        made["status"] = {"phase": "Ready", "progress": "100%", "build": build}
    return made


@contextlib.asynccontextmanager
async def running(pusher: alias_push.AliasPusher) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pusher.run())
        yield
        task.cancel()


async def test_nothing_is_asked_while_nothing_is_to_be_done() -> None:
    objects = Objects()
    pusher = alias_push.AliasPusher(objects, objects, options=connections.Options())
    async with running(pusher):
        for each in (body(ready=False), body(labelled=False), body(stage="Pushed")):
            pusher.deliver("MODIFIED", each)
        await asyncio.sleep(3600)

    assert objects.log == []


async def test_a_name_is_pushed_once_it_is_built() -> None:
    objects = Objects()
    pusher = alias_push.AliasPusher(objects, objects, options=connections.Options())
    async with running(pusher):
        pusher.deliver(None, body())
        await asyncio.sleep(3600)

    assert objects.log == ["login", "pushed r.io/app:1-acc 2"]


async def test_what_is_temporary_is_tried_again_unless_the_object_goes(failures) -> None:
    objects = Objects()
    pusher = alias_push.AliasPusher(objects, objects, options=connections.Options())
    failures += [errors.TemporaryError("429")] * 2
    async with running(pusher):
        pusher.deliver("ADDED", body())
        await asyncio.sleep(60)
        assert objects.log == ["login"] * 3 + ["pushed r.io/app:1-acc 2"]

        failures += [errors.TemporaryError("429")] * 1000
        pusher.deliver("ADDED", body())
        await asyncio.sleep(60)
        pusher.deliver("DELETED", body())
        await asyncio.sleep(3)
        objects.log.clear()
        await asyncio.sleep(3600)

    assert objects.log == []


async def test_what_is_refused_is_noted(failures) -> None:
    objects = Objects()
    pusher = alias_push.AliasPusher(objects, objects, options=connections.Options())
    failures.append(errors.PermanentError("405"))
    async with running(pusher):
        pusher.deliver("ADDED", body())
        await asyncio.sleep(60)

    assert objects.log == ["login", "failed r.io/app:1-acc cannot be pushed: 405"]
