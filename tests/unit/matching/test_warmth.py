"""Which images a node has present before any pod: bounded, fair, and by its labels."""

import msgspec
import pytest

from agent.matching import warmth
from agent.model import caches
from tests.unit.matching import making


def warm(cache_id: str, *names: str, created: str = "2026-01-01", **fields) -> caches.Cache:
    cache = making.cache(cache_id, [(name, "ab") for name in names], created=f"{created}T00:00:00Z")
    fields = {"keep_warm": True, **fields}
    return caches.cache_of(msgspec.structs.replace(cache.record, **fields))


def names(*found: warmth.WarmImage) -> list[str]:
    return [
        image.name.removeprefix("docker.io/library/").removesuffix(":latest") for image in found
    ]


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, ["nginx"]),
        ({"pool": "gpu"}, {"pool": "gpu", "zone": "a"}, ["nginx"]),
        ({"pool": "gpu"}, {"pool": "cpu"}, []),
        ({"pool": "gpu", "zone": "a"}, {"pool": "gpu"}, []),
        ({"pool": ""}, {}, []),
    ],
)
def test_a_node_with_all_labels_is_warm(selector, labels, expected) -> None:
    found = warmth.wanted([warm("imc-a1", "nginx", node_selector=selector)], labels)

    assert names(*found) == expected


def test_a_cache_that_does_not_say_so_warms_no_node() -> None:
    assert warmth.wanted([warm("imc-a1", "nginx", keep_warm=False)], {}) == ()


def test_caches_take_turns_after_what_the_node_names() -> None:
    views = [
        warm("imc-b2", "b1", "b2", created="2026-02-01"),
        warm("imc-a1", "a1", "a2", "a3", created="2026-01-01"),
    ]

    found = warmth.wanted(views, {}, ["own", "b2", "not an image"])

    assert names(*found) == ["own", "b2", "not an image", "a1", "b1", "a2", "a3"]
    assert [image.cache_id for image in found[:4]] == ["", "", "", "imc-a1"]
    assert [bool(image.problem) for image in found] == [False, False, True, *[False] * 4]


def test_beyond_its_bound_a_node_says_so() -> None:
    many = [f"i{at:02}" for at in range(warmth.MOST + 2)]

    found = warmth.wanted([warm("imc-a1", *many[:30]), warm("imc-b1", *many[30:])], {})

    assert [bool(image.problem) for image in found] == [*[False] * warmth.MOST, True, True]


def test_only_what_serves_all_namespaces_is_open() -> None:
    reference, target = making.reference("nginx"), making.target("nginx", "ab")
    private = warm("imc-a1", "nginx", namespaces=["team"])

    assert warmth.is_held([private], reference, target)
    assert not warmth.is_open([private], reference, target)
    assert warmth.is_open([private, warm("imc-b1", "nginx", keep_warm=False)], reference, target)
    assert not warmth.is_held([private], reference, making.target("nginx", "abc"))
