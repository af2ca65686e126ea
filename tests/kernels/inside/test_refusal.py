"""What a node with a kernel that is too old says: it serves nothing, and why."""

import json

import pytest

from agent.kits.processes import workers
from agent.mounts.devices import kernel_support
from agent.setup.doctor import checks
from tests.guest.inside import conftest

pytestmark = pytest.mark.guest


def test_the_node_does_not_serve(store, registry, tmp_path) -> None:
    with conftest.Node(tmp_path, registry) as node:
        conftest.wait_until(lambda: "too old" in json.loads(node.get("/status"))["node"]["reason"])

        assert not node.capable()


async def test_the_doctor_refuses_the_kernel(tmp_path) -> None:
    async with workers.Pool(checks.TRIES, name="the test", size=1) as tries:
        found = await checks.kernel(tries, tmp_path, deadline=60)

    assert "too old" in kernel_support.problem()
    assert found[0].level is checks.Level.FAIL
    assert "too old" in found[0].what
    assert "5.15 or newer" in found[0].fix
