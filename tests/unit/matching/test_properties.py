"""What holds for every pod and every store."""

import itertools

import hypothesis
from hypothesis import strategies as st

from agent.matching import annotations, cache_selection, decisions
from agent.model import caches, keys, pods
from tests.unit.matching import making

KEYS = annotations.WORDS
PINS = [keys.CACHE, keys.ALIBABA_PIN, keys.ALIBABA_PIN_LEGACY]

# A small world, so that things meet: each reference has one build in the store.
BUILDS = {
    "nginx:1": "ab",
    "nginx:2": "ac",
    "redis:7": "d",
    "r.example.com/app:1": "abe",
    "empty:1": "",
}
STORED = [making.image(ref, letters) for ref, letters in BUILDS.items()]
IDS = [f"imc-{number:03}" for number in range(6)]

references = st.sampled_from([*BUILDS, "unknown:1", "NOT AN IMAGE", "nginx"])
namespaces = st.sampled_from(["team-a", "team-b"])
values = st.one_of(
    st.sampled_from(["auto", "true", "false", "1", "2", "imc-none", *IDS]), st.text(max_size=20)
)


@st.composite
def cache_views(draw: st.DrawFn) -> list[caches.Cache]:
    ids = draw(st.lists(st.sampled_from(IDS), unique=True))
    return [
        making.cache(
            cache_id,
            [(ref, BUILDS[ref]) for ref in draw(st.lists(st.sampled_from(list(BUILDS))))],
            namespaces=draw(st.none() | st.lists(namespaces, min_size=1, max_size=2)),
            created=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "?"])),
            capacity_gib=draw(st.sampled_from([20, 40])),
        )
        for cache_id in ids
    ]


@st.composite
def any_pod(draw: st.DrawFn) -> pods.Pod:
    return making.pod(
        *draw(st.lists(references, min_size=1, max_size=4)),
        namespace=draw(namespaces),
        annotated=draw(st.dictionaries(st.sampled_from(KEYS), values, max_size=4)),
        secrets=draw(st.lists(st.just("pull"), max_size=1)),
        runtime_class=draw(st.sampled_from(["", "uimgacc", "nvidia"])),
    )


@hypothesis.given(any_pod(), cache_views(), st.data())
def test_the_order_of_the_input_does_not_matter(
    pod: pods.Pod, views: list[caches.Cache], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(views))

    assert making.decide(pod, views, STORED) == making.decide(pod, shuffled, STORED)


@hypothesis.given(any_pod(), cache_views(), st.none() | st.lists(namespaces, min_size=1))
def test_a_cache_with_nothing_for_the_pod_changes_nothing(
    pod: pods.Pod, views: list[caches.Cache], served: list[str] | None
) -> None:
    irrelevant = making.cache("imc-zzz", [("other:1", "xyz")], namespaces=served)

    assert making.decide(pod, views, STORED) == making.decide(pod, [*views, irrelevant], STORED)


@hypothesis.given(any_pod(), cache_views())
def test_only_what_the_namespace_may_use_is_registered(
    pod: pods.Pod, views: list[caches.Cache]
) -> None:
    for image in making.decide(pod, views, STORED).registrable:
        assert image.outcome is decisions.Outcome.HIT
        assert image.reference is not None
        assert image.registrable is not None
        assert any(
            cache.serves(pod.namespace)
            and cache.has_target(image.reference, image.registrable.target)
            for cache in views
        )


@hypothesis.given(any_pod(), cache_views(), st.sampled_from(PINS), st.sampled_from(IDS))
def test_a_pin_beats_automatic_matching(
    pod: pods.Pod, views: list[caches.Cache], key: str, pin: str
) -> None:
    annotated = {
        key: pin,
        keys.ALIBABA_AUTO_LEGACY: "true",
        keys.TENCENT_CACHE: "auto",
    }
    decision = making.decide(
        making.pod(*pod.images, namespace=pod.namespace, annotated=annotated), views, STORED
    )

    assert decision.request.mode is annotations.Mode.EXPLICIT
    assert decision.reported in ("", pin)
    assert {image.cache_id for image in decision.images} <= {"", pin}
    assert decision.auto_create is None


@hypothesis.given(any_pod(), cache_views())
def test_what_is_said_fits_together(pod: pods.Pod, views: list[caches.Cache]) -> None:
    decision = making.decide(pod, views, STORED)
    used = decision.outcome in (decisions.Outcome.HIT, decisions.Outcome.PARTIAL)

    assert used is bool(decision.reported)
    assert 0.0 <= decision.coverage.fraction <= 1.0
    assert [image.image for image in decision.images] == list(pod.images)
    assert len(set(decision.layers)) == len(decision.layers)
    assert sum(candidate.chosen for candidate in decision.candidates) <= 1
    for image in decision.images:
        assert image.reason
        assert image.coverage is None or 0.0 <= image.coverage.fraction <= 1.0
    if decision.auto_create is not None:
        assert decision.outcome is not decisions.Outcome.HIT
        assert decision.auto_create.request.cache_id == decision.auto_create.cache_id


@hypothesis.given(any_pod(), cache_views())
def test_the_ranks_of_candidates_count_from_one(pod: pods.Pod, views: list[caches.Cache]) -> None:
    ranks = [
        candidate.rank
        for candidate in making.decide(pod, views, STORED).candidates
        if candidate.rank is not None
    ]

    assert ranks == list(range(1, len(ranks) + 1))


@hypothesis.given(st.dictionaries(st.sampled_from(KEYS) | st.text(), st.text()))
def test_no_annotation_makes_it_fail(annotated: dict[str, str]) -> None:
    making.decide(making.pod("nginx:1", annotated=annotated), [], STORED)


@hypothesis.given(st.text())
def test_no_image_makes_it_fail(image: str) -> None:
    making.decide(making.pod(image, annotated={keys.CACHE: "auto"}), [], STORED)


@hypothesis.given(cache_views(), st.sampled_from(list(caches.Dialect)), st.data())
def test_ranking_is_a_total_order(
    views: list[caches.Cache], dialect: caches.Dialect, data: st.DataObject
) -> None:
    matches = [
        cache_selection.Match(
            cache=cache,
            exact=data.draw(st.integers(0, 1)),
            full=data.draw(st.integers(0, 2)),
            near=data.draw(st.integers(0, 2)),
            held=cache_selection.subjects.Coverage(1, 1, 1, data.draw(st.integers(0, 1))),
            distance=data.draw(st.integers(0, 1)),
        )
        for cache in views
    ]
    ranked = cache_selection.rank_matches(matches, dialect)

    assert cache_selection.rank_matches(data.draw(st.permutations(matches)), dialect) == ranked
    for better, worse in itertools.pairwise(ranked):
        assert cache_selection.rank_matches([worse, better], dialect) == [better, worse]
