"""Kernels before 6.12 mount layers through loop devices."""

import errno
import subprocess

import pytest

from agent.mounts import mountinfo, syscalls
from agent.mounts.devices import layer_mounting

pytestmark = pytest.mark.root


@pytest.fixture
def layer(tmp_path):
    """A small EROFS file."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content")
    subprocess.run(
        ["mkfs.erofs", "--quiet", tmp_path / "layer.erofs", tmp_path / "tree"], check=True
    )
    return tmp_path / "layer.erofs"


def test_more_layers_are_mounted_than_there_were_devices(layer, tmp_path, monkeypatch) -> None:
    """A container's /dev has the devices of the moment at which it started: eight, usually."""
    real = syscalls.mount

    def as_before_6_12(source: str, *more: object) -> None:
        if not source.startswith("/dev/loop"):
            raise OSError(errno.ENOTBLK, "Block device required", source)
        real(source, *more)

    monkeypatch.setattr(syscalls, "mount", as_before_6_12)
    targets = [tmp_path / f"m{number}" for number in range(12)]
    mounted = []
    try:
        for target in targets:
            target.mkdir()
            layer_mounting.mount_layer(str(layer), str(target), layer.stat().st_size)
            mounted.append(target)
        sources = {each.target: each.source for each in mountinfo.read()}
        devices = {sources[str(target)] for target in targets}

        assert len(devices) == len(targets)
        assert {mountinfo.backing_file(device) for device in devices} == {str(layer)}
        assert [(target / "file").read_text() for target in targets] == ["content"] * 12
    finally:
        for target in mounted:
            syscalls.unmount(str(target))
