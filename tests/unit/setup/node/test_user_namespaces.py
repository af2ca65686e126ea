"""Whether a kernel shows layers with other owners is tried out; needs root."""

import os
import pathlib

import pytest

from agent.kits.processes import workers
from agent.mounts import mountinfo, syscalls
from agent.setup.doctor import checks, user_namespace_check
from agent.setup.node import user_namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mount(2)"),
]


@pytest.fixture
async def pool():
    async with workers.Pool(checks.TRIES, name="the doctor", size=1) as made:
        yield made


async def test_this_kernel_does_and_nothing_is_left(pool, tmp_path: pathlib.Path) -> None:
    finding = await user_namespace_check.examine(pool, tmp_path, deadline=30)

    assert finding.level is checks.Level.OK
    assert os.listdir(tmp_path) == []
    assert not [e for e in mountinfo.read() if e.target.startswith(str(tmp_path))]


async def test_a_file_system_that_cannot_is_found_and_named(pool, tmp_path: pathlib.Path) -> None:
    """An overlay, as the disk of a node that is itself a container."""
    lower, upper, work, merged = (tmp_path / name for name in "luwm")
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    syscalls.mount("overlay", str(merged), "overlay", 0, options)
    try:
        finding = await user_namespace_check.examine(pool, merged, deadline=30)
        assert os.listdir(merged) == []
    finally:
        syscalls.unmount(str(merged))

    assert finding.level is checks.Level.WARN
    assert "containerd copies images: [Errno 22]" in finding.what
    assert "ext4, xfs or btrfs" in finding.fix


def test_a_folder_that_is_not_there_yet_is_tried_above(tmp_path: pathlib.Path) -> None:
    assert user_namespaces.obstacle(tmp_path / "not" / "there") == ""
    assert os.listdir(tmp_path) == []
