"""A snapshotter that has keys serves what is signed, and mounts nothing else.

What is attacked here is the store: each attack is a writer's, with the store's own format.
"""

import os
import pathlib

import msgspec
import pytest

from agent.model import digests, records, reports
from agent.mounts.devices import layer_mounting
from agent.snapshotter.lookup import answers, layer_rules, store_lookup, store_worker
from agent.store import layout, signing_keys, trusted_keys
from agent.store.lookup import direct_reader, layer_permissions
from tests.unit.store import making, signing

A, B = making.digest("a"), making.digest("b")
TOP = digests.chain_ids([A, B])[1]
AGENT = layer_permissions.Requester(is_agent=True)


class Pool:
    """Runs the worker's operations in this process, and notes what is mounted."""

    def __init__(self) -> None:
        self.mounted: list[str] = []

    def mount(self, source: str, target: str, *_: object) -> int:
        self.mounted.append(pathlib.Path(source).stem)
        return os.stat(target).st_dev

    async def call(self, operation: str, *arguments, deadline: float):
        return store_worker.OPERATIONS[operation](*arguments)


@pytest.fixture
def pool(monkeypatch) -> Pool:
    made = Pool()
    monkeypatch.setattr(layer_mounting, "mount_layer", made.mount)
    return made


@pytest.fixture
def key() -> signing_keys.SigningKey:
    return signing_keys.generate()


@pytest.fixture
def place(tmp_path, key) -> layout.Layout:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    signing.sign(place, key)
    return place


def conditions(folder: pathlib.Path, keys: trusted_keys.Keys) -> layer_rules.Conditions:
    announcement = layer_rules.Announcement(folder / reports.ANNOUNCED)
    return layer_rules.Conditions(announcement, keys=keys)


@pytest.fixture
def lookup(place, key, pool, tmp_path) -> store_lookup.StoreLookup:
    (tmp_path / "layers").mkdir()
    return store_lookup.StoreLookup(
        place,
        pool,  # type: ignore[arg-type]
        conditions(tmp_path, signing.keys(place, key, tmp_path / "keys")),
        mounts=layer_mounting.Place(f"{tmp_path}/layers"),
        deadline=9,
    )


async def test_what_is_signed_is_served(lookup) -> None:
    hit = await lookup.find(TOP, AGENT, whole=True)

    assert isinstance(hit, answers.Hit)
    assert [layer.diff_id for layer in hit.layers] == [B, A]


async def test_nothing_is_mounted_before_it_is_verified(lookup, pool) -> None:
    await lookup.find(TOP, AGENT, whole=True)

    assert pool.mounted == []


async def test_without_keys_a_layer_is_mounted_in_the_look_up(place, pool, tmp_path) -> None:
    (tmp_path / "layers").mkdir()
    plain = store_lookup.StoreLookup(
        place,
        pool,
        conditions(tmp_path, trusted_keys.Keys()),
        mounts=layer_mounting.Place(f"{tmp_path}/layers"),
        deadline=9,
    )

    assert isinstance(await plain.find(TOP, AGENT, whole=False), answers.Hit)
    assert pool.mounted == [digests.hex_of(B)]


def other_bytes(place: layout.Layout) -> None:
    """A file of the attacker's, with the record that it needs."""
    evil = making.erofs(b"evil")
    place.layer(A).unlink()
    place.layer(A).write_bytes(evil)
    record = direct_reader.Reader(place).layer(B)
    assert record is not None
    forged = msgspec.structs.replace(record, diff_id=A, size=len(evil), sha256=digests.sha256(evil))
    place.layer_record(A).write_bytes(records.encode(forged))


def another_layer(place: layout.Layout) -> None:
    """The chain names another layer, which is signed, too."""
    chain = records.ChainRecord(diff_id=B, parent=None, variant_of=A)
    place.chain_record(A).write_bytes(records.encode(chain))


def another_chain_s_signature(place: layout.Layout) -> None:
    other = direct_reader.Reader(place).chain(TOP)
    assert other is not None
    chain = records.ChainRecord(diff_id=B, parent=None, variant_of=A, signatures=other.signatures)
    place.chain_record(A).write_bytes(records.encode(chain))


def twice_the_same_field(place: layout.Layout) -> None:
    """What a reader that searches for the first one sees is not what a parser of JSON sees."""
    path = place.chain_record(A)
    text = path.read_text()
    path.write_text(text.replace("{", f'{{"diff_id": "{B}", ', 1))


def a_key_of_its_own(place: layout.Layout) -> None:
    another_layer(place)
    signing.sign(place, signing_keys.generate())
    chain = direct_reader.Reader(place).chain(A)
    assert chain is not None
    path = place.chain_record(A)
    path.write_bytes(
        records.encode(msgspec.structs.replace(chain, signatures=chain.signatures[:1]))
    )


ATTACKS = [other_bytes, another_layer, another_chain_s_signature, a_key_of_its_own]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_a_writer_has_changed_is_not_served(lookup, place, pool, attack) -> None:
    attack(place)
    assert await lookup.find(A, AGENT, whole=False) == answers.Miss("unsigned", mounted=True)
    assert await lookup.find(TOP, AGENT, whole=True) == answers.Miss("unsigned", mounted=True)
    assert pool.mounted == []


async def test_a_field_that_is_there_twice_is_no_way_around(lookup, place, pool) -> None:
    """The record still says what was signed, whichever of the two was read first."""
    twice_the_same_field(place)
    answer = await lookup.find(A, AGENT, whole=False)

    if isinstance(answer, answers.Hit):
        assert [layer.diff_id for layer in answer.layers] == [A]
    assert digests.hex_of(B) not in pool.mounted


async def test_an_unsigned_layer_does_not_pause_the_store(lookup, place) -> None:
    another_layer(place)

    await lookup.find(A, AGENT, whole=False)
    assert not lookup.is_paused


async def test_what_no_key_has_signed_is_served_where_that_is_accepted(
    place, pool, tmp_path
) -> None:
    another_layer(place)
    (tmp_path / "layers").mkdir()
    accepting = store_lookup.StoreLookup(
        place,
        pool,
        conditions(tmp_path, trusted_keys.Keys(None, "accept")),
        mounts=layer_mounting.Place(f"{tmp_path}/layers"),
        deadline=9,
    )

    assert isinstance(await accepting.find(A, AGENT, whole=False), answers.Hit)
