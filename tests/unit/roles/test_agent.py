import pathlib
import socket

import pytest

from agent.roles import agent, agent_flags

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
