"""`uimgacc node`: one node in and out, by a person, while the test is its kubelet."""

import concurrent.futures
import contextlib
import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent import errors
from agent.cli import cluster_access, output
from agent.cli.nodes import node_resume, node_switch, node_table, undo_pod
from agent.clients.kube import lease, rest_client
from tests.kube import apis
from tests.manifests import rendering

STRATEGIC = rest_client.Patch.STRATEGIC
TRACES = {
    "uimgacc": "true",
    "uimgacc.io/handler": "true",
    "handler.uimgacc.io/uimgacc-nvidia": "true",
}
SAID = {"type": "ImageAcceleration", "status": "True", "message": "images are served"}
CLASSES = rest_client.Resource(group="node.k8s.io", plural="runtimeclasses")
ACCOUNTS = rest_client.Resource(plural="serviceaccounts")


class Cluster:
    """An installation in the test's namespace, with a node; the test does what a kubelet does."""

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.name = api.node(
            labels={**TRACES, "zone": "a"}, annotations={"uimgacc.io/generation": "3"}
        )
        self.where = {"namespace": api.namespace}
        self.target = cluster_access.Target(kubeconfig=str(api.kubeconfig()), **self.where)
        self.say(SAID)
        text = json.dumps(
            rendering.only(rendering.together("runtimeclass"), "DaemonSet", "uimgacc-node")
        )
        daemon_set = json.loads(text.replace("uimgacc-system", api.namespace))
        api.create(rest_client.DAEMON_SETS, daemon_set, **self.where)
        with contextlib.suppress(apis.RefusedError):
            api.create(ACCOUNTS, {"metadata": {"name": "uimgacc-node"}}, **self.where)
        api.runtime_class("uimgacc")
        labels = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "node"}
        api.pod("uimgacc-node-x", self.name, labels=labels)

    @property
    def node(self) -> Any:
        return self.api.get(rest_client.NODES, self.name)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.node["metadata"].get("labels") or {})

    @property
    def is_cordoned(self) -> bool:
        return bool((self.node.get("spec") or {}).get("unschedulable"))

    def change(self, body: Any) -> None:
        self.api.patch(rest_client.NODES, self.name, body)

    def say(self, condition: dict[str, str]) -> None:
        """What the agent says of its node."""
        body = {"status": {"conditions": [condition]}}
        self.api.patch(rest_client.NODES, self.name, body, subresource="status", how=STRATEGIC)

    def undo_pods(self) -> list[str]:
        pods = [each["metadata"]["name"] for each in self.api.list(rest_client.PODS, **self.where)]
        return [name for name in pods if name.startswith("uimgacc-undo-")]

    def put_back(self) -> None:
        """What DaemonSet controller and kubelet do after `node disable`."""
        apis.wait_until(lambda: self.labels.get("uimgacc.io/enabled") == "false")
        self.api.delete_pod("uimgacc-node-x")
        apis.wait_until(self.undo_pods)
        self.api.pod_status(undo_pod.name_of(self.name), {"phase": "Succeeded"})

    def hold(self, slot: str, holder: str, *, seconds: int = 300, problem: str = "") -> None:
        """Have a node hold a slot, since long ago."""
        metadata = {
            "name": slot,
            "labels": {"uimgacc.io/setup-slot": "true"},
            "annotations": {"uimgacc.io/setup-problem": problem} if problem else {},
        }
        spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds}
        spec["renewTime"] = "2026-01-01T00:00:00.000000Z" if seconds == 1 else now()
        self.api.create(rest_client.LEASES, {"metadata": metadata, "spec": spec}, **self.where)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture
def cluster(api: apis.Api) -> Cluster:
    return Cluster(api)


