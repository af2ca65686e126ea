"""`uimgacc status`, on an API server: an installation with nodes, caches and savings."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer.testing

from agent.cli import commands
from agent.clients.kube import rest_client
from agent.model import keys, reports, times
from tests.kube import apis, servers

RUNNER = typer.testing.CliRunner()
IMAGE = "registry.example.com/uimgacc:0.1.0"
Run = Callable[..., "typer.testing.Result"]

pytestmark = pytest.mark.skipif(servers.is_cluster(), reason="counts all nodes and caches")


def workload(name: str, container: str, **spec: Any) -> apis.Object:
    labels = {"app": name}
    return {
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": container, "image": IMAGE}]},
            },
            **spec,
        },
    }


def put_status(api: apis.Api, resource: rest_client.Resource, name: str, status: Any) -> None:
    api.patch(resource, name, {"status": status}, namespace=api.namespace, subresource="status")


@pytest.fixture
def installed(api: apis.Api, kinds: None) -> None:
    """Agents and a controller that leads, as their objects say."""
    agents = {
        "desiredNumberScheduled": 2,
        "numberReady": 2,
        "updatedNumberScheduled": 2,
        "currentNumberScheduled": 2,
        "numberMisscheduled": 0,
    }
    api.create(rest_client.DAEMON_SETS, workload(keys.AGENTS, "agent"), namespace=api.namespace)
    put_status(api, rest_client.DAEMON_SETS, keys.AGENTS, agents)
    controller = workload("uimgacc-controller", "controller", replicas=1)
    api.create(rest_client.DEPLOYMENTS, controller, namespace=api.namespace)
    ready = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    put_status(api, rest_client.DEPLOYMENTS, "uimgacc-controller", ready)
    lease = {
        "metadata": {"name": keys.CONTROLLER_LEASE},
        "spec": {
            "holderIdentity": "uimgacc-controller-0",
            "leaseDurationSeconds": 15,
            "renewTime": times.micro_stamp(times.now()),
        },
    }
    api.create(rest_client.LEASES, lease, namespace=api.namespace)


@pytest.fixture
def run(api: apis.Api, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setenv("UIMGACC_NAMESPACE", api.namespace)
    return lambda *arguments: RUNNER.invoke(commands.app, ["status", *arguments])


def read(result: "typer.testing.Result") -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def capable(api: apis.Api) -> str:
    return api.node(labels={keys.CAPABLE: "true"})


def incapable(api: apis.Api) -> str:
    name = api.node()
    condition = {
        "type": keys.NODE_CONDITION,
        "status": "False",
        "reason": "StoreUnavailable",
        "message": "read did not answer within 2 s",
    }
    api.patch(
        rest_client.NODES,
        name,
        {"status": {"conditions": [condition]}},
        subresource="status",
        how=rest_client.Patch.STRATEGIC,
    )
    return name


@pytest.mark.usefixtures("installed")
def test_a_cluster_that_is_well_exits_with_0(api, run) -> None:
    capable(api)

    result = run("--json")
    answer = read(result)

    assert result.exit_code == 0, result.output
    assert (answer["works"], answer["problems"], answer["unread"]) == (True, [], {})
    assert (answer["nodes"]["count"], answer["nodes"]["capable"]) == (1, 1)
    assert answer["leader"] == "uimgacc-controller-0"
    assert run().stdout.startswith(f"uimgacc in {api.namespace}: works")


@pytest.mark.usefixtures("installed")
def test_what_is_wrong_comes_with_its_command_and_exit_status_1(api, run) -> None:
    capable(api)
    node = incapable(api)
    labels = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "node"}
    api.pod("agent-pod", node, labels=labels)

    result = run("--json")
    answer = read(result)

    assert result.exit_code == 1
    (problem,) = answer["problems"]
    assert (problem["key"], problem["count"], problem["examples"]) == (
        "store-unavailable",
        1,
        [node],
    )
    assert problem["command"] == (
        f"kubectl -n {api.namespace} exec agent-pod -c agent -- uimgacc doctor"
    )
    assert problem["detail"] == "read did not answer within 2 s"
    shown = run().stdout
    assert "1 of 2 serve images from the store" in shown
    assert problem["command"] in shown


@pytest.mark.usefixtures("installed")
def test_policies_are_shown_with_what_they_have(api, run) -> None:
    capable(api)
    name = f"p-{api.namespace}"
    body = {"metadata": {"name": name}, "spec": {"images": ["r.io/*"], "budget": "1Gi"}}
    api.create(rest_client.IMAGE_CACHE_POLICIES, body)
    ready = {"type": "Ready", "status": "True", "reason": "CarriedOut", "message": "It is."}
    ready["lastTransitionTime"] = "2026-07-01T00:00:00Z"
    status = {"conditions": [ready], "caches": 3, "ready": 2, "bytes": 7, "budgetBytes": 1 << 30}
    api.patch(rest_client.IMAGE_CACHE_POLICIES, name, {"status": status}, subresource="status")
    try:
        (policy,) = [each for each in read(run("--json"))["policies"] if each["name"] == name]
        shown = run().stdout
    finally:
        api.delete(rest_client.IMAGE_CACHE_POLICIES, name)

    assert (policy["caches"], policy["serving"], policy["notCarriedOut"]) == (3, 2, None)
    assert f"{name}: 2 of 3 caches serve, 7 B of 1.0 GiB" in shown


@pytest.mark.usefixtures("installed")
def test_what_was_saved_today_is_summed_up_by_image(api, run) -> None:
    day = times.now().date().isoformat()
    for _ in range(3):
        image = reports.SavedImage(
            image="registry.example.com/app:1", seconds=20.0, size=7, count=1
        )
        today = reports.SavedDay(day=day, seconds=20.0, size=7, count=1, images=[image])
        text = reports.encode_saved(reports.Saved(seconds=50.0, size=9, today=today))
        name = f"{keys.NODE_LEASE}{capable(api)}"
        metadata = {
            "name": name,
            "labels": keys.NODE_LEASE_LABELS,
            "annotations": {keys.SAVED: text},
        }
        api.create(rest_client.LEASES, {"metadata": metadata}, namespace=api.namespace)

    savings = read(run("--json"))["savings"]

    assert savings["today"] == {"seconds": 60.0, "bytes": 21, "pulls": 3}
    assert savings["sinceAgentsStarted"]["seconds"] == 150.0
    assert savings["images"] == [
        {"image": "registry.example.com/app:1", "seconds": 60.0, "bytes": 21, "pulls": 3}
    ]


@pytest.mark.usefixtures("kinds")
def test_a_cluster_without_uimgacc_is_no_success(api, run) -> None:
    result = run()

    assert result.exit_code == 1
    assert "not installed" in result.stdout


@pytest.mark.usefixtures("installed")
def test_a_fleet_is_read_in_parts_and_only_the_metadata_of_what_serves(api, run) -> None:
    for _ in range(230):
        capable(api)
    incapable(api)

    result = run("--json")
    answer = read(result)

    assert (answer["nodes"]["count"], answer["nodes"]["capable"]) == (231, 230)
    assert answer["nodes"]["notCapable"][0]["count"] == 1
    assert int(read(run("--json"))["requests"]) < 20


def test_for_people_and_for_programs_do_not_go_together(run) -> None:
    assert run("--watch", "--json").exit_code == 2
