"""`uimgacc store prune`: everything at once, and kill -9 at each of its steps."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from agent.model import records
from agent.store import integrity, layout
from agent.store.gc import generations, prune_now
from agent.store.publish import build_claims, writer
from tests.unit.store import making

POINTS = [
    ("agent.store.gc.generations:plan", 1),
    ("agent.store.gc.generations:move", 2),
    ("agent.store.gc.generations:remove", 5),
    ("agent.store.gc.generations:publish_newest", 1),
]
CASES = [
    pytest.param(point, when, number, id=f"{point.partition(':')[2]}-{when}-{number}")
    for point, most in POINTS
    for when in ("before", "after")
    for number in range(1, most + 1)
]


@pytest.fixture
def place(tmp_path: pathlib.Path) -> layout.Layout:
    place = making.store(tmp_path)
    making.cache(place, "imc-one", making.image(place, "base", "one", ref="r.io/one:1"))
    making.cache(place, "imc-two", making.image(place, "base", "two", ref="r.io/two:1"))
    writer.delete_cache(place, "imc-one")
    return place


def stored(place: layout.Layout) -> set[str]:
    return {f"sha256:{path.stem}" for path in place.layer_files.glob("*/*")}


WANTED = {making.digest("base"), making.digest("two")}


def test_all_that_no_cache_names_goes(place) -> None:
    size = place.layer(making.digest("one")).stat().st_size

    assert prune_now.prune(place, min_age=0.0) == prune_now.Pruned(1, size)
    assert stored(place) == WANTED
    assert list(integrity.check(place)) == []


def test_what_is_young_stays(place) -> None:
    assert prune_now.prune(place, min_age=60.0) == prune_now.Pruned(0, 0)
    assert stored(place) > WANTED


@pytest.mark.parametrize("days", [-3, 3])
def test_what_is_young_is_so_by_the_server_s_clock(place, monkeypatch, days: int) -> None:
    skewed = time.time() + days * writer.DAY
    monkeypatch.setattr(time, "time", lambda: skewed)

    assert prune_now.prune(place, min_age=60.0) == prune_now.Pruned(0, 0)
    for folder, _, names in os.walk(place.root):
        for name in names:
            os.utime(f"{folder}/{name}", (0, 0))
    assert prune_now.prune(place, min_age=60.0).layers == 1


def test_what_a_build_counts_on_stays(place) -> None:
    with build_claims.Claim(place, "imc-new") as claim:
        claim.add([making.digest("one")])

        assert prune_now.prune(place, min_age=0.0).layers == 0


def test_each_decision_settles_where_others_may_write_too(place) -> None:
    pauses: list[float] = []

    prune_now.prune(place, min_age=0.0, settle=5.0, sleep=pauses.append)

    assert pauses == [5.0, 5.0]


def test_a_store_that_nodes_read_is_not_pruned(place) -> None:
    known = records.NodesRecord(nodes={"n1": records.KnownNode(acknowledged=0, seen=0.0)})
    place.nodes_record.write_bytes(records.encode(known))

    with pytest.raises(prune_now.NodesReadStore, match=r"1 nodes of a cluster .*n1"):
        prune_now.prune(place, min_age=0.0)
    assert stored(place) > WANTED


@pytest.mark.parametrize(("point", "when", "number"), CASES)
def test_killed_at(place, point: str, when: str, number: int) -> None:
    arguments = ["store", "prune", "--older-than", "0", "--store", str(place.root)]
    died = subprocess.run(
        [sys.executable, "-m", "tests.crashing", point, when, str(number), *arguments],
        env={**os.environ, "TMPDIR": str(place.root.parent)},
        stdout=subprocess.DEVNULL,
        timeout=60,
    ).returncode

    assert died in (-9, 0)  # 0: there are fewer such steps.
    assert [one for one in integrity.check(place) if one.kind is integrity.Kind.MISSING] == []
    prune_now.prune(place, min_age=0.0)
    assert stored(place) == WANTED
    assert generations.outstanding(place).phases == {}
    assert list(integrity.check(place)) == []
