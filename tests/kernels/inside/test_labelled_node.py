"""A node where SELinux is active: permissive, as nothing else in this machine has a label."""

import pytest

from agent.mounts import mountinfo
from agent.mounts.devices import layer_labels
from tests.guest.inside import conftest

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("policy")]


def test_a_node_mounts_its_layers_with_the_label(node, client, registry) -> None:
    conftest.wait_until(node.capable)
    with client.pod(node.pod("first", conftest.STORED, conftest.READ_ALL)) as pod:
        assert client.wait_for_exit(pod, seconds=600) == [0], pod.output
        below = f"{node.root}/layers/"
        table = [each for each in mountinfo.read() if each.target.startswith(below)]
        assert table
        assert {layer_labels.of(each) for each in table} == {
            "system_u:object_r:container_ro_file_t:s0"
        }
