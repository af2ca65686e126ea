"""`uimgacc profile`: what it prints, and that what cannot be is one line."""

import json
import os

import pytest
import typer.testing

from agent.cli import commands
from agent.model import images
from agent.store import layout, profile_files
from tests.unit.store import making


def run(*words: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(commands.app, ["profile", *words])


@pytest.fixture
def place(tmp_path, monkeypatch) -> layout.Layout:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "m", "6", "1", "x86_64")))
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    return place


def test_what_is_in_memory_is_recorded_shown_and_forgotten(place) -> None:
    store = f"--store={place.root}"

    assert run("show", making.REF, store).exit_code == 3
    recorded = run("record", making.REF, store, "--json")
    assert recorded.exit_code == 0, recorded.output
    assert json.loads(recorded.stdout)["bytes"] == 2 * (64 << 10)
    (shown,) = json.loads(run("show", making.REF, store, "--json").stdout)
    assert {layer["layer"] for layer in shown["layers"]} == {
        making.digest("a"),
        making.digest("b"),
    }
    assert making.REF in run("show", store).stdout
    assert making.digest("a") in run("show", making.REF, store).stdout
    assert run("forget", making.REF, store).exit_code == 0
    assert run("forget", making.REF, store).exit_code == 3


def test_a_node_has_its_own(place, tmp_path) -> None:
    root = f"--root={tmp_path / 'root'}"

    assert run("record", making.REF, f"--store={place.root}", root).exit_code == 0
    assert json.loads(run("show", root, "--json").stdout)[0]["from"] == "node"
    assert run("forget", making.REF, root).stdout == f"{making.REF}: forgotten by the node\n"


def test_a_damaged_profile_is_shown_as_one(place) -> None:
    assert run("record", making.REF, f"--store={place.root}").exit_code == 0
    path, _ = profile_files.paths(place.profile_records, images.parse_reference(making.REF))
    data = json.loads(path.read_text())
    data["profiles"][0]["profile"] = "AAAA"
    path.write_text(json.dumps(data))

    assert run("show", making.REF, f"--store={place.root}").exit_code == 0
    (shown,) = json.loads(run("show", making.REF, f"--store={place.root}", "--json").stdout)
    assert shown["problem"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("show",), 2),
        (("show", "???", "--root=/nowhere"), 2),
        (("show", "--store=/nowhere"), 1),
        (("forget", "app:1", "--root=/nowhere"), 3),
        (("record", "app:1", "--store=/nowhere"), 1),
        (("record", "app:1"), 2),
    ],
)
def test_what_cannot_be_ends_in_one_line(words, status, monkeypatch) -> None:
    monkeypatch.delenv("UIMGACC_STORE", raising=False)
    monkeypatch.delenv("UIMGACC_ROOT", raising=False)
    result = run(*words)

    assert result.exit_code == status
    assert "Traceback" not in result.output
