"""What a node has itself is served without the store, by the same rules."""

import os
import pathlib
import shutil
import time

import msgspec
import pytest

from agent.model import digests, images, records, reports
from agent.mounts.devices import layer_mounting
from agent.snapshotter.lookup import (
    answers,
    layer_rules,
    near_lookup,
    store_lookup,
    store_worker,
)
from agent.store import layout, signing_keys, trusted_keys
from agent.store.lookup import chain_index, layer_permissions
from tests.unit.store import making, signing

A, B = making.digest("a"), making.digest("b")
TOP = digests.chain_ids([A, B])[1]
AGENT = layer_permissions.Requester(is_agent=True)
OWN = layer_permissions.Requester(image=images.parse_reference(making.REF))
OTHER = layer_permissions.Requester(image=images.parse_reference("registry.io/other:1"))


class Pool:
    """Runs the worker's operations in this process, and notes them; `error` is the store's."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.mounted: list[str] = []
        self.error: Exception | None = None

    def mount(self, source: str, target: str, *_: object) -> int:
        self.mounted.append(source)
        return os.stat(target).st_dev

    async def call(self, operation: str, *arguments, deadline: float):
        self.calls.append(operation)
        if self.error is not None:
            raise self.error
        return store_worker.OPERATIONS[operation](*arguments)


@pytest.fixture
def pool(monkeypatch) -> Pool:
    made = Pool()
    monkeypatch.setattr(layer_mounting, "mount_layer", made.mount)
    return made


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    return place


@pytest.fixture
def here(place, tmp_path) -> layout.Layout:
    """The node's own folder, with everything."""
    shutil.copytree(place.root, tmp_path / "local")
    return layout.Layout(tmp_path / "local")


def lookup(
    place: layout.Layout, here: layout.Layout, pool: Pool, keys: trusted_keys.Keys | None = None
) -> near_lookup.NearLookup:
    root = here.root.parent
    (root / "layers").mkdir(exist_ok=True)
    conditions = layer_rules.Conditions(
        layer_rules.Announcement(root / reports.ANNOUNCED), keys=keys or trusted_keys.Keys()
    )
    store = store_lookup.StoreLookup(
        place,
        pool,  # type: ignore[arg-type]
        conditions,
        mounts=layer_mounting.Place(f"{root}/layers"),
        deadline=9,
    )
    return near_lookup.NearLookup(here.root, store, conditions)


@pytest.mark.parametrize("whole", [True, False])
async def test_what_is_here_is_served_without_the_store(place, here, pool, whole) -> None:
    hit = await lookup(place, here, pool).find(TOP, OWN, whole=whole)

    assert isinstance(hit, answers.Hit)
    names = [B, A] if whole else [B]
    assert [(each.diff_id, each.path) for each in hit.layers] == [
        (name, place.layer(name)) for name in names
    ]
    assert pool.calls == []


async def test_with_a_store_that_hangs_too(place, here, pool) -> None:
    pool.error = OSError(5, "hangs")
    near = lookup(place, here, pool)
    near.pause_after(pool.error)

    assert isinstance(await near.find(TOP, AGENT, whole=True), answers.Hit)
    assert not near.is_out_of_reach([A, B])
    here.layer(A).unlink()
    assert near.is_out_of_reach([A, B])
    assert await near.find(TOP, AGENT, whole=True) == answers.Miss("store_unhealthy")


def without_copy(here: layout.Layout) -> None:
    here.layer(A).unlink()


def copy_cut_off(here: layout.Layout) -> None:
    with here.layer(A).open("ab") as file:
        file.write(b"more")


def without_chain(here: layout.Layout) -> None:
    here.chain_record(A).unlink()


def without_layer_record(here: layout.Layout) -> None:
    here.layer_record(B).unlink()


def without_store_record(here: layout.Layout) -> None:
    here.store_record.unlink()


def torn_chain(here: layout.Layout) -> None:
    here.chain_record(TOP).write_bytes(here.chain_record(TOP).read_bytes()[:-20])


def damaged(here: layout.Layout) -> None:
    path = here.layer_record(A)
    record = records.decode(path.read_bytes(), records.LayerRecord, "")
    path.write_bytes(records.encode(msgspec.structs.replace(record, damaged="wrong bytes")))


def of_another_cluster(here: layout.Layout) -> None:
    record = records.decode(here.store_record.read_bytes(), records.StoreRecord, "")
    here.store_record.write_bytes(records.encode(msgspec.structs.replace(record, cluster="c")))


def its_own_parent(here: layout.Layout) -> None:
    record = records.decode(here.chain_record(TOP).read_bytes(), records.ChainRecord, "")
    own = msgspec.structs.replace(record, parent=TOP)
    here.chain_record(TOP).write_bytes(records.encode(own))


@pytest.mark.parametrize(
    "spoil",
    [
        without_copy,
        copy_cut_off,
        without_chain,
        without_layer_record,
        without_store_record,
        torn_chain,
        damaged,
        of_another_cluster,
        its_own_parent,
    ],
)
async def test_what_is_not_whole_is_asked_of_the_store(place, here, pool, spoil) -> None:
    spoil(here)

    hit = await lookup(place, here, pool).find(TOP, AGENT, whole=True)

    assert isinstance(hit, answers.Hit)
    assert "serve_chain" in pool.calls


async def test_what_the_mirror_does_not_permit_is_decided_by_the_store(place, here, pool) -> None:
    near = lookup(place, here, pool)

    assert await near.find(TOP, OTHER, whole=True) == answers.Miss("not_from_here")
    assert "serve_chain" in pool.calls


async def test_the_mirror_gives_nothing_that_is_not_signed(place, here, pool, tmp_path) -> None:
    key = signing_keys.generate()
    signing.sign(place, key)

    near = lookup(place, here, pool, signing.keys(place, key, tmp_path / "keys"))

    assert isinstance(await near.find(TOP, AGENT, whole=True), answers.Hit)
    assert "serve_chain" in pool.calls


async def test_a_signed_mirror_is_as_good_as_the_store(place, tmp_path, pool) -> None:
    key = signing_keys.generate()
    signing.sign(place, key)
    shutil.copytree(place.root, tmp_path / "local")
    here = layout.Layout(tmp_path / "local")

    near = lookup(place, here, pool, signing.keys(place, key, tmp_path / "keys"))

    assert isinstance(await near.find(TOP, AGENT, whole=True), answers.Hit)
    assert pool.calls == []


async def test_a_layer_whose_bytes_in_the_store_were_wrong_is_left_for_an_hour(
    place, here, pool
) -> None:
    shutil.rmtree(here.layer_files)
    mark = here.root / "damaged" / digests.hex_of(A)
    mark.parent.mkdir()
    mark.touch()
    near = lookup(place, here, pool)

    assert await near.find(TOP, AGENT, whole=True) == answers.Miss("corrupt_layer", mounted=True)

    past = time.time() - 3700
    os.utime(mark, (past, past))
    assert isinstance(await near.find(TOP, AGENT, whole=True), answers.Hit)


def test_the_files_are_not_looked_for_elsewhere(tmp_path: pathlib.Path) -> None:
    assert chain_index.find_chains(str(tmp_path), "0" * 64, 9) is None
