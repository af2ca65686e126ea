"""Restarts of containerd: at most one, only where due, and none forgotten."""

import json
import pathlib
import subprocess

import pytest

from agent.cli import setting_up
from agent.setup import config, host, node, restarting

WORKS = 'echo once >> "$0"'


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> host.Host:
    main = tmp_path / "node" / "etc" / "containerd" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")
    return host.Host(tmp_path / "node")


def run(
    machine: host.Host,
    mark: pathlib.Path,
    *,
    restart: str = WORKS,
    undo: bool = False,
    version: str = "2.1",
) -> None:
    wanted = setting_up.Wanted(
        config="",
        undo=undo,
        dry_run=False,
        restart=True,
        restart_command=f"sh -c '{restart}' {mark}",
        default_snapshotter=False,
        address="/run/uimgacc/snapshotter.sock",
        root="",
        containerd_binary="",
        containerd_version=version,
        host_root=machine.root,
    )
    setting_up.node_setup(wanted, as_json=True)


def times(mark: pathlib.Path) -> int:
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def test_set_up_and_undo_restart_once_each(machine: host.Host, tmp_path: pathlib.Path) -> None:
    counts = []
    for undo in (False, False, True, True):
        run(machine, tmp_path / "mark", undo=undo)
        counts.append(times(tmp_path / "mark"))

    assert counts == [1, 1, 2, 2]
    assert machine.read(restarting.NOTE) is None


def test_a_restart_that_failed_is_made_up_for(machine: host.Host, tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(restarting.RestartError, match="exit status 3"):
        run(machine, mark, restart="exit 3")

    run(machine, mark)
    run(machine, mark)

    assert times(mark) == 1


def test_a_crash_after_the_change_is_made_up_for(
    machine: host.Host, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(restarting, "restart", crash)
        with pytest.raises(KeyboardInterrupt):
            run(machine, tmp_path / "mark")

    run(machine, tmp_path / "mark")

    assert times(tmp_path / "mark") == 1


def test_what_is_refused_restarts_nothing(machine: host.Host, tmp_path: pathlib.Path) -> None:
    with pytest.raises(config.ConfigError):
        run(machine, tmp_path / "mark", version="1.6")

    assert machine.read(restarting.NOTE) is None
    assert times(tmp_path / "mark") == 0


@pytest.mark.root
def test_in_a_container_the_node_s_own_programs_are_asked(
    machine: host.Host, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of the node's root, run in that root: a containerd and a systemctl of shell."""
    programs = machine.root / "bin"
    programs.mkdir()
    busybox = pathlib.Path("/bin/busybox").read_bytes()
    for name, text in {
        "containerd": '[ "$1" = --version ] && echo containerd v2.1.9 || '
        "cat /etc/containerd/config.toml /etc/containerd/conf.d/99-uimgacc.toml | grep -v version",
        "systemctl": 'echo "$SYSTEMD_IGNORE_CHROOT $@" >> /restarts',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
    for name in ("sh", "cat", "grep", "env", "echo"):
        (programs / name).write_bytes(busybox)
    for program in programs.iterdir():
        program.chmod(0o755)

    wanted = setting_up.Wanted(
        config="",
        undo=False,
        dry_run=False,
        restart=True,
        restart_command="",
        default_snapshotter=False,
        address="/run/uimgacc/snapshotter.sock",
        root="",
        containerd_binary="",
        containerd_version="",
        host_root=machine.root,
    )
    setting_up.node_setup(wanted, as_json=True)

    assert json.loads(capsys.readouterr().out)["restarted"] is True
    assert (machine.root / "restarts").read_text() == "1 restart containerd\n"


@pytest.mark.parametrize(
    ("path", "active", "expected"),
    [
        (node.DEFAULT_CONFIG, "", "containerd"),
        (node.RANCHER["k3s"], "k3s-agent", "k3s-agent"),
        (node.RANCHER["k3s"], "", "k3s"),
        (node.RANCHER["rke2"], "rke2-agent", "rke2-agent"),
        (node.RANCHER["rke2"], "", "rke2-server"),
    ],
)
def test_the_unit_is_the_one_that_runs_containerd(
    path: config.Path, active: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0 if command[-1] == active else 3)

    monkeypatch.setattr(subprocess, "run", answer)

    assert restarting.command_for(host.Host(), path) == ["systemctl", "restart", expected]
