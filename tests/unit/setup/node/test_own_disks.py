"""Folders of a node that are on disks of their own are still there when they are needed again."""

import pathlib

import pytest

from agent.cli.machine import node_setup_command
from agent.mounts import mountinfo
from agent.setup.slots import turns
from tests.unit.setup import machines

CONTAINER = "200 150 0:80 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b\n"


def test_the_note_of_the_slot_and_containerd_stay_in_reach(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot whose note is out of reach is never freed: the roll-out of a cluster stops."""
    machines.without_program(monkeypatch)
    root = tmp_path / "node"
    machines.make(root, "kubeadm", "2")
    monkeypatch.setattr(
        node_setup_command.containerd_binary, "running", lambda _: "/usr/local/bin/containerd"
    )
    disks = [str(turns.NOTE.parent), "/usr/local/bin", "/var/lib/containerd", "/usr/share/other"]
    table = "".join(f"9 8 0:1 / {root}{disk} rw - ext4 /dev/vdb rw\n" for disk in disks)
    monkeypatch.setattr(mountinfo, "read", lambda: list(mountinfo.parse(CONTAINER + table)))
    gone: list[str] = []
    monkeypatch.setattr(
        node_setup_command.host_copies.syscalls, "unmount", lambda target, _: gone.append(target)
    )

    wanted = node_setup_command.Wanted(
        address="/run/uimgacc/snapshotter.sock", containerd_version="2.1", host_root=root
    )
    node_setup_command.node_setup(wanted, as_json=True)

    assert gone == [f"{root}/usr/share/other"]