@contextlib.contextmanager
def running(command: Callable[[], None]) -> Iterator[concurrent.futures.Future[None]]:
    """A command beside the test; at the end it must have ended well."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(command)
        yield future
        future.result(60)


def test_a_disabled_node_is_put_back_and_keeps_only_the_label_that_says_so(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=False, seconds=60)
    ):
        apis.wait_until(lambda: cluster.labels.get("uimgacc.io/enabled") == "false")
        assert cluster.labels.items() >= TRACES.items(), "the agent still runs"
        cluster.api.delete_pod("uimgacc-node-x")
        apis.wait_until(cluster.undo_pods)
        # No new pods come, and deletions still wait for the node.
        assert not TRACES.keys() & cluster.labels.keys()
        assert "uimgacc.io/generation" in cluster.node["metadata"]["annotations"]
        cluster.api.pod_status(undo_pod.name_of(cluster.name), {"phase": "Succeeded"})

    assert cluster.labels == {"zone": "a", "uimgacc.io/enabled": "false"}
    assert not cluster.node["metadata"].get("annotations")
    types = [each["type"] for each in cluster.node["status"].get("conditions") or ()]
    assert "ImageAcceleration" not in types
    assert not cluster.is_cordoned
    apis.wait_until(lambda: not cluster.undo_pods() or _finish(cluster))
    assert "as it was before uimgacc" in capsys.readouterr().out


def test_a_node_with_pods_on_the_snapshotter_is_left_alone_and_they_are_named(
    cluster: Cluster,
) -> None:
    cluster.api.pod("user", cluster.name, spec={"runtimeClassName": "uimgacc"})
    cluster.api.pod("ordinary", cluster.name)
    cluster.api.pod("done", cluster.name, spec={"runtimeClassName": "uimgacc"})
    cluster.api.pod_status("done", {"phase": "Succeeded"})

    with pytest.raises(node_switch.InUse) as found:
        node_switch.disable(cluster.target, cluster.name, cordon=False, seconds=60)

    assert found.value.pods == [f"{cluster.api.namespace}/user"]
    assert cluster.labels == {**TRACES, "zone": "a"}


def test_with_cordon_it_waits_for_those_pods_and_uncordons_at_the_end(cluster: Cluster) -> None:
    cluster.api.pod("user", cluster.name, spec={"runtimeClassName": "uimgacc"})
    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=True, seconds=60)
    ):
        apis.wait_until(lambda: cluster.is_cordoned)
        assert "uimgacc.io/enabled" not in cluster.labels
        cluster.api.delete_pod("user")
        cluster.put_back()

    assert not cluster.is_cordoned


def test_a_node_that_was_cordoned_before_stays_so(cluster: Cluster) -> None:
    cluster.change({"spec": {"unschedulable": True}})
    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=True, seconds=60)
    ):
        cluster.put_back()

    assert cluster.is_cordoned


def test_what_prevents_it_is_said_and_the_same_command_goes_on(cluster: Cluster) -> None:
    text = "uimgacc: containers of these pods use the snapshotter: a/b; delete them"
    ended = {"terminated": {"exitCode": 1, "message": text}}
    container = {"name": "node-setup", "image": "i", "imageID": "", "ready": False}
    status = {**container, "restartCount": 1, "state": {}, "lastState": ended}

    def short() -> str:
        with pytest.raises(errors.TemporaryError) as found:
            node_switch.disable(cluster.target, cluster.name, cordon=True, seconds=6)
        return str(found.value)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        failure = pool.submit(short)
        apis.wait_until(lambda: cluster.labels.get("uimgacc.io/enabled") == "false")
        cluster.api.delete_pod("uimgacc-node-x")
        apis.wait_until(cluster.undo_pods)
        pod = undo_pod.name_of(cluster.name)
        cluster.api.pod_status(pod, {"phase": "Running", "containerStatuses": [status]})
        said = failure.result(60)

    assert "is not done after 6 s: containers of these pods use the snapshotter: a/b" in said
    assert cluster.is_cordoned
    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=True, seconds=60)
    ):
        cluster.api.pod_status(pod, {"phase": "Succeeded", "containerStatuses": []})
    assert not cluster.is_cordoned


def test_an_undoing_that_the_kubelet_gave_up_begins_anew(cluster: Cluster) -> None:
    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=False, seconds=60)
    ):
        apis.wait_until(lambda: cluster.labels.get("uimgacc.io/enabled") == "false")
        cluster.api.delete_pod("uimgacc-node-x")
        apis.wait_until(cluster.undo_pods)
        name = undo_pod.name_of(cluster.name)
        first = cluster.api.get(rest_client.PODS, name, **cluster.where)["metadata"]["uid"]
        cluster.api.pod_status(name, {"phase": "Failed"})

        def again() -> bool:
            # The kubelet of a real server would remove it.
            with contextlib.suppress(apis.RefusedError):
                pod = cluster.api.get(rest_client.PODS, name, **cluster.where)
                if pod["metadata"]["uid"] != first:
                    return True
                if "deletionTimestamp" in pod["metadata"]:
                    cluster.api.delete_pod(name)
            return False

        apis.wait_until(again)
        cluster.api.pod_status(name, {"phase": "Succeeded"})


def test_what_an_earlier_command_left_is_no_undoing_of_now(cluster: Cluster) -> None:
    name = undo_pod.name_of(cluster.name)
    old = cluster.api.pod(name, cluster.name)["metadata"]["uid"]
    cluster.api.pod_status(name, {"phase": "Succeeded"})

    with running(
        lambda: node_switch.disable(cluster.target, cluster.name, cordon=False, seconds=60)
    ) as command:
        apis.wait_until(lambda: cluster.undo_pods() == [] or _finish(cluster))
        apis.wait_until(lambda: cluster.labels.get("uimgacc.io/enabled") == "false")
        cluster.api.delete_pod("uimgacc-node-x")
        apis.wait_until(cluster.undo_pods)
        assert not command.done()
        pod = cluster.api.get(rest_client.PODS, name, **cluster.where)
        assert pod["metadata"]["uid"] != old
        cluster.api.pod_status(name, {"phase": "Succeeded"})


def test_an_enabled_node_is_waited_for_until_it_serves(cluster: Cluster) -> None:
    gone = dict.fromkeys(TRACES)
    cluster.change({"metadata": {"labels": {**gone, "uimgacc.io/enabled": "false"}}})
    cluster.api.pod(undo_pod.name_of(cluster.name), cluster.name)

    def work() -> None:
        node_switch.enable(cluster.target, cluster.name, cordon=True, wait=True, seconds=60)

    with running(work) as command:
        apis.wait_until(lambda: cluster.undo_pods() == [] or _finish(cluster))
        apis.wait_until(lambda: "uimgacc.io/enabled" not in cluster.labels)
        assert cluster.is_cordoned
        assert not command.done()
        cluster.change({"metadata": {"labels": TRACES}})

    assert not cluster.is_cordoned
    assert cluster.labels == {**TRACES, "zone": "a"}


def _finish(cluster: Cluster) -> bool:
    """A real server keeps a deleted pod until its kubelet has ended it."""
    pod = undo_pod.name_of(cluster.name)
    with contextlib.suppress(apis.RefusedError):
        meta = cluster.api.get(rest_client.PODS, pod, **cluster.where)["metadata"]
        if "deletionTimestamp" in meta:
            cluster.api.delete_pod(pod)
    return False


def test_a_node_that_does_not_exist_is_named(cluster: Cluster) -> None:
    for command in (
        lambda: node_switch.enable(cluster.target, "none", cordon=False, wait=True, seconds=9),
        lambda: node_switch.disable(cluster.target, "none", cordon=False, seconds=9),
    ):
        with pytest.raises(output.NotFound, match="there is no node none"):
            command()


def test_the_list_has_slots_and_their_nodes(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.hold("uimgacc-setup-slot-0", cluster.name, seconds=1, problem="not Ready")
    cluster.hold("uimgacc-setup-slot-1", "node-gone")
    node_table.show(cluster.target, as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}

    assert rows[cluster.name]["state"] == "stuck"
    assert rows[cluster.name]["slot"] == "uimgacc-setup-slot-0"
    assert rows["node-gone"]["state"] == "gone"
    node_table.show(cluster.target, as_json=False)
    assert f"uimgacc node resume {cluster.name}" in " ".join(capsys.readouterr().out.split())


def test_a_stuck_slot_is_freed_and_one_in_use_is_not(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    other = cluster.api.node()
    cluster.hold("uimgacc-setup-slot-0", cluster.name, seconds=1, problem="not Ready")
    cluster.hold("uimgacc-setup-slot-1", other)
    cluster.hold("uimgacc-setup-slot-2", "node-gone")

    node_resume.resume(cluster.target, cluster.name)
    assert "uimgacc-setup-slot-0 is free" in capsys.readouterr().out
    node_resume.resume(cluster.target, "node-gone")
    with pytest.raises(node_resume.StillAtIt, match="wait that long"):
        node_resume.resume(cluster.target, other)
    with pytest.raises(output.NotFound, match="holds no slot"):
        node_resume.resume(cluster.target, cluster.name)

    leases = cluster.api.list(rest_client.LEASES, **cluster.where)
    assert sorted(filter(None, (lease.parse(each).holder for each in leases))) == [other]
    assert not any(each["metadata"].get("annotations") for each in leases)
