"""Policies are carried out object by object, and their status says what became of them."""

import copy
import datetime
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from agent.clients.kube import event_writer, refusals, rest_client
from agent.control.caches import cache_object
from agent.control.policies import policy_object, policy_rounds
from agent.control.pulls import image_costs
from agent.metrics import cache_metrics
from tests.manifests import crds
from tests.unit.control.policies import worlds
from tests.unit.control.policies.worlds import cost, costs, image


class World:
    """A cluster's objects behind the calls that are made, and what pulls cost in it."""

    def __init__(self) -> None:
        self.caches: dict[cache_object.Key, cache_object.CacheObject] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.namespaces: dict[str, list[str]] = {}
        self.events: list[event_writer.Record] = []
        self.writes: list[str] = []
        self.costs_now = costs()
        self.sums = 0
        self.reads = True
        self.now = worlds.NOW
        self.failing: Exception | None = None
        self.refused: frozenset[str] = frozenset()
        self._versions = itertools.count(2)
        self.rounds = policy_rounds.PolicyRounds(self, self, self, self, clock=lambda: self.now)

    # Of the API server.

    async def pages(
        self, resource: rest_client.Resource, *, labels: str = "", metadata_only: bool = False
    ) -> AsyncIterator[rest_client.Page]:
        assert metadata_only
        names = self.namespaces[labels] if resource == rest_client.NAMESPACES else self.objects
        raw = [msgspec.Raw(msgspec.json.encode({"metadata": {"name": name}})) for name in names]
        yield rest_client.Page(raw=raw, version="1")

    async def patch(
        self,
        resource: rest_client.Resource,
        name: str,
        body: Any,
        *,
        subresource: str = "",
        how: rest_client.Patch = rest_client.Patch.MERGE,
        manager: str = "",
        force: bool = False,
    ) -> rest_client.Object:
        assert manager == "uimgacc-policies"
        if self.failing is not None:
            raise self.failing
        self.writes.append(f"{resource.plural} {name} {subresource}".strip())
        if subresource:
            status = self.policies[name].setdefault("status", {})
            status |= copy.deepcopy(dict(body["status"]))
            self.policies[name]["status"] = {k: v for k, v in status.items() if v is not None}
            self.put_policy(self.policies[name])
            return self.policies[name]
        assert how is rest_client.Patch.APPLY
        assert force
        made = copy.deepcopy(dict(body))
        if self.refused.intersection(body["spec"]["images"]):
            raise refusals.Invalid(
                refusals.Refusal(request="", status=422, reason="Invalid", text="")
            )
        meta = {"uid": name, "generation": 1, "creationTimestamp": self.now.isoformat()}
        made["metadata"] |= {**meta, "resourceVersion": str(next(self._versions))}
        made["status"] = self.objects.get(name, {}).get("status", {})
        self.objects[name] = made
        return made

    async def delete(self, resource: rest_client.Resource, name: str, *, uid: str = "") -> None:
        self.writes.append(f"delete {name}")
        if name not in self.objects:
            raise refusals.NotFound(refusals.Refusal(request="", status=404, reason="", text=""))
        del self.objects[name]
        self.caches.pop(cache_object.Key("uimgacc.io", name), None)

    # Of the view, the account and the events.

    def put_cache(self, body: Mapping[str, Any]) -> cache_object.CacheObject:
        found = cache_object.parse(body)
        self.caches[found.key] = found
        return found

    async def costs(self, since: datetime.datetime) -> image_costs.Costs:
        self.sums += 1
        return self.costs_now

    def emit(self, record: event_writer.Record) -> None:
        self.events.append(record)

    # Of the test.

    def put_policy(self, body: dict[str, Any]) -> None:
        self.policies[body["metadata"]["name"]] = body
        known = self.rounds._policies  # as its watch does
        known[body["metadata"]["name"]] = policy_object.parse(body)

    def built(self, name: str, gib: float) -> None:
        for body in self.objects.values():
            if body["spec"]["images"] == [image(name)]:
                body["status"] = {"phase": "Ready", "size": int(gib * worlds.GIB)}
                body["metadata"]["resourceVersion"] = str(next(self._versions))
                self.put_cache(body)

    def status(self, name: str = "p") -> dict[str, Any]:
        return self.policies[name].get("status", {})

    def conditions(self, name: str = "p") -> dict[str, str]:
        return {
            each["type"]: f"{each['status']} {each['reason']}"
            for each in self.status(name)["conditions"]
        }

    def images(self) -> list[str]:
        return sorted(each["spec"]["images"][0] for each in self.objects.values())

    def reasons(self) -> list[str]:
        return [each.reason for each in self.events]


@pytest.fixture
async def world() -> World:
    return World()


