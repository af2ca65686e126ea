"""The server is away under a reading container, while new pods arrive: with copies and without."""

import json
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.model import keys
from agent.mounts import mountinfo
from lab.runtime import cri
from tests.guest.inside import conftest
from tests.kube import apis, servers, threads

pytestmark = [pytest.mark.guest, pytest.mark.timeout(500)]

OUTAGE = 60.0

WORKERS = 5
"""Of the agent: three for look-ups, one for mounts, one for local copies."""


class Member(conftest.Node):
    """A node of a cluster: its pods come from the API, and its labels are there.

    `local` is when it copies the layers that it runs.
    """

    def __init__(self, folder: pathlib.Path, registry, api: apis.Api, *, local: str) -> None:
        self.api = api
        self.name = api.node()
        self.unmounting: list[subprocess.Popen[bytes]] = []
        source = ("--kubernetes", self.name, "--kubeconfig", api.kubeconfig())
        super().__init__(folder, registry, source=source)
        for process in (self.agent, self.snapshotter):
            process.command = [*process.command, "--local", local]

    def bind(self, manifest: dict[str, Any]) -> None:
        """What a scheduler does with a pod."""
        meta = manifest["metadata"]
        body = {
            **manifest,
            "metadata": {"name": meta["name"], "annotations": meta["annotations"]},
            "spec": {**manifest["spec"], "nodeName": self.name},
        }
        self.api.create(rest_client.PODS, body, namespace=self.api.namespace)

    @property
    def label(self) -> str:
        """What pods that ask for a cache may select this node by; "" for nothing."""
        labels = self.api.get(rest_client.NODES, self.name)["metadata"].get("labels", {})
        (value,) = {labels.get(label, "") for label in keys.CAPABLE_LABELS}
        return value

    def labelled(self) -> bool:
        """Whether pods that ask for a cache are scheduled here."""
        return self.label == "true"

    def has_all(self) -> bool:
        """Whether everything that it runs is its own."""
        store = self.metric('uimgacc_used_layer_bytes{source="store"}')
        local = self.metric('uimgacc_used_layer_bytes{source="local"}')
        return store == 0 < local and self.metric("uimgacc_local_images") == 1

    def switch_off(self) -> None:
        """Leave nothing of what runs but what is on the disk, with the server away."""
        self.close()
        for path in (*self.layers(), *self.mounts()):
            # A mount of NFS is gone at once, but the command may wait for the server.
            self.unmounting.append(subprocess.Popen(["umount", "--lazy", path]))
        conftest.wait_until(lambda: not (self.layers() or self.mounts()))

    def layers(self) -> list[str]:
        below = f"{self.root}/layers/"
        return [each.target for each in mountinfo.read() if each.target.startswith(below)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apis.Api]:
    """An API server, which does not share the store's outage."""
    with threads.running() as loop, servers.emulated(loop) as access:
        made = apis.Api(access, tmp_path_factory.mktemp("api"))
        made.runtime_class("uimgacc")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def local() -> str:
    return "off"


@pytest.fixture
def node(store, registry, api, local, tmp_path) -> Iterator[Member]:
    with Member(tmp_path / "n", registry, api, local=local) as running:
        running.warm()
        yield running


@pytest.fixture
def client(node) -> Iterator[cri.Client]:
    with cri.Client(node.containerd.address, node.folder / "logs") as running:
        yield running


