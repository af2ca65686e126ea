"""The server is away for a minute under a reading container, while new pods arrive."""

import json
import threading
import time

import pytest

from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

OUTAGE = 60.0


WORKERS = 4
"""Of the agent: three for look-ups, one for mounts."""


def test_an_outage_of_a_minute_costs_only_time(node, client, server, registry) -> None:
    conftest.wait_until(node.capable)
    node.schedule(node.pod("reader", conftest.STORED, "true"))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    with conftest.Watch(node) as watch, conftest.Reader(node, client, "reader") as reader:
        stopped = time.monotonic()
        server.stop()
        # Noticed although the NFS client could still answer from its caches.
        conftest.wait_until(lambda: not node.capable())
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
        node.schedule(node.pod("late", conftest.STORED, "true"))

        count = reader.count
        assert not reader.ended
        threading.Event().wait(max(0.0, OUTAGE - (time.monotonic() - stopped)))
        assert reader.count == count
        assert not reader.ended
        assert not node.capable()
        # A minute of look-ups without an answer: each was killed, none has stayed.
        assert len(conftest.children(node.agent.pid)) <= WORKERS

        server.start()
        back = conftest.wait_until(node.capable)
        conftest.note(f"capable {back:.1f} s after the server was back")
        read = reader.wait_for_more()
        conftest.note(f"the reader has read everything again {back + read:.1f} s after that")
        conftest.wait_until(lambda: served(node, "default/late"))
    conftest.note(f"/healthz: {watch.answers} answers, the slowest in {watch.slowest:.2f} s")

    assert watch.failures == []


def served(node, key: str) -> bool:
    pods = json.loads(node.get("/status"))["pods"]
    return any(f"{pod['namespace']}/{pod['name']}" == key and pod["served"] for pod in pods)
