"""Which keys a node has, and what it does with what none of them has signed."""

import logging
import os
import pathlib

import msgspec
import pytest

from agent.model import records
from agent.store import signatures, signing_keys, trusted_keys
from tests.unit.store import making, signing

CHAIN = records.ChainRecord(diff_id=making.digest("a"), parent=None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def document(key: signing_keys.SigningKey, **changes) -> trusted_keys.Document:
    entries = [trusted_keys.entry_of(signing.public(key))]
    return trusted_keys.Document(**{"store": signing.STORE, "keys": entries, **changes})


def put(folder: pathlib.Path, data: bytes) -> None:
    """Replace the files of a ConfigMap as the kubelet does."""
    folder.mkdir(exist_ok=True)
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    (version / trusted_keys.NAME).write_bytes(data)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / trusted_keys.NAME).is_symlink():
        (folder / trusted_keys.NAME).symlink_to(f"..data/{trusted_keys.NAME}")


def statement_of(record: records.ChainRecord) -> signatures.Statement:
    return signatures.of_chain(record.diff_id, record)


def signed(key: signing_keys.SigningKey) -> records.ChainRecord:
    signature = key.sign(statement_of(CHAIN), signing.STORE)
    return msgspec.structs.replace(CHAIN, signatures=[signature])


def test_without_keys_everything_is_accepted(tmp_path) -> None:
    assert trusted_keys.Keys().accept(CHAIN, statement_of)
    assert trusted_keys.Keys(tmp_path / "none").accept(CHAIN, statement_of)


def test_without_keys_nothing_is_accepted_where_that_is_wanted() -> None:
    assert not trusted_keys.Keys(None, "refuse").accept(CHAIN, statement_of)


def test_with_keys_what_is_not_signed_is_refused(tmp_path) -> None:
    key = signing_keys.generate()
    put(tmp_path / "keys", trusted_keys.encode(document(key)))
    keys = trusted_keys.Keys(tmp_path / "keys")

    assert keys.accept(signed(key), statement_of)
    assert not keys.accept(CHAIN, statement_of)
    assert not keys.accept(signed(signing_keys.generate()), statement_of)


def test_a_document_may_accept_it_for_a_while_and_a_setting_for_good(tmp_path) -> None:
    put(tmp_path / "k", trusted_keys.encode(document(signing_keys.generate(), unsigned="accept")))

    assert trusted_keys.Keys(tmp_path / "k").accept(CHAIN, statement_of)
    assert not trusted_keys.Keys(tmp_path / "k", "refuse").accept(CHAIN, statement_of)

    put(tmp_path / "k", trusted_keys.encode(document(signing_keys.generate())))
    assert trusted_keys.Keys(tmp_path / "k", "accept").accept(CHAIN, statement_of)


def test_keys_are_read_again_when_they_change(tmp_path, clock) -> None:
    first, second = signing_keys.generate(), signing_keys.generate()
    put(tmp_path / "k", trusted_keys.encode(document(first)))
    keys = trusted_keys.Keys(tmp_path / "k", clock=clock)
    assert keys.accept(signed(first), statement_of)

    put(tmp_path / "k", trusted_keys.encode(document(second)))
    assert not keys.accept(signed(second), statement_of)
    clock.now += 5
    assert keys.accept(signed(second), statement_of)
    assert not keys.accept(signed(first), statement_of)


def test_keys_that_appear_later_are_found(tmp_path, clock) -> None:
    """The DaemonSet starts before the controller has made a key."""
    keys = trusted_keys.Keys(tmp_path / "k", clock=clock)
    assert keys.accept(CHAIN, statement_of)

    put(tmp_path / "k", trusted_keys.encode(document(signing_keys.generate())))
    clock.now += 5
    assert not keys.accept(CHAIN, statement_of)


def test_to_remove_the_keys_does_not_disarm_a_node(tmp_path, clock) -> None:
    key = signing_keys.generate()
    put(tmp_path / "k", trusted_keys.encode(document(key)))
    keys = trusted_keys.Keys(tmp_path / "k", clock=clock)
    assert not keys.accept(CHAIN, statement_of)

    os.unlink(tmp_path / "k" / trusted_keys.NAME)
    clock.now += 5
    assert not keys.accept(CHAIN, statement_of)
    assert keys.accept(signed(key), statement_of)


def test_a_damaged_document_changes_nothing_on_a_node_that_has_keys(tmp_path, clock) -> None:
    key = signing_keys.generate()
    put(tmp_path / "k", trusted_keys.encode(document(key)))
    keys = trusted_keys.Keys(tmp_path / "k", clock=clock)
    assert keys.accept(signed(key), statement_of)

    put(tmp_path / "k", b"{}")
    clock.now += 5
    assert keys.accept(signed(key), statement_of)
    assert not keys.accept(CHAIN, statement_of)


def test_a_damaged_document_accepts_nothing_on_a_node_that_has_none(tmp_path, clock) -> None:
    put(tmp_path / "k", b"{}")
    keys = trusted_keys.Keys(tmp_path / "k", clock=clock)
    assert not keys.accept(CHAIN, statement_of)

    put(tmp_path / "k", trusted_keys.encode(document(signing_keys.generate(), unsigned="accept")))
    clock.now += 5
    assert keys.accept(CHAIN, statement_of)


def test_a_refusal_is_logged_once_with_what_to_do(tmp_path, caplog) -> None:
    keys = trusted_keys.Keys(None, "refuse")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            keys.accept(CHAIN, statement_of)

    (line,) = caplog.records
    assert "uimgacc store sign" in line.message
    assert line.record == CHAIN.diff_id  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "0" * 16},
        {"ed25519": "AAAA"},
        {"ed25519": "?"},
        {"not_before": "yesterday"},
        {"not_after": "never"},
    ],
)
def test_a_key_that_is_none_is_refused(change) -> None:
    good = document(signing_keys.generate())
    entry = msgspec.structs.replace(good.keys[0], **change)
    data = trusted_keys.encode(msgspec.structs.replace(good, keys=[entry]))

    with pytest.raises(trusted_keys.KeysUnusable):
        trusted_keys.decode(data, "x")


def test_a_document_is_read_as_it_was_written() -> None:
    made = document(signing_keys.generate())

    assert trusted_keys.decode(trusted_keys.encode(made), "x") == made
