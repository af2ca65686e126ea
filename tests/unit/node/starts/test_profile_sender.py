"""Of many nodes that have observed the same start few write, and one at a time. In fake time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.clients.kube import refusals
from agent.model import keys
from agent.model.starts import profile_codec, start_profiles
from agent.node.starts import expected_starts, profile_sender
from tests.fakes import api as fakes
from tests.unit.store import making

pytestmark = pytest.mark.looptime

IMAGE = making.image_record(making.REF, [making.layer_record("a")])
TEXT = profile_codec.encode(start_profiles.Profile((making.digest("a"),), ()))
START = expected_starts.Start(IMAGE, IMAGE.platforms[0], ("uimgacc.io", "tools"))


class Setting:
    def __init__(self, *names: str) -> None:
        self.api = fakes.Api()
        self.stored = False
        self.senders = [profile_sender.Sender(self.api, name) for name in names or ("node-1",)]
        self.api.objects["imagecaches", "", "tools"] = {
            "metadata": {"name": "tools", "resourceVersion": "1"}
        }

    async def is_stored(self) -> bool:
        return self.stored

    def offer(self, start: expected_starts.Start = START) -> None:
        for sender in self.senders:
            sender.offer(expected_starts.Observed(start, TEXT, self.is_stored))

    @property
    def annotations(self) -> dict[str, str]:
        body = self.api.objects["imagecaches", "", "tools"]
        return body["metadata"].setdefault("annotations", {})

    def patches(self) -> int:
        return sum("patch" in entry[0].lower() for entry in self.api.log)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sender.run()) for sender in self.senders]
            yield
            for task in tasks:
                task.cancel()


async def test_a_report_is_written_in_the_nodes_name() -> None:
    setting = Setting()
    async with setting.running():
        setting.offer()
        await asyncio.sleep(100)

    report = profile_codec.parse_report(setting.annotations[keys.START_PROFILE])
    assert (report.node, report.image, report.text) == ("node-1", making.REF, TEXT)
    assert report.manifest == IMAGE.platforms[0].manifest


async def test_of_many_nodes_one_writes_until_the_store_knows() -> None:
    setting = Setting(*(f"node-{number}" for number in range(50)))
    async with setting.running():
        setting.offer()
        await asyncio.sleep(90)
        assert setting.patches() == 1
        setting.stored = True
        del setting.annotations[keys.START_PROFILE]
        await asyncio.sleep(4000)

    assert setting.patches() == 1


async def test_a_report_of_another_is_waited_for() -> None:
    setting = Setting()
    setting.annotations[keys.START_PROFILE] = "of another"
    async with setting.running():
        setting.offer()
        await asyncio.sleep(300)
        assert setting.annotations[keys.START_PROFILE] == "of another"
        del setting.annotations[keys.START_PROFILE]
        await asyncio.sleep(600)

    assert setting.annotations[keys.START_PROFILE].startswith("1 node-1 ")


async def test_a_failing_api_is_tried_again_and_a_refusal_is_not() -> None:
    setting = Setting()
    setting.api.failures = [refusals.Unavailable("the API server is away")]
    async with setting.running():
        setting.offer()
        await asyncio.sleep(200)
        assert keys.START_PROFILE in setting.annotations
        del setting.annotations[keys.START_PROFILE]
        setting.api.failures = [refusals.Denied(fakes.refusal(403, "Forbidden"))]
        setting.offer()
        await asyncio.sleep(4000)

    assert keys.START_PROFILE not in setting.annotations


async def test_an_image_of_no_cache_object_is_not_sent() -> None:
    setting = Setting()
    async with setting.running():
        setting.offer(expected_starts.Start(IMAGE, IMAGE.platforms[0], None))
        await asyncio.sleep(200)

    assert setting.api.log == []
