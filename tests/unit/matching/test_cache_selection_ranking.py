"""Which cache is reported: the order of each cloud, criterion by criterion."""

import itertools

import pytest

from agent.model import caches
from tests.unit.matching import making

NATIVE = {"uimgacc.io/image-cache": "auto"}
ALIBABA = {"k8s.aliyun.com/eci-image-cache": "true"}
TENCENT = {"eks.tke.cloud.tencent.com/use-image-cache": "auto"}

ENOUGH = making.cache("imc-enough", [("nginx:1", "ab"), ("redis:7", "d")])
ONE = making.cache("imc-one", [("nginx:1", "ab")])
OTHER_TAG = making.cache("imc-tag", [("nginx:2", "ac"), ("redis:6", "e")])
SAME_LAYERS = making.cache("imc-aaa", [("nginx:2", "ab"), ("redis:6", "d")])
LARGE = making.cache(
    "imc-large",
    [("nginx:1", "ab"), ("redis:7", "d"), ("mysql:8", "xyz")],
    created="2026-05-01T00:00:00Z",
    capacity_gib=40,
)
NEWER = making.cache(
    "imc-newer", [("nginx:1", "ab"), ("redis:7", "d")], created="2026-05-01T00:00:00Z"
)
NEWER_BY_HALF_A_SECOND = making.cache(
    "imc-half", [("nginx:1", "ab"), ("redis:7", "d")], created="2026-05-01T00:00:00.5+00:00"
)
SMALL_OTHER_TAG = making.cache("imc-small", [("nginx:2", "a")])


@pytest.mark.parametrize(
    ("asked", "better", "worse", "why"),
    [
        pytest.param(ALIBABA, ENOUGH, ONE, "fewer of the pod's images", id="alibaba-degree"),
        pytest.param(ALIBABA, ONE, OTHER_TAG, "match fully", id="alibaba-version"),
        pytest.param(ALIBABA, ENOUGH, LARGE, "size is farther", id="alibaba-size"),
        pytest.param(ALIBABA, NEWER, ENOUGH, "is older", id="alibaba-newest"),
        pytest.param(ALIBABA, NEWER_BY_HALF_A_SECOND, NEWER, "is older", id="alibaba-fraction"),
        pytest.param(TENCENT, ENOUGH, ONE, "by name", id="tencent-name"),
        pytest.param(TENCENT, ONE, SMALL_OTHER_TAG, "by their tag", id="tencent-tag"),
        pytest.param(TENCENT, ENOUGH, LARGE, "is larger", id="tencent-smaller"),
        pytest.param(TENCENT, NEWER, ENOUGH, "is older", id="tencent-newer"),
        pytest.param(NATIVE, ENOUGH, ONE, "covers fewer bytes", id="native-bytes"),
        pytest.param(ALIBABA, ENOUGH, SAME_LAYERS, "by their tag", id="alibaba-same-layers"),
        pytest.param(NATIVE, ENOUGH, SAME_LAYERS, "by their tag", id="native-then-degree"),
        pytest.param(NATIVE, ENOUGH, LARGE, "size is farther", id="native-then-size"),
        pytest.param(NATIVE, NEWER, ENOUGH, "is older", id="native-then-newest"),
    ],
)
def test_the_better_is_reported_and_the_other_has_a_reason(
    asked: dict[str, str], better: caches.Cache, worse: caches.Cache, why: str
) -> None:
    for order in itertools.permutations([better, worse]):
        decision = making.decide(
            making.pod("nginx:1", "redis:7", annotated=asked),
            order,
            [making.image("nginx:1", "ab"), making.image("redis:7", "d")],
        )

        assert decision.reported == better.id
        first, second = decision.candidates
        assert (first.cache_id, first.rank, first.chosen) == (better.id, 1, True)
        assert (second.cache_id, second.rank, second.chosen) == (worse.id, 2, False)
        assert why in second.reasons[0]


def test_native_takes_bytes_where_alibaba_takes_the_number_of_images() -> None:
    many_small = making.cache("imc-small", [("a:1", "a"), ("b:1", "b")])
    one_large = making.cache("imc-large", [("c:1", "z")])
    stored = [making.image("a:1", "a"), making.image("b:1", "b"), making.image("c:1", "z")]
    reported = [
        making.decide(
            making.pod("a:1", "b:1", "c:1", annotated=asked), [many_small, one_large], stored
        ).reported
        for asked in (NATIVE, ALIBABA)
    ]

    assert reported == ["imc-large", "imc-small"]


def test_alibaba_matches_by_layers_as_well_as_by_name() -> None:
    """Its API calls a match full when the layers of the cache contain those of the image."""
    decision = making.decide(
        making.pod("mirror.example.com/nginx:1", annotated=ALIBABA),
        [making.cache("imc-a12", [("nginx:1", "ab")])],
        [making.image("mirror.example.com/nginx:1", "ab")],
    )

    assert decision.candidates[0].full == 1
    assert decision.registrable == ()


def test_tencent_matches_by_name_alone() -> None:
    decision = making.decide(
        making.pod("mirror.example.com/nginx:1", annotated=TENCENT),
        [making.cache("imc-a12", [("nginx:1", "ab")])],
        [making.image("mirror.example.com/nginx:1", "ab")],
    )

    assert decision.reported == ""
    assert decision.candidates[0].rank is None
