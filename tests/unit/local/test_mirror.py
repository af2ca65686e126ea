"""The mirrored records: what is kept, what goes, and what counts as complete."""

import os
import pathlib
import shutil

import msgspec
import pytest

from agent.local import mirror
from agent.model import digests, images, records
from agent.store import layout
from tests.unit.store import making

OTHER = "registry.io/team/other:1"


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    place = making.store(tmp_path / "store")
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    making.cache(place, "imc-two", making.image(place, "a", "c", ref=OTHER))
    return place


@pytest.fixture
def here(place, tmp_path) -> mirror.Mirror:
    """Everything of the store."""
    shutil.copytree(place.root, tmp_path / "local")
    made = mirror.Mirror(tmp_path / "local")
    for path in made.layout.layer_records.rglob("*.json"):
        os.utime(path, (0, 0))
    return made


def image_name(here: mirror.Mirror, ref: str) -> str:
    path = here.layout.image_record(images.parse_reference(ref))
    return str(path.relative_to(here.layout.root))


def record_of(here: mirror.Mirror, name: str) -> pathlib.Path:
    return here.layout.layer_record(making.digest(name))


def test_what_an_image_needs_stays(here) -> None:
    before = sorted(here.layout.root.rglob("*"))

    here.sweep()

    assert sorted(here.layout.root.rglob("*")) == before


def test_with_an_image_goes_what_only_it_needs(here) -> None:
    shutil.rmtree(here.layout.layer_files)
    here.remove([image_name(here, OTHER)])

    here.sweep()

    chains = digests.chain_ids([making.digest("a"), making.digest("c")])
    assert not here.layout.chain_record(chains[1]).exists()
    assert not record_of(here, "c").exists()
    assert not here.layout.cache_record("imc-two").exists()
    assert record_of(here, "a").exists()
    assert here.layout.cache_record("imc-one").exists()
    assert all(
        here.layout.blob(digests.sha256(data)).exists() is (ref == making.REF)
        for ref in (making.REF, OTHER)
        for data in making.blobs(ref)
    )


def test_a_copy_s_record_stays_until_it_goes(here) -> None:
    here.remove([image_name(here, OTHER)])

    here.sweep()

    assert record_of(here, "c").exists()
    here.layout.layer(making.digest("c")).unlink()
    here.sweep()
    assert not record_of(here, "c").exists()


def test_so_does_one_of_a_copy_that_is_being_made(here) -> None:
    shutil.rmtree(here.layout.layer_files)
    here.remove([image_name(here, OTHER)])
    os.utime(record_of(here, "c"))

    here.sweep()

    assert record_of(here, "c").exists()


def test_a_deleted_layer_keeps_its_record_while_there_is_a_copy(here) -> None:
    name = str(record_of(here, "a").relative_to(here.layout.root))

    here.remove([name])

    assert record_of(here, "a").exists()
    here.layout.layer(making.digest("a")).unlink()
    here.remove([name])
    assert not record_of(here, "a").exists()


def test_the_images_that_were_used_last_are_kept(here, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "MOST_IMAGES", 1)
    os.utime(here.layout.root / image_name(here, OTHER), (0, 0))

    here.sweep()

    assert here.images() == [image_name(here, making.REF)]


def test_records_are_written_where_they_differ(here, place) -> None:
    name = image_name(here, making.REF)
    (here.layout.root / name).write_bytes(b"torn")

    here.put({name: (place.root / name).read_bytes()})

    assert (here.layout.root / name).read_bytes() == (place.root / name).read_bytes()
    assert not list(here.layout.tmp.iterdir())


def test_a_record_of_other_bytes_than_the_copy_s_is_not_taken(here) -> None:
    path = record_of(here, "a")
    record = records.decode(path.read_bytes(), records.LayerRecord, "")
    other = msgspec.structs.replace(record, sha256=making.digest("other bytes"))

    here.put({str(path.relative_to(here.layout.root)): records.encode(other)})

    assert not path.exists()


def test_what_else_changes_in_it_is(here) -> None:
    path = record_of(here, "a")
    record = records.decode(path.read_bytes(), records.LayerRecord, "")
    public = records.encode(msgspec.structs.replace(record, public=True))

    here.put({str(path.relative_to(here.layout.root)): public})

    assert path.read_bytes() == public


@pytest.mark.parametrize(
    ("change", "stays"),
    [({}, True), ({"id": "another"}, False), ({"cluster": "of-others"}, False)],
)
def test_the_records_of_another_store_go(here, place, change, stays) -> None:
    record = records.decode(place.store_record.read_bytes(), records.StoreRecord, "")

    here.belongs_to(records.encode(msgspec.structs.replace(record, **change)))

    assert bool(here.images()) is stays
    assert here.layout.store_record.exists()


def test_they_go_also_if_this_is_killed_meanwhile(here, place, monkeypatch) -> None:
    record = records.decode(place.store_record.read_bytes(), records.StoreRecord, "")
    another = records.encode(msgspec.structs.replace(record, id="another"))
    unlink = pathlib.Path.unlink
    left = [3]

    def killed(path: pathlib.Path, *, missing_ok: bool = False) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            here.belongs_to(another)
    here.belongs_to(another)

    kept = here.layout.root.rglob("*.json")
    assert list(kept) == [here.layout.store_record]


def test_a_damaged_record_of_the_store_here_is_replaced(here, place) -> None:
    here.layout.store_record.write_bytes(b"torn")

    assert not here.belongs_to(place.store_record.read_bytes())
    assert here.belongs_to(place.store_record.read_bytes())


def without_copy(here: mirror.Mirror) -> None:
    here.layout.layer(making.digest("b")).unlink()


def copy_cut_off(here: mirror.Mirror) -> None:
    here.layout.layer(making.digest("b")).write_bytes(b"short")


def without_config(here: mirror.Mirror) -> None:
    here.layout.blob(digests.sha256(making.blobs(making.REF)[2])).unlink()


def damaged(here: mirror.Mirror) -> None:
    path = record_of(here, "b")
    record = records.decode(path.read_bytes(), records.LayerRecord, "")
    path.write_bytes(records.encode(msgspec.structs.replace(record, damaged="wrong")))


def test_an_image_is_complete(here) -> None:
    assert sorted(here.complete()) == sorted([making.REF, OTHER])


@pytest.mark.parametrize("spoil", [without_copy, copy_cut_off, without_config, damaged])
def test_an_image_that_lacks_something_is_not(here, spoil) -> None:
    spoil(here)

    assert here.complete() == [OTHER]


def test_an_empty_folder_has_nothing(tmp_path) -> None:
    here = mirror.Mirror(tmp_path / "local")

    here.sweep()

    assert here.images() == here.complete() == []
    assert here.names() == ([], [])
