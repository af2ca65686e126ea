"""Maps of ids: what labels say, and how files of one owner appear as another's."""

import random

import pytest

from agent.model import keys
from agent.mounts.idmaps import id_ranges

ONE = id_ranges.parse("0:100000:65536 0:200000:65536")


def labels(uids: str, gids: str) -> dict[str, str]:
    return {keys.UID_MAPPING: uids, keys.GID_MAPPING: gids}


def test_the_labels_of_an_ordinary_container_ask_for_nothing() -> None:
    assert id_ranges.of_labels({keys.SNAPSHOT_REF: "sha256:1"}) is None


def test_one_range_as_the_kubelet_gives_it() -> None:
    maps = id_ranges.of_labels(labels("0:65536:65536", "0:131072:65536"))

    assert maps is not None
    assert maps.root == (65536, 131072)
    assert id_ranges.kernel_text(maps.gids) == "0 131072 65536\n"


def test_several_ranges_as_ctr_gives_them() -> None:
    maps = id_ranges.of_labels(labels("0:666:1000,1000:6666:64536", "1000:8888:64536,0:888:1000"))

    assert maps is not None
    assert maps.root == (666, 888)
    assert id_ranges.kernel_text(maps.uids) == "0 666 1000\n1000 6666 64536\n"
    assert id_ranges.parse(maps.text) == maps


@pytest.mark.parametrize(
    "uids",
    [
        "",
        "0:100000",
        "-1:-1:-2",
        "1:1:1,-1:-1:-2",
        "0:0:0",
        "0:4294967000:65536",
        "0:99999999999:1",
        "0:100000:65536,",
        "0:100000:65536 0:0:1",
        "1000:100000:65536",
        "0:100000:65536,5:900000:5",
        "0:100000:65536,65536:100001:1",
        ",".join(f"{at}:{at + 1000}:1" for at in range(341)),
    ],
)
def test_maps_that_no_namespace_can_have_are_refused(uids: str) -> None:
    for given in (labels(uids, "0:1:1"), labels("0:1:1", uids)):
        with pytest.raises(id_ranges.IdMapError):
            id_ranges.of_labels(given)


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(id_ranges.IdMapError, match="only one"):
        id_ranges.of_labels({keys.UID_MAPPING: "0:1:1"})


def shown(ranges: id_ranges.Ranges, id_: int) -> int | None:
    found = [
        each.outside + id_ - each.inside
        for each in ranges
        if each.inside <= id_ < each.inside + each.length
    ]
    return found[0] if found else None


def some_maps(source: random.Random) -> id_ranges.IdMaps:
    """Ranges over small ids, in any order."""

    def ranges() -> str:
        cuts = sorted(source.sample(range(1, 60), 3))
        lengths = [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1]]
        starts = [0, cuts[0], cuts[1]]
        order = source.sample(range(3), 3)
        outside = {at: 1000 + 100 * place for place, at in enumerate(order)}
        return ",".join(f"{starts[at]}:{outside[at]}:{lengths[at]}" for at in order)

    return id_ranges.parse(f"{ranges()} {ranges()}")


def test_files_of_one_namespace_appear_in_another_one_as_they_did_in_the_first() -> None:
    source = random.Random(1)
    for _ in range(50):
        stored, wanted = some_maps(source), some_maps(source)
        made = id_ranges.between(stored, wanted)
        assert made is not None
        for id_ in range(70):
            on_disk, meant = shown(stored.uids, id_), shown(wanted.uids, id_)
            if on_disk is not None:
                assert shown(made.uids, on_disk) == meant
        undone = id_ranges.between(stored, None)
        assert undone is not None
        assert [shown(undone.uids, shown(stored.uids, id_) or -1) for id_ in range(3)] == [0, 1, 2]


def test_what_has_the_right_owners_already_is_not_mapped() -> None:
    assert id_ranges.between(ONE, ONE) is None
    assert id_ranges.between(None, None) is None
    assert id_ranges.between(None, ONE) == ONE
