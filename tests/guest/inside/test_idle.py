"""What a node asks of the NFS server: the same for each of thousands (docs/scale.md)."""

import collections
import pathlib
import re
import time

import pytest

from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SECONDS = 60.0
AT_MOST = 120.0
"""Operations a minute. 5,000 such nodes are 10,000 a second, which one server can still bear."""

_OPERATION = re.compile(r"^\s+([A-Z_]+): (\d+) ", re.MULTILINE)


def operations(node: conftest.Node) -> collections.Counter[str]:
    """How many operations the kernel has sent for the node's mounts of the store, by kind."""
    counted: collections.Counter[str] = collections.Counter()
    text = pathlib.Path("/proc/self/mountstats").read_text()
    for device in text.split("\ndevice "):
        if f" mounted on {node.folder}/" in device and " with fstype nfs4 " in device:
            counted.update({kind: int(number) for kind, number in _OPERATION.findall(device)})
    return counted


def test_a_node_asks_the_server_little(node, client) -> None:
    """For one image of two layers with one cache in the store, and then for nothing at all."""
    conftest.wait_until(node.capable)
    before = operations(node)
    node.schedule(node.pod("idle", conftest.STORED, "true"))
    conftest.wait_until(lambda: node.is_registered(client, conftest.STORED))
    registering = operations(node) - before
    conftest.note(f"NFS operations for an image of two layers: {dict(registering)}")
    assert sum(registering.values()) <= AT_MOST

    before, started = operations(node), time.monotonic()
    time.sleep(SECONDS)
    minutes = (time.monotonic() - started) / 60
    asked = {kind: count / minutes for kind, count in (operations(node) - before).items()}
    conftest.note(f"an idle node's NFS operations a minute: {asked}")

    # The probe must reach the server: an answer from the node's own cache would say nothing.
    assert asked.get("STATFS", 0) >= 6
    assert sum(asked.values()) <= AT_MOST