async def test_what_is_pulled_is_cached_and_the_policy_owns_it(world: World) -> None:
    world.put_policy(
        worlds.policy_body(
            template={"imagePullSecrets": ["team/pull"], "keepWarm": True},
            refresh={"schedule": "0 3 * * *", "timeZone": "Asia/Shanghai", "serveStale": "never"},
        )
    )
    world.costs_now = costs(cost("a", 75, gib=10), cost("b", 25))
    assert await world.rounds.round()

    body = next(each for each in world.objects.values() if each["spec"]["images"] == [image("a")])
    assert body["spec"] == {
        "images": [image("a")],
        "imagePullSecrets": ["team/pull"],
        "imageCacheSize": 30,
        "keepWarm": True,
    }
    assert body["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "uimgacc.io/v1alpha1",
            "kind": "ImageCachePolicy",
            "name": "p",
            "uid": "uid-p",
            "controller": True,
        }
    ]
    found = world.put_cache(body)
    assert found.schedule is not None
    assert str(found.request and found.request.stale) == "never"
    assert world.reasons() == ["ImageCacheCreated"] * 2
    assert world.conditions() == {"Ready": "True CarriedOut", "WithinBudget": "True AllFit"}


async def test_the_status_says_what_there_is_and_is_written_only_where_that_changes(
    world: World,
) -> None:
    world.put_policy(worlds.policy_body(budget="20Gi", refresh={"schedule": "0 3 * * *"}))
    world.costs_now = costs(cost("a", 75, gib=2), cost("b", 1234, gib=20))
    await world.rounds.round()
    world.built("a", 5)
    await world.rounds.round()
    status = world.status()

    assert (status["selected"], status["caches"], status["ready"]) == (2, 1, 1)
    assert (status["bytes"], status["budgetBytes"]) == (5 * worlds.GIB, 20 * worlds.GIB)
    assert status["images"][0]["image"] == image("a")
    assert status["images"][0]["phase"] == "Ready"
    assert status["leftOut"] == [{"image": image("b"), "reason": "OverBudget", "pullSeconds": 1200}]
    assert status["nextRefreshTime"] == "2026-07-11T03:00:00Z"
    assert world.conditions()["WithinBudget"] == "False OverBudget"
    assert world.reasons().count("OverBudget") == 1
    written = {**world.policies["p"], "status": status}
    assert crds.unknown(written) == []
    assert crds.faults(written) == []

    world.writes.clear()
    for _ in range(50):
        world.now += datetime.timedelta(minutes=1)
        world.costs_now = costs(cost("a", 75, gib=2), cost("b", 1230, gib=20))
        await world.rounds.round()
    assert world.writes == []
    world.now += datetime.timedelta(minutes=15)
    await world.rounds.round()
    assert world.writes == ["imagecachepolicies p status"]


async def test_what_goes_is_said_with_its_reason(world: World) -> None:
    world.put_policy(worlds.policy_body(unusedDays=1))
    world.costs_now = costs(cost("a"))
    await world.rounds.round()
    world.built("a", 1)
    world.costs_now = costs()
    world.now += datetime.timedelta(days=1)
    await world.rounds.round()

    assert world.images() == []
    assert world.reasons() == ["ImageCacheCreated", "ImageCacheDeleted"]
    assert "no pod was matched with it for 1 day." in world.events[-1].message


async def test_caches_that_are_to_stay_have_no_owner(world: World) -> None:
    world.put_policy(worlds.policy_body())
    world.costs_now = costs(cost("a"))
    await world.rounds.round()
    world.put_policy(worlds.policy_body(deletionPolicy="Keep"))
    await world.rounds.round()

    (body,) = world.objects.values()
    assert "ownerReferences" not in body["metadata"]


async def test_a_limit_is_kept_where_the_template_changes(world: World) -> None:
    world.put_policy(worlds.policy_body())
    world.costs_now = costs(cost("a", gib=20))
    await world.rounds.round()
    world.costs_now = costs()
    world.put_policy(worlds.policy_body(template={"keepWarm": True}))
    await world.rounds.round()

    (body,) = world.objects.values()
    assert (body["spec"]["imageCacheSize"], body["spec"]["keepWarm"]) == (60, True)


async def test_of_two_policies_one_caches_an_image(world: World) -> None:
    world.put_policy(worlds.policy_body("p"))
    world.put_policy(worlds.policy_body("q"))
    world.costs_now = costs(cost("a"))
    await world.rounds.round()
    await world.rounds.round()

    assert world.images() == [image("a")]
    assert world.status("q")["leftOut"][0]["reason"] == "CachedAlready"


async def test_a_cache_of_a_person_that_could_not_be_built_has_no_image(world: World) -> None:
    body = worlds.cache_body("a", of=worlds.policy(), phase="Failed")
    body["metadata"] |= {"name": "mine", "labels": {}}
    world.put_cache(body)
    world.put_policy(worlds.policy_body())
    world.costs_now = costs(cost("a"))
    await world.rounds.round()

    assert world.images() == [image("a")]
    assert world.status()["leftOut"] == []


