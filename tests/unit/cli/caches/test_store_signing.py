"""Keys and signatures of a store without a cluster, as a person makes them."""

import json
import pathlib
import stat

import pytest
from typer import testing

from agent.cli import commands
from agent.store import layout, trusted_keys
from agent.store.publish import writer
from tests.unit.store import making

RUNNER = testing.CliRunner()


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    return place


def run(*arguments: object) -> tuple[int, str]:
    result = RUNNER.invoke(commands.app, ["store", *map(str, arguments)])
    return result.exit_code, result.output


def generate(place: layout.Layout, folder: pathlib.Path, name: str = "key") -> pathlib.Path:
    key = folder / f"{name}.pem"
    status, text = run(
        "keygen", "--store", place.root, "--key", key, "--keys", folder / "keys.json"
    )
    assert status == 0, text
    return key


def is_signed(place: layout.Layout, keys: pathlib.Path) -> bool:
    status, text = run("check", "--store", place.root, "--quick", "--keys", keys, "--json")
    kinds = {finding["kind"] for finding in json.JSONDecoder().raw_decode(text)[0]["findings"]}
    assert (status == 0) is ("unsigned" not in kinds)
    return "unsigned" not in kinds


def test_a_store_is_signed_and_verified(place, tmp_path) -> None:
    key = generate(place, tmp_path)
    assert not is_signed(place, tmp_path / "keys.json")

    status, text = run("sign", "--store", place.root, "--key", key)
    assert (status, "6 records signed" in text) == (0, True)
    assert is_signed(place, tmp_path / "keys.json")
    assert is_signed(place, tmp_path)


def test_signing_says_what_it_did_to_programs_too(place, tmp_path) -> None:
    key = generate(place, tmp_path)
    run("sign", "--store", place.root, "--key", key)
    _, text = run("sign", "--store", place.root, "--key", key, "--json")

    done = json.loads(text)
    assert (done["signed"], done["kept"], done["unreadable"]) == (0, 6, 0)


def test_damage_is_not_signed_and_is_said(place, tmp_path) -> None:
    key = generate(place, tmp_path)
    place.chain_record(making.digest("a")).write_text("{")
    status, text = run("sign", "--store", place.root, "--key", key)

    assert status == 1
    assert "store check" in text


def test_the_private_key_is_for_its_owner_only_and_never_overwritten(place, tmp_path) -> None:
    key = generate(place, tmp_path)
    before = key.read_bytes()
    status, text = run(
        "keygen", "--store", place.root, "--key", key, "--keys", tmp_path / "keys.json"
    )

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (status, key.read_bytes()) == (2, before)
    assert "never overwritten" in text


def test_a_second_key_is_added_to_the_document(place, tmp_path) -> None:
    """A rotation by hand: publish, sign, take the first one out."""
    first = generate(place, tmp_path)
    run("sign", "--store", place.root, "--key", first)
    second = generate(place, tmp_path, "second")
    assert is_signed(place, tmp_path / "keys.json")

    run("sign", "--store", place.root, "--key", second)
    (document,) = trusted_keys.read(tmp_path / "keys.json")
    assert len(document.keys) == 2


def test_keys_of_another_store_are_refused(place, tmp_path) -> None:
    generate(place, tmp_path)
    writer.create(tmp_path / "other")
    other = tmp_path / "other"
    status, text = run("check", "--store", other, "--keys", tmp_path / "keys.json")
    assert (status, "has no key of the store" in text) == (2, True)

    more = tmp_path / "more.pem"
    status, text = run("keygen", "--store", other, "--key", more, "--keys", tmp_path / "keys.json")
    assert (status, "another store" in text) == (2, True)
    assert not more.exists()


def test_what_is_no_key_is_named(place, tmp_path) -> None:
    (tmp_path / "x").write_text("x")
    status, text = run("sign", "--store", place.root, "--key", tmp_path / "x")

    assert (status, "not an Ed25519 private key" in text) == (1, True)
