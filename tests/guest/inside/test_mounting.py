"""The agent mounts the store, keeps it through its own ends, and heals a replaced export."""

import pathlib
import signal

import pytest

from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


def run(client, node, name: str, script: str = conftest.READ_ALL) -> str:
    """Run a pod on the stored image to its end; what it said."""
    with client.pod(node.pod(name, conftest.STORED, script)) as pod:
        assert client.wait_for_exit(pod) == [0], pod.output
        return pod.output


def mount_table() -> list[str]:
    """NFS and layers, with the numbers that the kernel gave these mounts."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if " - nfs4 " in line or " - erofs " in line]


def test_a_pod_runs_from_the_export(node, client, registry) -> None:
    seconds = conftest.wait_until(node.capable)
    conftest.note(f"capable {seconds:.2f} s after the agent was ready")
    mark = registry.mark()
    node.schedule(node.pod("first", conftest.STORED, conftest.READ_ALL))
    seconds = conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    conftest.note(f"registered {seconds:.2f} s after the manifest appeared")
    run(client, node, "first")

    assert registry.layer_gets(mark) == []
    assert len(node.mounts()) == 1


def test_a_reader_notices_no_end_and_no_upgrade_of_ours(node, client) -> None:
    with conftest.Reader(node, client, "reader") as reader:
        before = mount_table()
        node.agent.end(signal.SIGKILL)
        reader.wait_for_more()
        node.start_agent()
        conftest.wait_until(node.capable)
        # As a rolling upgrade does it: both go, then both come, in whatever order.
        node.agent.end()
        node.snapshotter.end()
        reader.wait_for_more()
        node.start_snapshotter()
        node.start_agent()
        conftest.wait_until(node.capable)
        reader.wait_for_more()

        assert mount_table() == before
        assert node.mounts() == [mount for mount in node.mounts() if mount.endswith("-1")]


def test_pods_go_on_after_the_export_was_replaced(node, client, server) -> None:
    (old,) = node.mounts()
    server.replace("store")
    seconds = conftest.wait_until(lambda: str(node.place.resolve()) != old)
    conftest.note(f"healed {seconds:.2f} s after the export was replaced")
    conftest.wait_until(node.capable)

    assert (node.place / "store.json").exists()
    conftest.drop_caches()
    run(client, node, "after")
    # The old mount stays for as long as layers of it are mounted below the new ones.
    assert node.mounts() == [old, str(node.place.resolve())]