def test_an_outage_of_a_minute_costs_only_time(node, client, server, registry) -> None:
    conftest.wait_until(node.capable)
    conftest.wait_until(node.labelled)
    node.bind(node.pod("reader", conftest.STORED, "true"))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    with conftest.Watch(node) as watch, conftest.Reader(node, client, "reader") as reader:
        stopped = time.monotonic()
        server.stop()
        # Noticed although the NFS client could still answer from its caches.
        conftest.wait_until(lambda: not node.capable())
        conftest.wait_until(lambda: not node.label)
        conftest.drop_contents()
        away = time.monotonic() - stopped
        conftest.note(f"withdrawn {away:.1f} s after the server was told to stop")
        assert "does not answer" in json.loads(node.get("/status"))["node"]["reason"]

        # An ordinary pod, and one of our handler with an image that is not in the store.
        for name, handler in (("ordinary", ""), ("ours", "uimgacc")):
            started = time.monotonic()
            with client.pod(node.pod(name, conftest.OTHER, "echo runs", handler=handler)) as pod:
                client.wait_for_output(pod, "runs")
            conftest.note(f"{name} pod started in {time.monotonic() - started:.1f} s meanwhile")
        # One that the store would serve: it is not known yet whether, so it waits.
        node.bind(node.pod("late", conftest.STORED, "true"))

        count = reader.count
        assert not reader.ended
        threading.Event().wait(max(0.0, OUTAGE - (time.monotonic() - stopped)))
        assert reader.count == count
        assert not reader.ended
        assert not node.capable()
        assert not node.labelled()
        # A minute of look-ups without an answer: each was killed, none has stayed.
        assert len(conftest.children(node.agent.pid)) <= WORKERS

        server.start()
        back = conftest.wait_until(node.labelled)
        assert node.capable()
        conftest.note(f"capable, and labelled, {back:.1f} s after the server was back")
        read = reader.wait_for_more()
        conftest.note(f"the reader has read everything again {back + read:.1f} s after that")
        conftest.wait_until(lambda: served(node, "late"))
    conftest.note(f"/healthz: {watch.answers} answers, the slowest in {watch.slowest:.2f} s")

    assert watch.failures == []


def served(node: Member, name: str) -> bool:
    pods = json.loads(node.get("/status"))["pods"]
    return any(pod["name"] == name and pod["served"] for pod in pods)


@pytest.mark.parametrize("local", ["before-start"])
def test_a_node_that_has_copies_outlives_its_server(node, client, server) -> None:
    node.bind(node.pod("first", conftest.STORED, "true"))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    with conftest.Reader(node, client, "reader") as reader:
        copied = conftest.wait_until(node.has_all, seconds=240)
        conftest.note(f"everything that runs is copied {copied:.1f} s after its start")
        server.stop()
        reader.wait_for_more()
        local = conftest.wait_until(lambda: node.label == "local")
        conftest.note(f"labelled as local {local:.1f} s after everything was read")
        assert "1 image is served locally" in json.loads(node.get("/status"))["node"]["reason"]
        run(node, client, "second")
        node.bind(node.pod("third", conftest.STORED, "true"))
        conftest.wait_until(lambda: "served locally" in sentence(node, "third"))

        for process in (node.agent, node.snapshotter):
            process.end(signal.SIGKILL)
        node.start_snapshotter()
        node.start_agent()
        run(node, client, "fourth")
        reader.wait_for_more()
    client.close()

    node.switch_off()
    node.start_snapshotter()
    node.containerd.start()
    node.start_agent()
    conftest.drop_contents()
    with cri.Client(node.containerd.address, node.folder / "logs-after") as again:
        run(node, again, "fifth")
        conftest.wait_until(lambda: node.label == "local")
    server.start()
    back = conftest.wait_until(node.labelled)
    conftest.note(f"labelled {back:.1f} s after the server was back")
    assert [each.wait(timeout=60) for each in node.unmounting] == [0] * len(node.unmounting)


def run(node: Member, client: cri.Client, name: str) -> None:
    """Run a pod of the stored image that reads all of it."""
    started = time.monotonic()
    with client.pod(node.pod(name, conftest.STORED, f"{conftest.READ_ALL} && echo done")) as pod:
        client.wait_for_output(pod, "done")
    conftest.note(f"{name} pod read everything {time.monotonic() - started:.1f} s after its start")


def sentence(node: Member, name: str) -> str:
    pods = json.loads(node.get("/status"))["pods"]
    return "".join(pod["sentence"] for pod in pods if pod["name"] == name)
