"""Trees for the layers of a store that an earlier version filled."""

import pytest

from agent.store import hash_tree, integrity, layer_sources
from agent.store.lookup import direct_reader
from agent.store.publish import layer_trees, layer_writer
from tests.unit.store import making


@pytest.fixture
def place(tmp_path):
    place = making.store(tmp_path)
    making.image(place, "old", "older")
    making.layer(place, "new", has_tree=True)
    making.image(place, "new", ref="registry.io/team/new:1")
    return place


def verity_of(place, name: str):
    record = direct_reader.Reader(place).layer(making.digest(name))
    assert record is not None
    return record.verity


def test_layers_without_a_tree_get_one_and_others_keep_theirs(place) -> None:
    known = verity_of(place, "new")

    made = list(layer_trees.make(place))

    assert {one.diff_id for one in made} == {making.digest("old"), making.digest("older")}
    assert not any(one.fault for one in made)
    assert verity_of(place, "new") == known
    assert list(integrity.check(place)) == []
    for name in ("old", "older"):
        verity = verity_of(place, name)
        assert verity.offset == 0
        assert hash_tree.fault(place.layer_tree(making.digest(name)), verity) is None
    assert list(layer_trees.make(place)) == []
    assert list(place.tmp.iterdir()) == []


def test_what_is_not_what_was_built_is_marked_and_gets_no_tree(place) -> None:
    """Else nodes would verify that they run what somebody has put there."""
    path = place.layer(making.digest("old"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    faults = {one.diff_id: one.fault for one in layer_trees.make(place) if one.fault}

    assert set(faults) == {making.digest("old")}
    assert "sha256" in faults[making.digest("old")]
    assert direct_reader.Reader(place).layer(making.digest("old")) is None
    assert not place.layer_tree(making.digest("old")).exists()


def test_a_run_that_was_cut_off_is_repeated(place) -> None:
    """The tree is at its place, the record does not name it yet."""
    chosen = hash_tree.Parameters.of(making.digest("old"))
    path = place.layer(making.digest("old"))
    hash_tree.beside(path, place.layer_tree(making.digest("old")), chosen)

    assert not any(one.fault for one in layer_trees.make(place))
    assert verity_of(place, "old") is not None


def test_a_layer_that_is_deleted_meanwhile_leaves_nothing(place, monkeypatch) -> None:
    real = hash_tree.beside

    def beside(layer, draft, chosen, **options):
        sealed = real(layer, draft, chosen, **options)
        place.layer_record(chosen_of[chosen]).unlink()
        layer.unlink()
        return sealed

    chosen_of = {
        hash_tree.Parameters.of(making.digest(name)): making.digest(name)
        for name in ("old", "older")
    }
    monkeypatch.setattr(hash_tree, "beside", beside)

    assert [one.fault for one in layer_trees.make(place)] == [
        "it was deleted, or built again, meanwhile"
    ] * 2
    assert not place.layer_tree(making.digest("old")).exists()
    assert list(place.tmp.iterdir()) == []


@pytest.mark.parametrize("first", [False, True])
def test_a_layer_that_is_built_again_meanwhile_keeps_its_record(place, monkeypatch, first) -> None:
    """Else a sound layer is called damaged, or has the tree of other bytes: nodes give it up."""
    real = hash_tree.beside
    diff_id = making.digest("old")
    path = place.layer(diff_id)

    def rebuild() -> None:
        place.layer_record(diff_id).unlink()
        path.unlink()
        making.layer(place, "old", has_tree=True)

    def beside(layer, draft, chosen, **options):
        if layer != path:
            return real(layer, draft, chosen, **options)
        if first:
            rebuild()
        sealed = real(layer, draft, chosen, **options)
        if not first:
            rebuild()
        return sealed

    monkeypatch.setattr(hash_tree, "beside", beside)
    faults = {one.diff_id: one.fault for one in layer_trees.make(place)}

    assert "built again" in faults[diff_id]
    record = direct_reader.Reader(place).layer(diff_id)
    assert record is not None
    assert record.verity is not None
    assert record.verity.offset
    assert not place.layer_tree(diff_id).exists()


def test_blobs_that_a_build_has_noted_meanwhile_are_kept(place, monkeypatch) -> None:
    real = hash_tree.beside

    def beside(layer, draft, chosen, **options):
        record = direct_reader.Reader(place).layer(making.digest("older"))
        assert record is not None
        origin = layer_sources.Origin("registry.io/b", making.digest("b"), is_public=False)
        layer_writer.add_origin(place, record, origin)
        return real(layer, draft, chosen, **options)

    monkeypatch.setattr(hash_tree, "beside", beside)

    list(layer_trees.make(place))

    record = direct_reader.Reader(place).layer(making.digest("older"))
    assert record is not None
    assert making.digest("b") in record.blobs
    assert record.verity is not None


def test_progress_comes_to_its_end(place) -> None:
    seen = []

    list(layer_trees.make(place, progress=lambda done, total: seen.append((done, total))))

    assert seen[-1][0] == seen[-1][1] > 0
