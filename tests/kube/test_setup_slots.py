"""Nodes that take turns in restarting containerd, by Leases of an API server."""

import concurrent.futures
import datetime
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import lease, rest_client
from agent.setup.config import places
from agent.setup.node import host
from agent.setup.slots import node_return, slot_leases, slot_turn, turns
from tests.kube import apis, conftest, faults

HOUR = datetime.timedelta(hours=1)


class Fleet:
    """Nodes of a cluster, each with a disk of its own; `missing` is what is not back, by node."""

    def __init__(self, api: apis.Api, proxy: faults.Proxy, folder: pathlib.Path) -> None:
        self.api = api
        self.proxy = proxy
        self.folder = folder
        self.missing: dict[str, str] = {}
        self.slots = "1"

    def node(self, name: str, **more: Any) -> slot_turn.SlotTurn:
        """The turn of a node, as a process that has just begun has it."""
        wanted = {"slots": self.slots, "young_seconds": 0.0, "slot_seconds": 60.0} | more
        machine = host.Host(self.folder / name)
        settings = turns.Settings(node=name, namespace=self.api.namespace, **wanted)
        return slot_turn.SlotTurn(machine, places.DEFAULT_CONFIG, settings, self.connect)

    def connect(self) -> rest_client.Client:
        return rest_client.Client(conftest.Fixed(self.proxy.url), deadline=10)

    def holders(self) -> list[str]:
        """Who holds a slot."""
        leases = self.api.list(rest_client.LEASES, namespace=self.api.namespace)
        return sorted(filter(None, (each["spec"].get("holderIdentity") for each in leases)))

    def problems(self) -> list[str]:
        leases = self.api.list(rest_client.LEASES, namespace=self.api.namespace)
        notes = [each["metadata"].get("annotations") or {} for each in leases]
        return [each["uimgacc.io/setup-problem"] for each in notes if each]

    def noted(self, name: str) -> bool:
        """Whether a node's disk says that it holds a slot."""
        return host.Host(self.folder / name).read(turns.NOTE) is not None


@pytest.fixture
def fleet(
    api: apis.Api, proxy: faults.Proxy, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    made = Fleet(api, proxy, tmp_path)

    async def missing(_api: Any, *, node: str, **_: Any) -> str:
        return made.missing.get(node, "")

    monkeypatch.setattr(node_return, "missing", missing)
    monkeypatch.setattr(slot_turn, "_LOOKS", 1 << 40)  # One slot at each look.
    return made


def refused(turn: slot_turn.SlotTurn) -> str:
    """Why a node has to wait."""
    with pytest.raises(turns.NotYet) as found:
        turn.take()
    assert found.value.delay
    return found.value.reason


def test_the_second_node_waits_until_the_first_is_back(fleet: Fleet) -> None:
    first, second = fleet.node("first"), fleet.node("second")
    fleet.missing["first"] = "the agent is not ready"
    first.take()

    assert "of 1 slots, uimgacc-setup-slot-0 has first for 0 s" in refused(second)
    assert first.settle(0) == "the agent is not ready"
    assert refused(second)

    fleet.missing.clear()
    assert first.settle(0) == ""
    second.take()
    assert fleet.holders() == ["second"]
    assert not fleet.noted("first")


def test_two_nodes_that_see_the_same_free_slot_do_not_both_get_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # The Lease does not exist yet; then it is there, and free.
        both, original = threading.Barrier(2), lease.Leasing.read

        async def read(self: lease.Leasing, both=both, original=original) -> lease.Lease | None:
            current = await original(self)
            both.wait(30)
            return current

        monkeypatch.setattr(lease.Leasing, "read", read)
        names = ["a", "b"]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(fleet.node(name).take) for name in names]
        failures = [each.exception() for each in asked]
        monkeypatch.undo()

        (winner,) = fleet.holders()
        assert failures[names.index(winner)] is None
        (failure,) = filter(None, failures)
        assert "another node was faster" in str(failure)
        assert [name for name in names if fleet.noted(name)] == [winner]
        monkeypatch.setattr(node_return, "missing", nothing_missing)
        assert fleet.node(winner).settle(0) == ""
        assert fleet.holders() == []


async def nothing_missing(_api: Any, **_: Any) -> str:
    return ""


def test_the_slot_of_a_node_that_never_came_back_stays_taken_by_any_clock(fleet: Fleet) -> None:
    fleet.node("lost").take()
    fleet.proxy.clock = 1000 * HOUR

    assert "uimgacc-setup-slot-0 has lost for 41 d" in refused(fleet.node("next"))
    assert fleet.holders() == ["lost"]


