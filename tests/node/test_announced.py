"""What a node's object says while its parts go away and come back, and how soon.

The seconds are printed (`pytest -s`); no test rests on them.
"""

import os
import pathlib
import signal
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from tests.containerd import test_hanging_store as hanging_stores
from tests.kube import apis
from tests.kube import conftest as servers
from tests.node import conftest

pytestmark = [pytest.mark.root, pytest.mark.containerd]

api_loop = servers.api_loop
api_access = servers.api_access
api = servers.api
hanging = hanging_stores.hanging


class Member(conftest.Node):
    """A node of a cluster, whose store can hang."""

    def __init__(
        self,
        folder: pathlib.Path,
        registry,
        hanging: hanging_stores.Hanging,
        api: apis.Api,
        *,
        probe: str,
    ) -> None:
        self.api = api
        self.store = hanging
        self.name = api.node(labels={"zone": "a"})
        starting = {"key": "uimgacc.io/starting", "effect": "NoSchedule"}
        api.patch(rest_client.NODES, self.name, {"spec": {"taints": [starting]}})
        source = ("--kubernetes", self.name, "--kubeconfig", api.kubeconfig())
        source = (*source, "--probe-seconds", probe)
        taint = ("--startup-taint", "uimgacc.io/starting:NoSchedule")
        super().__init__(folder, registry, hanging.path, source=(*source, *taint))

    @property
    def object(self) -> apis.Object:
        return self.api.get(rest_client.NODES, self.name)

    @property
    def labels(self) -> set[str]:
        """The labels of uimgacc that the node has."""
        found = self.object["metadata"]["labels"]
        return {key for key, value in found.items() if "uimgacc" in key and value == "true"}

    @property
    def condition(self) -> tuple[str, str]:
        for found in self.object.get("status", {}).get("conditions", []):
            if found["type"] == "ImageAcceleration":
                return found["status"], found["reason"]
        return "", ""

    @property
    def message(self) -> str:
        """The condition's, for people."""
        conditions = self.object["status"]["conditions"]
        (found,) = [each for each in conditions if each["type"] == "ImageAcceleration"]
        return str(found["message"])

    def unready(self) -> str:
        """What the agent says it lacks, "" where it is ready."""
        try:
            self.get("/readyz")
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        return ""

    def reasons(self) -> set[str]:
        """The reasons of the node's events."""
        found = self.api.list(rest_client.EVENTS, namespace="default")
        return {each["reason"] for each in found if each["involvedObject"]["name"] == self.name}


HANDLERS = {"uimgacc.io/handler", "uimgacc.io/image-volumes"}
CAPABLE = {"uimgacc", "node.uk8s.ucloud.cn/uimgacc", *HANDLERS}


@pytest.fixture
def member(
    folder: pathlib.Path, registry, hanging, api, request: pytest.FixtureRequest
) -> Iterator[Member]:
    """A node that is capable; its parameter is how often it looks, in seconds."""
    probe = getattr(request, "param", "1")
    made = Member(folder / "n", registry, hanging, api, probe=probe)
    with conftest.running(made, registry) as node:
        conftest.wait_until(lambda: node.condition[0] == "True", seconds=60)
        yield node
        hanging.go_on()


def seconds_until(condition: Callable[[], Any], what: str) -> None:
    started = time.monotonic()
    conftest.wait_until(condition, seconds=90)
    sys.stdout.write(f"\n{what}: {time.monotonic() - started:.1f} s\n")


@pytest.mark.parametrize("member", ["5"], indirect=True, ids=["as it is by default"])
def test_a_store_that_hangs_takes_the_labels_until_it_is_back(member, api) -> None:
    assert member.labels == CAPABLE
    assert not member.object["spec"].get("taints")
    generation = member.object["metadata"]["annotations"]["uimgacc.io/generation"]

    member.store.stop()
    seconds_until(lambda: "uimgacc" not in member.labels, "withdrawn after the store hangs")
    # Pods of our handlers still start here, by a pull.
    assert member.labels == HANDLERS
    conftest.wait_until(lambda: member.condition == ("False", "StoreUnavailable"), seconds=60)
    assert member.get("/healthz") == "ok\n"
    assert member.is_ready(), "a store that is away would stop a roll-out"

    member.store.go_on()
    seconds_until(lambda: member.labels == CAPABLE, "back after the store is")
    conftest.wait_until(lambda: member.condition == ("True", "StoreServesImages"), seconds=60)
    conftest.wait_until(lambda: len(member.reasons()) == 2, seconds=60)
    assert member.reasons() == {"ImageAccelerationReady", "ImageAccelerationLost"}
    assert generation == member.object["metadata"]["annotations"]["uimgacc.io/generation"] == "0"


