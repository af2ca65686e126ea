"""The checker finds each kind of damage, and nothing in a good store."""

import pathlib

import pytest

from agent.model import images
from agent.store import integrity, layout
from agent.store.gc import collection
from agent.store.publish import writer
from tests.unit.store import making


@pytest.fixture
def place(tmp_path) -> layout.Layout:
    place = making.store(tmp_path)
    making.cache(place, "imc-one", making.image(place, "a", "b"))
    return place


def found(place: layout.Layout, **options) -> set[tuple[str, pathlib.Path]]:
    return {(one.kind.value, one.path) for one in integrity.check(place, **options)}


def test_a_good_store_has_no_findings(place) -> None:
    assert found(place) == set()


def test_progress_comes_to_its_end(place) -> None:
    seen = []

    list(integrity.check(place, progress=lambda done, total: seen.append((done, total))))

    assert seen[-1][0] == seen[-1][1] > 0


def test_a_changed_byte_is_found_only_by_reading(place) -> None:
    path = place.layer(making.digest("a"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert found(place) == {("damaged", path)}
    assert found(place, content=False) == set()


def test_a_cut_file_is_found(place) -> None:
    path = place.layer(making.digest("a"))
    path.write_bytes(path.read_bytes()[:-1])

    assert found(place, content=False) == {("damaged", path)}


def test_a_file_without_superblock_is_found(place) -> None:
    path = place.layer(making.digest("a"))
    path.write_bytes(bytes(path.stat().st_size))

    assert found(place, content=False) == {("damaged", path)}


def test_missing_files_are_found(place) -> None:
    layer = place.layer(making.digest("a"))
    blob = place.blob(making.digest("config of registry.io/team/app:1"))
    layer.unlink()
    blob.unlink()

    assert found(place) == {("missing", layer), ("missing", blob)}


def test_a_layer_without_record_and_a_chain_without_layer_are_found(place) -> None:
    """Missing where an image needs them: to free their space heals nothing."""
    making.layer(place, "alone")
    for name in ("a", "alone"):
        place.layer_record(making.digest(name)).unlink()

    kinds = found(place)

    assert ("missing", place.layer(making.digest("a"))) in kinds
    assert ("missing", place.chain_record(making.digest("a"))) in kinds
    assert ("orphaned", place.layer(making.digest("alone"))) in kinds


def test_a_chain_that_still_names_a_damaged_layer_is_found(place) -> None:
    """Another image's build has made the layer anew; this one is not served until its own does."""
    making.image(place, "a", "c", ref="registry.io/team/other:1")
    place.layer(making.digest("a")).write_bytes(b"short")
    list(integrity.check(place, mark=True))
    new = making.layer(place, "a")

    (finding,) = integrity.check(place)
    assert (finding.kind, finding.path) == (
        integrity.Kind.DAMAGED,
        place.chain_record(making.digest("a")),
    )
    making.image(place, "a", "b")
    assert new.diff_id != making.digest("a")
    assert found(place) == set()


def test_a_store_that_cannot_be_written_is_checked_all_the_same(place, monkeypatch) -> None:
    place.layer(making.digest("a")).write_bytes(b"short")

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agent.kits.files.write", refuse)
    (finding,) = integrity.check(place, mark=True)

    assert "where the store can be written" in finding.fix


def test_a_missing_image_of_a_cache_is_found(place) -> None:
    path = place.image_record(images.parse_reference(making.REF))
    path.unlink()

    assert found(place) == {("missing", path)}


def test_damaged_records_are_found(place) -> None:
    for path in (place.cache_record("imc-one"), place.layer_record(making.digest("a"))):
        path.write_text("{")

    assert {kind for kind, _ in found(place)} == {"damaged"}
    assert len(found(place)) == 2


def test_the_hash_tree_of_a_layer_is_checked(place) -> None:
    """One in the layer file is part of it; one of its own may be changed, cut off, or missing."""
    sealed = making.layer(place, "sealed", has_tree=True)
    path = place.layer(sealed.diff_id)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    beside = [making.layer_with_tree_beside(place, name) for name in ("cut", "gone", "good")]
    tree = place.layer_tree(beside[0].diff_id)
    tree.write_bytes(tree.read_bytes()[:-1])
    place.layer_tree(beside[1].diff_id).unlink()

    assert found(place) == {
        ("damaged", path),
        ("damaged", place.layer(beside[0].diff_id)),
        ("damaged", place.layer(beside[1].diff_id)),
    }


def test_what_belongs_to_no_layer_is_a_leftover(place) -> None:
    layer = making.layer(place, "sealed", has_tree=True)
    making.image(place, "sealed", ref="registry.io/team/sealed:1")
    assert found(place) == set()

    sidecar = place.layer_sidecar(making.digest("a"))
    sidecar.write_text("{}")
    place.layer_sidecar(making.digest("none")).parent.mkdir(exist_ok=True)
    place.layer_sidecar(making.digest("none")).write_text("{}")

    assert place.layer_sidecar(layer.diff_id).exists()
    assert found(place) == {("leftover", place.layer_sidecar(making.digest("none")))}


def test_leftovers_are_told(place) -> None:
    (place.tmp / "x.erofs").write_bytes(b"half")

    assert found(place) == {("leftover", place.tmp / "x.erofs")}


def test_every_finding_has_a_reason_and_a_fix(place) -> None:
    (place.layer_files / "xx").mkdir()
    (place.layer_files / "xx" / "notes.txt").touch()
    place.layer_record(making.digest("a")).unlink()

    findings = list(integrity.check(place))

    assert len(findings) == 3
    assert all(one.reason and one.fix for one in findings)


def test_records_that_hold_up_deletions_are_found(tmp_path) -> None:
    place = making.store(tmp_path)
    place.retired_records.mkdir()
    place.claims.mkdir()
    damaged = [
        place.generation_record,
        place.nodes_record,
        place.retired_records / "000001-0123456789ab.pending",
        place.retired_record(3),
        place.claims / "imc-one.host.json",
    ]
    for path in damaged:
        path.write_bytes(b'{"generation": "x"}')

    found = list(integrity.check(place))

    assert {finding.path for finding in found} == set(damaged)
    assert {finding.kind for finding in found} == {integrity.Kind.DAMAGED}
    assert all("nothing is deleted" in finding.fix for finding in found)


def test_a_store_from_which_something_is_being_deleted_is_sound(tmp_path) -> None:
    place = making.store(tmp_path)
    making.cache(place, "imc-one", making.image(place, "base", "one", ref="r.io/one:1"))
    making.cache(place, "imc-two", making.image(place, "base", "two", ref="r.io/two:1"))
    writer.delete_cache(place, "imc-one")
    settled: tuple[str, ...] = ()
    for _ in range(4):
        orders = collection.Orders(settled=settled, floor=1)
        settled = collection.collect(place, orders).announced

        assert list(integrity.check(place)) == []