def test_as_many_lost_nodes_as_slots_stop_the_roll_out_and_one_that_recovers_lets_it_go_on(
    fleet: Fleet,
) -> None:
    fleet.slots = "2"
    for name in ("lost-1", "lost-2"):
        fleet.missing[name] = "containerd: connection refused"
        taken_by(fleet, name)
    fleet.proxy.clock = HOUR
    for name in ("lost-1", "lost-2"):
        assert fleet.node(name).settle(0) == "containerd: connection refused"

    assert fleet.problems() == ["containerd: connection refused"] * 2
    assert "(containerd: connection refused)" in refused(fleet.node("next"))

    # After a reboot, for instance: another process, the same disk.
    fleet.missing.clear()
    assert fleet.node("lost-2").settle(0) == ""
    taken_by(fleet, "next")
    assert fleet.holders() == ["lost-1", "next"]
    assert fleet.problems() == ["containerd: connection refused"]


def taken_by(fleet: Fleet, name: str) -> None:
    """A node gets a slot, though it may look at a taken one first."""

    def takes() -> bool:
        try:
            fleet.node(name).take()
        except turns.NotYet:
            return False
        return True

    apis.wait_until(takes)


def test_an_interrupted_set_up_goes_on_with_the_slot_that_it_has(fleet: Fleet) -> None:
    fleet.node("a").take()
    fleet.node("a").take()

    assert fleet.holders() == ["a"]
    fleet.slots = "0"  # Also where no more nodes are to begin.
    fleet.node("a").take()


def test_a_node_with_a_new_disk_has_its_old_slot_again(fleet: Fleet) -> None:
    fleet.node("a").take()
    host.Host(fleet.folder / "a").remove(turns.NOTE)
    fleet.node("a").take()

    assert fleet.holders() == ["a"]
    assert fleet.node("a").settle(0) == ""
    assert fleet.holders() == []


def test_a_node_that_holds_all_slots_has_the_weight_of_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.slots = "2"
    for index in range(3):
        name, where = f"uimgacc-setup-slot-{index}", {"namespace": fleet.api.namespace}
        labels = {"uimgacc.io/setup-slot": "true"}
        body = {"metadata": {"name": name, "labels": labels}, "spec": {"holderIdentity": "evil"}}
        fleet.api.create(rest_client.LEASES, body, **where)
    monkeypatch.setattr(slot_turn, "_LOOKS", 1)

    fleet.node("a").take()
    assert fleet.holders() == ["a", "evil", "evil", "evil"]
    assert "2 of 2 slots are taken: evil" in refused(fleet.node("b"))


def test_a_slot_that_is_taken_is_in_the_list_again(fleet: Fleet) -> None:
    name, where = "uimgacc-setup-slot-0", {"namespace": fleet.api.namespace}
    fleet.api.create(rest_client.LEASES, {"metadata": {"name": name}, "spec": {}}, **where)
    fleet.node("a").take()

    assert fleet.api.get(rest_client.LEASES, name, **where)["metadata"]["labels"] == {
        "uimgacc.io/setup-slot": "true"
    }


def owners(fleet: Fleet) -> list[tuple[str, str]]:
    """Kind and UID of what Kubernetes deletes the slots with."""
    leases = fleet.api.list(rest_client.LEASES, namespace=fleet.api.namespace)
    found = [owner for each in leases for owner in each["metadata"].get("ownerReferences") or ()]
    return [(owner["kind"], owner["uid"]) for owner in found]


def test_a_slot_goes_with_its_node_unless_that_says_that_it_is_not_back(fleet: Fleet) -> None:
    name = fleet.api.node()
    uid = fleet.api.get(rest_client.NODES, name)["metadata"]["uid"]
    for _ in range(2):  # The Lease does not exist yet; then it is there, and free.
        fleet.node(name).take()
        assert owners(fleet) == [("Node", uid)]
        assert fleet.node(name).settle(0) == ""
        assert owners(fleet) == []

    fleet.node(name).take()
    fleet.node(name).fail("`systemctl restart containerd` failed: exit status 1")
    assert owners(fleet) == []
    assert fleet.holders() == [name]


def test_where_only_those_who_may_delete_it_name_an_owner_a_slot_has_none(fleet: Fleet) -> None:
    name = fleet.api.node()
    fleet.proxy.fail(403, reason="Forbidden", times=1, which=lambda seen: seen.method != "GET")
    fleet.node(name).take()

    assert (fleet.holders(), owners(fleet)) == ([name], [])


def test_a_slot_that_an_operator_has_freed_is_not_taken_from_the_next_node(fleet: Fleet) -> None:
    fleet.node("slow").take()
    name = fleet.api.list(rest_client.LEASES, namespace=fleet.api.namespace)[0]["metadata"]["name"]
    freed = {"spec": {"holderIdentity": ""}}
    fleet.api.patch(rest_client.LEASES, name, freed, namespace=fleet.api.namespace)
    fleet.node("next").take()

    assert fleet.node("slow").settle(0) == ""
    assert fleet.holders() == ["next"]
    assert refused(fleet.node("slow"))


def test_fewer_slots_wait_until_that_many_are_left(fleet: Fleet) -> None:
    fleet.slots = "3"
    for name in ("a", "b", "c"):
        taken_by(fleet, name)
    fleet.slots = "1"

    for name in ("a", "b", "c"):
        assert refused(fleet.node("d"))
        assert fleet.node(name).settle(0) == ""
    fleet.node("d").take()
    assert fleet.holders() == ["d"]


