"""The server is away for a minute under a reading container, while new pods arrive."""

import json
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.clients.kube import rest_client
from agent.model import keys
from tests.guest.inside import conftest
from tests.kube import apis, servers, threads

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

OUTAGE = 60.0

WORKERS = 5
"""Of the agent: three for look-ups, one for mounts, one for local copies."""


class Member(conftest.Node):
    """A node of a cluster: its pods come from the API, and its labels are there."""

    def __init__(self, folder: pathlib.Path, registry, api: apis.Api) -> None:
        self.api = api
        self.name = api.node()
        source = ("--kubernetes", self.name, "--kubeconfig", api.kubeconfig())
        super().__init__(folder, registry, source=source)

    def bind(self, manifest: dict[str, Any]) -> None:
        """What a scheduler does with a pod."""
        meta = manifest["metadata"]
        body = {
            **manifest,
            "metadata": {"name": meta["name"], "annotations": meta["annotations"]},
            "spec": {**manifest["spec"], "nodeName": self.name},
        }
        self.api.create(rest_client.PODS, body, namespace=self.api.namespace)

    def labelled(self) -> bool:
        """Whether pods that ask for a cache are scheduled here."""
        labels = self.api.get(rest_client.NODES, self.name)["metadata"].get("labels", {})
        found = {labels.get(label) for label in keys.CAPABLE_LABELS}
        assert found in ({"true"}, {None})
        return found == {"true"}


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


@pytest.fixture(scope="module")
def node(store, registry, api, tmp_path_factory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("n"), registry, api) as running:
        running.warm()
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
        conftest.wait_until(lambda: not node.labelled())
        conftest.drop_caches()
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