async def test_caches_of_people_are_never_a_policy_s(world: World) -> None:
    body = worlds.cache_body("a", of=worlds.policy(), days=100, gib=1)
    body["metadata"]["name"] = "mine"
    world.objects["mine"] = body
    world.put_cache(body)
    world.put_policy(worlds.policy_body(unusedDays=1))
    world.costs_now = costs(cost("a"))
    await world.rounds.round()

    assert world.images() == [image("a")]
    assert world.status()["leftOut"][0]["reason"] == "CachedAlready"


async def test_namespaces_are_selected_by_their_labels(world: World) -> None:
    selector = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
    world.put_policy(worlds.policy_body(namespaceSelector=selector))
    world.namespaces["a=b,c"] = ["team"]
    world.costs_now = costs(cost("a"), cost("b", namespaces=("other",)))
    await world.rounds.round()

    assert world.images() == [image("a")]


@pytest.mark.parametrize(
    ("spec", "reads", "expected"),
    [
        ({"suspend": True}, True, "False Suspended"),
        ({"refresh": {"schedule": "61 * * * *"}}, True, "False InvalidSpec"),
        ({}, False, "False NoFigures"),
    ],
    ids=str,
)
async def test_a_policy_that_is_not_carried_out_says_why_and_changes_nothing(
    world: World, spec: dict[str, Any], reads: bool, expected: str
) -> None:
    world.put_policy(worlds.policy_body())
    world.costs_now = costs(cost("a"))
    await world.rounds.round()
    world.put_policy({**worlds.policy_body(**spec), "status": world.status()})
    world.reads = reads
    world.costs_now = costs(cost("b"))
    await world.rounds.round()

    assert world.images() == [image("a")]
    assert world.conditions() == {"Ready": expected, "WithinBudget": "True AllFit"}
    assert world.status()["caches"] == 1


async def test_nothing_is_done_before_all_caches_of_policies_are_known(world: World) -> None:
    world.put_policy(worlds.policy_body())
    body = worlds.cache_body("b", of=worlds.policy(), gib=1)
    world.objects[body["metadata"]["name"]] = body
    world.costs_now = costs(cost("a"))

    assert not await world.rounds.round()
    assert world.writes == []
    world.put_cache(body)
    assert await world.rounds.round()
    assert world.images() == [image("a"), image("b")]


async def test_what_policies_take_is_counted_and_nothing_without_one(world: World) -> None:
    def counted() -> tuple[float, ...]:
        gauges = (
            cache_metrics.POLICY_CACHES,
            cache_metrics.POLICY_BYTES,
            cache_metrics.POLICY_BUDGET_BYTES,
        )
        return tuple(gauge._value.get() for gauge in gauges)

    world.put_policy(worlds.policy_body(budget="50Gi"))
    world.costs_now = costs(cost("a"))
    await world.rounds.round()
    world.built("a", 3)
    await world.rounds.round()
    assert counted() == (1, 3 * worlds.GIB, 50 * worlds.GIB)

    world.rounds._policies.clear()
    await world.rounds.round()
    assert counted() == (0, 0, 0)
    assert world.images() == [image("a")]


async def test_a_policy_that_fails_does_not_stop_the_others_nor_the_next_round(
    world: World,
) -> None:
    world.put_policy(worlds.policy_body())
    world.costs_now = costs(cost("a"))
    world.failing = refusals.Unavailable("away")
    assert await world.rounds.round()
    world.failing = None
    assert await world.rounds.round()

    assert world.images() == [image("a")]


async def test_policies_of_one_round_share_the_sums_of_pulls(world: World) -> None:
    for name in ("p", "q", "r"):
        world.put_policy(worlds.policy_body(name))
    world.put_policy(worlds.policy_body("s", windowDays=2))

    await world.rounds.round()

    # Of a week, of two days, and of the last day: each of them reads all images.
    assert world.sums == 3
    assert world.conditions("s")["Ready"] == "True CarriedOut"


async def test_an_image_that_the_api_server_refuses_holds_up_no_other(world: World) -> None:
    world.put_policy(worlds.policy_body())
    bad = [f"bad{number}" for number in range(6)]
    world.refused = frozenset(map(image, bad))
    world.costs_now = costs(*(cost(name, 900) for name in bad), cost("good", 10))

    for _ in range(3):
        await world.rounds.round()

    assert world.images() == [image("good")]
    assert world.status()["caches"] == 1
    assert {each["reason"] for each in world.status()["leftOut"]} == {"Refused"}

    world.refused = frozenset()
    world.now += datetime.timedelta(minutes=11)
    await world.rounds.round()
    assert len(world.images()) == 6
