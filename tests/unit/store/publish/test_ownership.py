import pathlib

import msgspec
import pytest

from agent.model import records
from agent.store import decoding, layout
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import ownership, writer

A, B = "uid-a", "uid-b"


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    writer.create(tmp_path)
    return layout.Layout(tmp_path)


def owner(place: layout.Layout) -> str:
    return direct_reader.open_store(place.root).cluster


def know(place: layout.Layout, *names: str) -> None:
    nodes = {name: records.KnownNode(acknowledged=3, seen=1.0) for name in names}
    place.nodes_record.write_bytes(msgspec.json.encode(records.NodesRecord(nodes=nodes)))


def test_the_first_cluster_has_the_store_and_another_is_refused(place) -> None:
    before = direct_reader.open_store(place.root)

    claimed = ownership.claim(place, A)

    assert claimed == msgspec.structs.replace(before, cluster=A)
    assert ownership.claim(place, A) == claimed
    ownership.verify(place, A)
    with pytest.raises(decoding.ForeignStore, match=f"belongs to cluster {A} .* cluster {B}"):
        ownership.claim(place, B)
    with pytest.raises(decoding.ForeignStore):
        ownership.verify(place, B)
    assert owner(place) == A


def test_a_store_is_not_claimed_while_another_controller_works_in_it(place) -> None:
    with generations.locked(place), pytest.raises(generations.CollectorBusy):
        ownership.claim(place, A)
    assert owner(place) == ""


def test_nodes_of_a_cluster_that_is_gone_are_no_nodes_of_the_next(place) -> None:
    ownership.claim(place, A)
    know(place, "node-1", "node-2")

    assert ownership.release(place) == A

    assert owner(place) == ""
    assert sorted(generations.nodes(place)) == [f"{A}/node-1", f"{A}/node-2"]
    with pytest.raises(decoding.ForeignStore, match="belongs to no cluster any more"):
        ownership.verify(place, A)
    ownership.claim(place, B)
    know(place, "node-1", f"{A}/node-1")
    assert ownership.release(place) == B
    assert sorted(generations.nodes(place)) == [f"{A}/node-1", f"{B}/node-1"]
    assert ownership.release(place) == ""
