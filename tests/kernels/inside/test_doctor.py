"""What the doctor says of a kernel that is supported."""

import os

import pytest

from agent.kits.processes import workers
from agent.mounts.devices import kernel_support
from agent.setup.doctor import checks, memory_check, switch_check
from tests.unit.mounts import nodes

pytestmark = pytest.mark.guest


async def test_the_doctor_finds_nothing_wrong_with_the_kernel(tmp_path) -> None:
    async with workers.Pool(checks.TRIES, name="the test", size=1) as tries:
        found = await checks.kernel(tries, tmp_path, deadline=60)
        found += [
            checks.verity(),
            await memory_check.examine(tries, tmp_path, deadline=60),
            await switch_check.examine(tries, tmp_path, deadline=60),
        ]

    assert kernel_support.problem() == ""
    assert {finding.level for finding in found} == {checks.Level.OK}, found
    way = "from files" if nodes.FILE_BACKED else "through loop devices"
    assert f"mounts {way} (kernel {os.uname().release}" in found[0].what