def test_a_snapshotter_that_is_gone_takes_all_labels_until_it_is_back(member) -> None:
    member.snapshotter.end(signal.SIGKILL)
    seconds_until(lambda: not member.labels, "withdrawn after the snapshotter has died")
    conftest.wait_until(lambda: member.condition == ("False", "SnapshotterUnavailable"), seconds=60)

    member.start_snapshotter()
    seconds_until(lambda: member.labels == CAPABLE, "back after the snapshotter is")


def test_a_snapshotter_that_hangs_takes_all_labels_until_its_successor_is_there(member) -> None:
    """Its socket still accepts: that is the kernel's doing."""
    os.kill(member.snapshotter.pid, signal.SIGSTOP)
    seconds_until(lambda: not member.labels, "withdrawn after the snapshotter has stopped")
    conftest.wait_until(lambda: member.condition == ("False", "SnapshotterUnavailable"), seconds=60)
    assert "hangs" in member.message
    # A roll-out of the DaemonSet goes no further.
    assert "hangs" in member.unready()

    # As its watcher does after a minute, and then the kubelet.
    member.snapshotter.end(signal.SIGKILL)
    member.start_snapshotter()
    seconds_until(lambda: member.labels == CAPABLE, "back after its successor is there")
    conftest.wait_until(member.is_ready, seconds=60)


def test_an_agent_without_a_snapshotter_does_not_get_ready(member) -> None:
    """As beside a release of it that does not start: also before the first look."""
    member.snapshotter.end(signal.SIGKILL)
    member.agent.end()
    member.agent.start()
    member.agent.wait_for_socket(("127.0.0.1", member.port))
    answers = set()

    def is_found() -> bool:
        answers.add(member.unready())
        return any("does not answer" in answer for answer in answers)

    conftest.wait_until(is_found, seconds=60)
    assert "" not in answers
    member.start_snapshotter()
    conftest.wait_until(member.is_ready, seconds=60)


def test_an_export_that_is_none_takes_the_label_and_the_node_says_which_setting_is_wrong(
    member,
) -> None:
    member.agent.end()
    member.agent.environment = {**member.agent.environment, "UIMGACC_NFS": "nfs.example"}
    member.start_agent()
    conftest.wait_until(lambda: member.condition == ("False", "StoreUnavailable"), seconds=60)

    assert member.labels == HANDLERS
    assert "UIMGACC_NFS (--nfs) is wrong: 'nfs.example' is no NFS export" in member.message


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_ends_leaves_the_node_as_it_is(member, end) -> None:
    """Else each upgrade would drain a fleet of its accelerated pods."""
    before = member.object["metadata"]["labels"], member.condition
    member.agent.end(end)

    assert (member.object["metadata"]["labels"], member.condition) == before
    member.start_agent()
    assert member.labels == CAPABLE


def test_a_pod_gets_events_about_its_cache(member, api) -> None:
    api.runtime_class("uimgacc")
    api.pod(
        "asker",
        member.name,
        image=member.reference("lab/layers2:1"),
        annotations={"k8s.aliyun.com/eci-image-cache": "true"},
        spec={"runtimeClassName": "uimgacc"},
    )

    def events() -> list[apis.Object]:
        found = api.list(rest_client.EVENTS, namespace=api.namespace)
        return [each for each in found if each["involvedObject"]["name"] == "asker"]

    conftest.wait_until(events, seconds=60)
    (event,) = events()
    assert event["reason"] == "SuccessfulHitImageCache"
    assert event["message"].startswith("[eci.imagecache]Successfully hit image cache imc-")
    assert event["source"] == {"component": "EciService", "host": member.name}
    assert event["involvedObject"]["uid"]
