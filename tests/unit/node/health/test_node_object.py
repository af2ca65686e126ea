"""The node object is kept as it should be, whatever the API and others do. In fake time."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator

import pytest

from agent import errors
from agent.clients.kube import rest_client
from agent.model import keys
from agent.node.health import capability, node_object, node_patch
from tests.fakes import api as fakes

pytestmark = pytest.mark.looptime

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
WELL = capability.Verdict(capable=True)
ILL = capability.Verdict(problems={capability.Check.STORE: "the store does not answer"})
TAINT = node_patch.Taint("uimgacc.io/starting", "", "NoSchedule")


class Setting:
    def __init__(self) -> None:
        self.api = fakes.Api()
        self.api.put(rest_client.NODES, {"metadata": {"name": "n", "labels": {"zone": "a"}}})
        self.emitted: list[tuple[str, str, bool]] = []
        self.announcer = node_object.Announcer(
            self.api, self, node_object.Settings(name="n", taint=TAINT), now=self.now
        )

    def now(self) -> datetime.datetime:
        return START + datetime.timedelta(seconds=asyncio.get_running_loop().time())

    def emit_for_node(self, uid, event) -> None:
        self.emitted.append((uid, event.reason, event.warning))

    @property
    def node(self) -> dict:
        return self.api.objects["nodes", "", "n"]

    @property
    def labels(self) -> dict[str, str]:
        return self.node["metadata"].get("labels", {})

    @property
    def condition(self) -> dict[str, str]:
        (found,) = self.node["status"]["conditions"]
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.announcer.run())
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def given() -> Setting:
    return Setting()


async def judge(given: Setting, verdict: capability.Verdict) -> None:
    given.announcer.judged(verdict)
    await asyncio.sleep(0.1)


async def test_before_the_first_verdict_only_the_generation_is_written(given) -> None:
    async with given.running():
        pass

    assert [entry[0] for entry in given.api.log] == ["get", "patch"]
    assert given.node["metadata"]["annotations"] == {keys.GENERATION: "0"}
    assert given.labels == given.announcer.labels == {"zone": "a"}


async def test_a_node_is_never_labelled_before_the_collector_knows_it(given) -> None:
    given.announcer.judged(WELL)
    async with given.running():
        pass

    first = next(body for what, *_, body in given.api.log if what == "patch")
    assert first["metadata"]["labels"]["uimgacc"] == "true"
    assert first["metadata"]["annotations"] == {keys.GENERATION: "0"}


async def test_the_twin_of_a_handler_that_comes_later_is_labelled_at_once(given) -> None:
    """Pods of its class wait for the label, whatever else stays as it is."""
    async with given.running():
        await judge(given, WELL)
        before = given.labels
        await judge(given, dataclasses.replace(WELL, twins=frozenset({"uimgacc-nvidia"})))

    assert {*given.labels} - {*before} == {"handler.uimgacc.io/uimgacc-nvidia"}


async def test_labels_and_condition_follow_the_verdict_and_changes_emit_events(given) -> None:
    async with given.running():
        await judge(given, WELL)
        capable = given.labels, given.condition["status"]
        await judge(given, ILL)

    handler = {"zone": "a", "uimgacc.io/handler": "true"}
    assert capable == (
        {**handler, "uimgacc": "true", "node.uk8s.ucloud.cn/uimgacc": "true"},
        "True",
    )
    # The store is away, the runtime handlers are not.
    assert given.labels == handler
    assert (given.condition["reason"], given.condition["message"]) == (
        "StoreUnavailable",
        "the store does not answer",
    )
    assert given.emitted == [
        ("u1", "ImageAccelerationReady", False),
        ("u1", "ImageAccelerationLost", True),
    ]


async def test_a_node_that_serves_what_it_has_is_labelled_and_emits_that(given) -> None:
    local = dataclasses.replace(ILL, local=1)
    async with given.running():
        await judge(given, WELL)
        await judge(given, local)
        labels = given.labels
        await judge(given, dataclasses.replace(ILL, local=2))
        await judge(given, ILL)

    assert {labels[key] for key in keys.CAPABLE_LABELS} == {"local"}
    assert given.labels == {"zone": "a", "uimgacc.io/handler": "true"}
    assert [reason for _, reason, _ in given.emitted] == [
        "ImageAccelerationReady",
        "ImageAccelerationLocal",
        "ImageAccelerationLost",
    ]


async def test_a_new_agent_emits_nothing_for_what_was_so_before(given) -> None:
    async with given.running():
        await judge(given, WELL)
    given.emitted.clear()
    given.announcer = node_object.Announcer(
        given.api, given, node_object.Settings(name="n"), now=given.now
    )
    async with given.running():
        await judge(given, WELL)

    assert given.emitted == []


async def test_a_label_taken_away_by_somebody_else_is_put_back(given) -> None:
    async with given.running():
        await judge(given, WELL)
        del given.labels["uimgacc"]
        given.labels["node.uk8s.ucloud.cn/uimgacc"] = "false"
        await asyncio.sleep(360)

    assert given.labels["uimgacc"] == given.labels["node.uk8s.ucloud.cn/uimgacc"] == "true"


async def test_an_idle_node_costs_less_than_a_request_in_two_minutes(given) -> None:
    async with given.running():
        await judge(given, WELL)
        given.api.log.clear()
        for _ in range(3600 // 5):
            await asyncio.sleep(5)
            given.announcer.judged(WELL)

    assert len(given.api.log) <= 30


async def test_another_wording_of_the_same_problem_is_no_hurry(given) -> None:
    async with given.running():
        await judge(given, ILL)
        given.api.log.clear()
        for number in range(20):
            given.announcer.judged(
                capability.Verdict(problems={capability.Check.STORE: f"try {number}"})
            )
            await asyncio.sleep(5)
        before = len(given.api.log)
        await asyncio.sleep(360)

    assert before == 0
    assert given.condition["message"] == "try 19"


async def test_what_is_wished_while_the_api_is_away_is_written_when_it_is_back(given) -> None:
    async with given.running():
        await judge(given, WELL)
        given.api.down = True
        await judge(given, ILL)
        await judge(given, WELL)
        await judge(given, ILL)
        await asyncio.sleep(600)
        away = given.announcer.problem, dict(given.labels)
        given.api.down = False
        await asyncio.sleep(15)

    assert away[0] == "the API is away"
    assert away[1]["uimgacc"] == "true"
    assert given.labels == {"zone": "a", "uimgacc.io/handler": "true"}
    assert given.announcer.problem == ""
    assert [reason for _, reason, _ in given.emitted] == [
        "ImageAccelerationReady",
        "ImageAccelerationLost",
    ]


async def test_what_the_server_asks_to_wait_is_waited(given) -> None:
    given.api.failures = [errors.TemporaryError("busy", delay=45.0)]
    async with given.running():
        await asyncio.sleep(40)
        before = len(given.api.log)
        await asyncio.sleep(10)

    assert (before, [entry[0] for entry in given.api.log]) == (1, ["get", "get", "patch"])


async def test_a_new_wish_does_not_cut_short_what_the_server_asks_to_wait(given) -> None:
    given.api.failures = [errors.TemporaryError("busy", delay=45.0)]
    async with given.running():
        for verdict in (WELL, ILL, WELL):
            await asyncio.sleep(10)
            given.announcer.judged(verdict)
        await asyncio.sleep(14)
        before = len(given.api.log)
        await asyncio.sleep(2)

    assert before == 1
    assert given.labels["uimgacc"] == "true"


async def test_a_new_wish_is_tried_at_once_where_the_server_asks_for_nothing(given) -> None:
    given.api.down = True
    async with given.running():
        await asyncio.sleep(120)
        given.api.down = False
        await judge(given, WELL)

        assert given.labels["uimgacc"] == "true"


async def test_only_the_startup_taint_is_removed_even_if_taints_change_meanwhile(given) -> None:
    starting = {"key": "uimgacc.io/starting", "effect": "NoSchedule"}
    pressure = {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}
    given.node["spec"] = {"taints": [starting]}

    def interfere(patch) -> None:
        if "spec" in patch:
            given.api.before_patch = None
            given.node["spec"]["taints"] = [starting, pressure]
            given.node["metadata"]["resourceVersion"] = "77"

    given.api.before_patch = interfere
    async with given.running():
        await judge(given, ILL)
        tainted = given.node["spec"]["taints"]
        await judge(given, WELL)

    assert tainted == [starting]
    assert given.node["spec"]["taints"] == [pressure]


async def test_the_startup_taint_goes_where_the_condition_is_refused(given) -> None:
    given.node["spec"] = {"taints": [{"key": "uimgacc.io/starting", "effect": "NoSchedule"}]}

    def refuse(patch) -> None:
        if "status" in patch:
            raise errors.PermanentError("forbidden")

    given.api.before_patch = refuse
    async with given.running():
        await judge(given, WELL)

    assert "taints" not in given.node["spec"]
    assert given.announcer.problem == "forbidden"


async def test_a_node_that_always_changes_is_not_fought_over(given) -> None:
    given.node["spec"] = {"taints": [{"key": "uimgacc.io/starting", "effect": "NoSchedule"}]}

    def interfere(patch) -> None:
        if "spec" in patch:
            given.node["metadata"]["resourceVersion"] += "1"

    given.api.before_patch = interfere
    async with given.running():
        await judge(given, WELL)

    assert "startup taint" in given.announcer.problem
    assert given.labels["uimgacc"] == "true"


async def test_what_the_last_agent_acknowledged_stands_until_it_is_judged_anew(given) -> None:
    given.node["metadata"]["annotations"] = {keys.GENERATION: "7", keys.HELD: "[]"}
    known = asyncio.create_task(given.announcer.wait_known())
    async with given.running():
        before = await given.announcer.annotations_before()
        await known
        taken_over = dict(given.node["metadata"]["annotations"])
        given.announcer.annotate(**{keys.GENERATION: "5", keys.HELD: None})
        await asyncio.sleep(0.1)

    assert dict(before) == taken_over == {keys.GENERATION: "7", keys.HELD: "[]"}
    assert given.node["metadata"]["annotations"] == {keys.GENERATION: "5"}


async def test_a_node_is_not_known_while_that_cannot_be_written(given) -> None:
    def refuse(_patch) -> None:
        raise errors.TemporaryError("busy")

    given.api.before_patch = refuse
    async with given.running():
        await asyncio.sleep(60)
        away = given.announcer.unwritten
        given.api.before_patch = None
        await asyncio.sleep(15)

    assert (bool(away), given.announcer.unwritten) == (True, "")


async def test_a_node_that_does_not_exist_is_complained_about_and_looked_for(given) -> None:
    node = given.api.objects.pop(("nodes", "", "n"))
    async with given.running():
        await judge(given, WELL)
        problem = given.announcer.problem
        given.api.objects["nodes", "", "n"] = node
        await asyncio.sleep(15)

    assert "404" in problem
    assert given.labels["uimgacc"] == "true"
