import contextlib
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from agent.node.health import store_mount
from agent.roles import agent, agent_flags, agent_parts
from agent.settings import agent_settings

NEEDED = ["--pods", "/p", "--store", "/s"]


def test_flags_beat_the_environment_and_that_beats_defaults(monkeypatch) -> None:
    monkeypatch.setenv("UIMGACC_STORE_SECONDS", "3")
    monkeypatch.setenv("UIMGACC_PARALLEL", "3")
    wanted = agent_flags.parse([*NEEDED, "--parallel", "4"])

    assert (wanted.parallel, wanted.store_seconds) == (4, 3.0)
    assert wanted.containerd == "/run/containerd/containerd.sock"
    assert wanted.state is None


def test_the_environment_may_give_all_that_is_needed(monkeypatch) -> None:
    monkeypatch.setenv("UIMGACC_PODS", "/p")
    monkeypatch.setenv("UIMGACC_STORE", "/s")
    monkeypatch.setenv("UIMGACC_DEFAULT_SNAPSHOTTER", "true")
    wanted = agent_flags.parse([])

    assert wanted.pods == pathlib.Path("/p")
    assert wanted.default_snapshotter is True


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--pods", "/p"],
        ["--store", "/s"],
        [*NEEDED, "--kubernetes", "node-1"],
        [*NEEDED, "--verbose", "maybe"],
        [*NEEDED, "--what"],
    ],
)
def test_mistakes_are_told(arguments, capsys) -> None:
    with pytest.raises(SystemExit):
        agent_flags.parse(arguments)

    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nfs": "nfs.example"}, "UIMGACC_NFS (--nfs) is wrong: 'nfs.example' is no NFS export"),
        (
            {"nfs": "nfs.example:/a", "nfs_options": "rw"},
            "UIMGACC_NFS_OPTIONS (--nfs-options) is wrong: the NFS option rw cannot be",
        ),
    ],
)
async def test_a_store_that_cannot_be_named_is_a_problem_of_the_store(
    wrong, said, tmp_path
) -> None:
    """An agent that ended for it would leave its node labelled."""
    wanted = agent_settings.Agent(store=tmp_path / "store", pods=tmp_path, **wrong)
    async with contextlib.AsyncExitStack() as stack:
        mount = await agent_parts.mounting(wanted, store_mount.Signals(), stack)
        with pytest.raises(store_mount.NotMounted, match=re.escape(said)):
            await store_mount.Gate(mount, mount).call("read", deadline=1)


def test_an_address_in_use_is_told_to_a_person(tmp_path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        folders = ["--pods", str(tmp_path), "--store", str(tmp_path)]
        status = agent.main([*folders, "--listen", address])

    assert status == 1
    error = capsys.readouterr().err
    assert "address already in use" in error
    assert "Traceback" not in error


def test_an_agent_without_a_cluster_does_without_the_client_of_one() -> None:
    """It and what it imports take memory on each machine."""
    code = (
        "import sys; from agent.roles import agent, agent_parts\n"
        "sys.exit('kubernetes_asyncio' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)

    assert done.returncode == 0
