"""Restarts of containerd: at most one, only where due, and none forgotten."""

import dataclasses
import json
import pathlib
import subprocess

import pytest

from agent.cli.machine import node_setup_command
from agent.setup.config import places, settings_view
from agent.setup.node import containerd_restart, host
from tests.unit.setup import machines

WORKS = 'echo once >> "$0"'


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> host.Host:
    main = tmp_path / "node" / "etc" / "containerd" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")
    return host.Host(tmp_path / "node")


@pytest.fixture(autouse=True)
def _no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """These machines are folders without a containerd: what it reads is tested elsewhere."""
    machines.without_program(monkeypatch)


def run(
    machine: host.Host,
    mark: pathlib.Path,
    *,
    restart: str = WORKS,
    undo: bool = False,
    version: str = "2.1",
) -> None:
    wanted = node_setup_command.Wanted(
        undo=undo,
        restart=True,
        restart_command=f"sh -c '{restart}' {mark}",
        address="/run/uimgacc/snapshotter.sock",
        containerd_version=version,
        host_root=machine.root,
    )
    node_setup_command.node_setup(wanted, as_json=True)


def times(mark: pathlib.Path) -> int:
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def test_set_up_and_undo_restart_once_each(machine: host.Host, tmp_path: pathlib.Path) -> None:
    counts = []
    for undo in (False, False, True, True):
        run(machine, tmp_path / "mark", undo=undo)
        counts.append(times(tmp_path / "mark"))

    assert counts == [1, 1, 2, 2]
    assert machine.read(containerd_restart.NOTE) is None


def test_files_of_others_that_are_in_no_order_are_no_reason_to_stay(
    machine: host.Host, tmp_path: pathlib.Path
) -> None:
    main = machine.root / "etc/containerd/config.toml"
    main.write_text('version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n')
    before = main.read_bytes()
    run(machine, tmp_path / "mark")
    foreign = main.parent / "conf.d" / "foreign.toml"
    foreign.write_text("this is no TOML")

    run(machine, tmp_path / "mark", undo=True)

    assert times(tmp_path / "mark") == 2
    assert main.read_bytes() == before
    assert [path.name for path in foreign.parent.iterdir()] == ["foreign.toml"]


def test_a_restart_that_failed_is_made_up_for(machine: host.Host, tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(containerd_restart.RestartError, match="exit status 3"):
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
        patched.setattr(containerd_restart, "restart", crash)
        with pytest.raises(KeyboardInterrupt):
            run(machine, tmp_path / "mark")

    run(machine, tmp_path / "mark")

    assert times(tmp_path / "mark") == 1


def test_what_is_refused_restarts_nothing(machine: host.Host, tmp_path: pathlib.Path) -> None:
    with pytest.raises(settings_view.ConfigError):
        run(machine, tmp_path / "mark", version="1.6")

    assert machine.read(containerd_restart.NOTE) is None
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
        """cat "$2" $(grep ^imports "$2" | grep -o '/[^"]*') | grep -v -e ^version -e ^imports\n"""
        "true",
        "systemctl": 'echo "$SYSTEMD_IGNORE_CHROOT $@" >> /restarts',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
    for name in ("sh", "cat", "grep", "env", "echo"):
        (programs / name).write_bytes(busybox)
    for program in programs.iterdir():
        program.chmod(0o755)

    wanted = node_setup_command.Wanted(
        restart=True,
        address="/run/uimgacc/snapshotter.sock",
        host_root=machine.root,
    )
    node_setup_command.node_setup(wanted, as_json=True)

    assert json.loads(capsys.readouterr().out)["restarted"] is True
    assert (machine.root / "restarts").read_text() == "1 restart containerd\n"


@pytest.mark.root
@pytest.mark.parametrize(("name", "unit"), [("k3s", "k3s-agent"), ("rke2", "rke2-server")])
def test_k3s_and_rke2_are_found_both_ways_beside_docker_s_containerd(
    name: str, unit: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the manifests' containers call it, there and back: with nothing but the node's root."""
    made = machines.make(tmp_path / "node", f"{name}-2", "2")
    docker = made.root / "etc/containerd/config.toml"
    docker.parent.mkdir(parents=True)
    docker.write_text('disabled_plugins = ["cri"]\n')
    socket = made.root / places.RANCHER_SOCKET.relative_to("/")
    socket.parent.mkdir(parents=True)
    socket.touch()
    own = made.root / f"var/lib/rancher/{name}/data/current/bin/containerd"
    busybox = pathlib.Path("/bin/busybox").read_bytes()
    for program, text in {
        own: "echo containerd v2.1.5-k3s1",
        made.root / "bin/systemctl": f"[ $1 = is-active ] && exec [ $3 = {unit} ]\n"
        'echo "$@" >> /restarts',
    }.items():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    for applet in ("sh", "env", "["):
        (made.root / "bin" / applet).write_bytes(busybox)
        (made.root / "bin" / applet).chmod(0o755)
    before = made.files()
    wanted = node_setup_command.Wanted(
        restart=True,
        address="/run/uimgacc/snapshotter.sock",
        host_root=made.root,
    )

    node_setup_command.node_setup(wanted, as_json=True)
    assert json.loads(capsys.readouterr().out)["config"] == str(places.RANCHER[name])
    node_setup_command.node_setup(dataclasses.replace(wanted, undo=True), as_json=True)

    assert (made.root / "restarts").read_text() == f"restart {unit}\n" * 2
    (made.root / "restarts").unlink()
    assert made.files() == before


@pytest.mark.parametrize(
    ("path", "active", "expected"),
    [
        (places.DEFAULT_CONFIG, "", "containerd"),
        (places.RANCHER["k3s"], "k3s-agent", "k3s-agent"),
        (places.RANCHER["k3s"], "", "k3s"),
        (places.RANCHER["rke2"], "rke2-agent", "rke2-agent"),
        (places.RANCHER["rke2"], "", "rke2-server"),
    ],
)
def test_the_unit_is_the_one_that_runs_containerd(
    path: settings_view.Path, active: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0 if command[-1] == active else 3)

    monkeypatch.setattr(subprocess, "run", answer)

    assert containerd_restart.command_for(host.Host(), path) == ["systemctl", "restart", expected]