def test_a_percentage_is_of_the_nodes_of_the_daemon_set(fleet: Fleet) -> None:
    fleet.slots = "10%"
    spec = {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }
    where = {"namespace": fleet.api.namespace}
    body = {"metadata": {"name": "uimgacc-node"}, "spec": spec}
    fleet.api.create(rest_client.DAEMON_SETS, body, **where)
    numbers = dict.fromkeys(("currentNumberScheduled", "numberMisscheduled", "numberReady"), 0)

    def has(count: int) -> None:
        status = {"status": {**numbers, "desiredNumberScheduled": count}}
        fleet.api.patch(
            rest_client.DAEMON_SETS, "uimgacc-node", status, subresource="status", **where
        )

    has(29)
    for name in ("a", "b"):
        taken_by(fleet, name)
    assert refused(fleet.node("c"))
    has(30)
    taken_by(fleet, "c")
    assert fleet.holders() == ["a", "b", "c"]


def test_none_begins_while_there_are_to_be_no_slots(fleet: Fleet) -> None:
    fleet.slots = "0"

    assert "UIMGACC_SETUP_SLOTS is 0" in refused(fleet.node("a"))


def test_without_the_api_server_no_node_has_a_turn_and_none_loses_it(fleet: Fleet) -> None:
    fleet.node("a").take()
    fleet.proxy.stop()

    assert refused(fleet.node("b")).startswith("the API server: ")
    assert not fleet.noted("b")
    assert refused(fleet.node("a")), "who holds a slot is not known"
    assert fleet.node("a").settle(0).startswith("the API server: ")
    fleet.node("a").drop()
    fleet.node("a").fail("restart failed")
    assert fleet.noted("a")

    fleet.proxy.start()
    assert fleet.node("a").settle(0) == ""
    assert fleet.holders() == []


@pytest.mark.parametrize("status", [403, 429, 500])
def test_what_the_api_server_refuses_is_no_turn(fleet: Fleet, status: int) -> None:
    fleet.proxy.fail(status, which=lambda seen: seen.method != "GET")

    assert str(status) in refused(fleet.node("a"))
    fleet.proxy.heal()
    fleet.node("a").take()
    assert fleet.holders() == ["a"]


def test_a_slot_that_changes_while_it_is_freed_is_freed_at_the_next_look(fleet: Fleet) -> None:
    fleet.node("a").take()
    fleet.proxy.fail(409, reason="Conflict", times=1, which=lambda seen: seen.method == "PATCH")

    assert "has changed" in fleet.node("a").settle(0)
    assert fleet.node("a").settle(0) == ""
    assert fleet.holders() == []


def test_what_was_not_changed_after_all_leaves_the_slot_at_once(fleet: Fleet) -> None:
    fleet.missing["a"] = "is not asked"
    fleet.node("a").take()
    fleet.node("a").drop()

    assert fleet.holders() == []
    assert not fleet.noted("a")


def test_a_restart_that_failed_is_named_in_the_slot(fleet: Fleet) -> None:
    fleet.node("a").take()
    fleet.node("a").fail("`systemctl restart containerd` failed: exit status 1")

    assert "(`systemctl restart containerd` failed: exit status 1)" in refused(fleet.node("b"))


def test_a_node_that_has_just_joined_needs_no_slot(fleet: Fleet) -> None:
    name = fleet.api.node()
    fleet.node("other").take()
    fleet.node(name, young_seconds=600.0).take()

    assert fleet.holders() == ["other"]
    assert fleet.node(name).settle(0) == ""
    assert refused(fleet.node(name, young_seconds=0.0))


def test_a_node_whose_disk_was_made_anew_frees_what_it_held_before(fleet: Fleet) -> None:
    name = fleet.api.node()
    fleet.node(name).take()
    anew = fleet.node(name, young_seconds=600.0)
    host.Host(fleet.folder / name).remove(turns.NOTE)

    anew.take()
    assert fleet.holders() == [name]
    assert anew.settle(0) == ""

    assert fleet.holders() == []


async def test_only_slots_are_read_of_the_leases(fleet: Fleet) -> None:
    where = {"namespace": fleet.api.namespace}
    body = {"metadata": {"name": "uimgacc-controller"}, "spec": {"holderIdentity": "c"}}
    fleet.api.create(rest_client.LEASES, body, **where)
    async with fleet.connect() as client:
        leases = slot_leases.SlotLeases(client, **where)
        await leases.take("uimgacc-setup-slot-3", node="a", seconds=60)

        assert [(slot.name, slot.holder) for slot in await leases.all()] == [
            ("uimgacc-setup-slot-3", "a")
        ]
        with pytest.raises(slot_leases.Taken):
            await leases.take("uimgacc-setup-slot-3", node="b", seconds=60)
        await leases.release("uimgacc-setup-slot-3", node="b")
        assert (await leases.read("uimgacc-setup-slot-3")).holder == "a"
