"""`uimgacc node-setup --undo --clear`: done only when nothing of uimgacc is left."""

import pathlib
import subprocess
import sys

import pytest

from agent.setup.config import inputs, settings_view
from agent.setup.node import apply, config_reader, host, uninstall
from tests.unit.setup import machines

# Mounts of its own, which end with it: /run, the store's as the agent makes it, and one in use.
SCRIPT = """
import os, pathlib, subprocess, sys
from agent.cli import commands
from agent.mounts import syscalls
from typer.testing import CliRunner

target, *arguments = sys.argv[1:]
syscalls.mount("none", "/run", "tmpfs", 0)
pathlib.Path(target).mkdir(parents=True)
syscalls.mount("none", target, "tmpfs", 0)
sleeping = subprocess.Popen(["sleep", "600"], cwd=target)
for _ in range(2):
    result = CliRunner().invoke(commands.app, arguments)
    print(result.exit_code, result.output.replace("\\n", " "))
    if sleeping.poll() is None:
        sleeping.kill()
        sleeping.wait()
print(os.path.ismount(target), os.listdir("/run/uimgacc"))
"""


@pytest.mark.root
def test_it_fails_while_a_mount_is_in_use_and_ends_when_that_is_over(
    tmp_path: pathlib.Path,
) -> None:
    """The snapshotter's folder is not the usual one, and only what is undone first names it."""
    machine = machines.write(tmp_path / "node", "version = 3\n", "2")
    store = tmp_path / "uimgacc" / "store"
    target = store.with_name("store.mounts") / "00c0ffee-1"
    places = [f"--config={machine.config}", f"--store={store}", f"--state={tmp_path / 'state'}"]
    (tmp_path / "snapshots" / "snapshots").mkdir(parents=True)
    found = config_reader.Target(settings_view.Path(machine.config), machine.target.release)
    apply.set_up(host.Host(), found, inputs.Wanted(root=str(tmp_path / "snapshots")))
    assert machine.config.read_text() != "version = 3\n"

    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        [*command, target, "node-setup", "--undo", "--clear", *places],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    first, second, mounted = done.stdout.splitlines()
    assert first.startswith("1 ")
    assert f"these mounts stay: {target} (Device or resource busy, used by sleep" in first
    assert second.startswith("0 ")
    assert mounted == "False []"
    assert machine.config.read_text() == "version = 3\n"
    assert not (tmp_path / "snapshots").exists()
    assert not store.parent.exists()


def test_who_uses_a_mount_is_named_by_the_pod_where_that_is_known() -> None:
    users = [(7, "python3", "11111111-2222-3333-4444-555555555555"), (8, "cat", "other-uid")]
    pods = {users[0][2]: "default/train"}

    sentence = uninstall.held_sentence("/a", "busy", users, pods=pods)

    assert sentence == (
        "/a (busy, used by python3 (process 7 of pod default/train),"
        " cat (process 8 of pod other-uid))"
    )
    held = uninstall.HeldError([sentence] * 12)
    assert "and 2 more" in str(held)
