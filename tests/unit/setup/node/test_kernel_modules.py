"""Modules that mounting needs."""

import pathlib

from agent.setup.node import host, kernel_modules


def test_modules_are_loaded_by_the_nodes_own_program(tmp_path, monkeypatch) -> None:
    log = tmp_path / "log"
    for name, line in (("chroot", f'echo "$@" >> {log}'), ("modprobe", f'echo "$@" >> {log}')):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    kernel_modules.load(host.Host(pathlib.Path("/host")))
    kernel_modules.load(host.Host())

    lines = log.read_text().splitlines()
    assert lines[0] == "/host modprobe -q erofs"
    assert "-q erofs" in lines


def test_a_machine_without_modprobe_is_no_problem(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kernel_modules.load(host.Host())
