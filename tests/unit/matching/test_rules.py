"""The decision: what is a hit, what may be registered, what is said to the pod's owner."""

import dataclasses
import itertools

import pytest

from agent.matching import decisions
from agent.model import caches, records
from tests.unit.matching import making

Outcome = decisions.Outcome

NATIVE = {"uimgacc.io/image-cache": "auto"}
ALIBABA = {"k8s.aliyun.com/eci-image-cache": "true"}
TENCENT = {"eks.tke.cloud.tencent.com/use-image-cache": "auto"}

ALL_AUTO = [
    pytest.param(NATIVE, id="native"),
    pytest.param(ALIBABA, id="alibaba"),
    pytest.param(TENCENT, id="tencent"),
]


def events(decision: decisions.Decision) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in decision.events]


def registered(decision: decisions.Decision) -> list[str]:
    return [image.image for image in decision.registrable]


def test_a_pod_that_asks_for_nothing_is_left_alone() -> None:
    decision = making.decide(
        making.pod("nginx"),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.NOT_ASKED
    assert (decision.events, decision.layers, decision.registrable) == ((), (), ())
    assert decision.auto_create is None


@pytest.mark.parametrize("asked", ALL_AUTO)
def test_an_image_in_a_public_cache_is_a_hit_and_may_be_registered(asked: dict[str, str]) -> None:
    decision = making.decide(
        making.pod("nginx", annotated=asked),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.HIT
    assert decision.reported == "imc-a12"
    assert registered(decision) == ["nginx"]
    assert decision.layers == (making.digest("layer a"), making.digest("layer b"))
    assert decision.coverage.fraction == 1.0
    assert decision.auto_create is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            NATIVE,
            ("Normal", "ImageCacheHit", "All images come from the store, image cache imc-a12."),
        ),
        (
            ALIBABA,
            ("Normal", "SuccessfulHitImageCache", "Successfully hit image cache imc-a12."),
        ),
        (TENCENT, ("Normal", "ImageCacheUsed", "Image cache imc-a12 used.")),
    ],
)
def test_a_hit_has_the_event_of_the_pods_dialect(
    asked: dict[str, str], expected: tuple[str, str, str]
) -> None:
    decision = making.decide(
        making.pod("nginx", annotated=asked),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    (event,) = decision.events
    assert (event.type, event.reason, event.message) == expected


def test_a_miss_at_alibaba_has_its_exact_event_and_a_cache_is_wanted() -> None:
    decision = making.decide(making.pod("nginx", annotated=ALIBABA), [], [])

    (event,) = decision.events
    assert (event.type, event.reason, event.message) == (
        "Warning",
        "ImageCacheMissed",
        "Missed image cache.",
    )
    assert decision.auto_create is not None
    created = decision.auto_create.event
    assert created.reason == "ImageCacheAutoCreated"
    assert created.message == f"Image cache {decision.auto_create.cache_id} is auto created"


def test_a_miss_at_tencent_is_silent_and_creates_nothing() -> None:
    decision = making.decide(making.pod("nginx", annotated=TENCENT), [], [])

    assert decision.outcome is Outcome.MISS
    assert decision.events == ()
    assert decision.auto_create is None


def test_another_tag_is_a_part_and_is_never_registered() -> None:
    decision = making.decide(
        making.pod("nginx:1.28", annotated=TENCENT),
        [making.cache("imc-a12", [("nginx:1.27", "ab")])],
        [],
    )

    assert decision.outcome is Outcome.PARTIAL
    assert decision.reported == "imc-a12"
    assert events(decision) == [("Normal", "ImageCacheUsed")]
    assert decision.registrable == ()


def test_one_image_of_two_is_a_part_and_the_other_is_named() -> None:
    decision = making.decide(
        making.pod("nginx", "redis", annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert [image.outcome for image in decision.images] == [Outcome.HIT, Outcome.MISS]
    assert decision.outcome is Outcome.PARTIAL
    assert registered(decision) == ["nginx"]
    assert events(decision) == [("Normal", "ImageCachePartial")]
    assert "redis" in decision.events[0].message


def test_images_of_two_caches_make_a_hit_and_the_better_is_reported() -> None:
    decision = making.decide(
        making.pod("nginx", "redis", annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "a")]), making.cache("imc-b12", [("redis", "z")])],
        [making.image("nginx", "a"), making.image("redis", "z")],
    )

    assert decision.outcome is Outcome.HIT
    assert decision.reported == "imc-b12"
    assert registered(decision) == ["nginx", "redis"]


@pytest.mark.parametrize(
    "reference",
    ["nginx", "docker.io/library/nginx:latest", f"nginx@{making.target('nginx', 'ab')}"],
)
def test_a_tag_and_a_digest_name_the_same_image(reference: str) -> None:
    decision = making.decide(
        making.pod(reference, annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.HIT
    assert registered(decision) == [reference]


def test_the_digest_of_another_build_is_no_hit() -> None:
    decision = making.decide(
        making.pod(f"nginx@{making.digest('other')}", annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.PARTIAL
    assert decision.registrable == ()


def test_the_same_digest_under_another_repository_is_not_registered() -> None:
    """Who may pull one repository need not be let into another."""
    decision = making.decide(
        making.pod(f"private.example.com/nginx@{making.target('', 'ab')}", annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.registrable == ()
    assert decision.images[0].coverage is None


# Namespaces.


def test_a_cache_with_pull_secrets_serves_the_namespace_it_names() -> None:
    decision = making.decide(
        making.pod("r.example.com/app:1", namespace="team-a", annotated=NATIVE),
        [making.cache("imc-a12", [("r.example.com/app:1", "ab")], namespaces=["team-a"])],
        [making.image("r.example.com/app:1", "ab")],
    )

    assert decision.outcome is Outcome.HIT
    assert registered(decision) == ["r.example.com/app:1"]


@pytest.mark.parametrize(
    "asked",
    [*ALL_AUTO, pytest.param({"uimgacc.io/image-cache": "imc-a12"}, id="pinned")],
)
def test_another_namespace_gets_the_layers_but_no_registration(asked: dict[str, str]) -> None:
    decision = making.decide(
        making.pod("r.example.com/app:1", namespace="team-b", annotated=asked),
        [making.cache("imc-a12", [("r.example.com/app:1", "ab")], namespaces=["team-a"])],
        [making.image("r.example.com/app:1", "ab")],
    )

    assert decision.outcome is Outcome.FORBIDDEN
    assert decision.registrable == ()
    assert decision.reported == ""
    assert len(decision.layers) == 2
    assert all("team-a" not in event.message for event in decision.events)
    # No event says that all of it is downloaded.
    messages = " ".join(event.message for event in decision.events)
    assert ("then their layers come from the store" in messages) is bool(decision.events)
    assert "pulled as usual" not in messages


def test_which_layers_an_image_has_is_not_said_to_those_who_may_not_have_it() -> None:
    decision = making.decide(
        making.pod("r.example.com/secret:1", namespace="team-b", annotated=NATIVE),
        [
            making.cache("imc-a12", [("r.example.com/secret:1", "abc")], namespaces=["team-a"]),
            making.cache("imc-open", [("docker.io/library/debian:13", "a")]),
        ],
        [making.image("r.example.com/secret:1", "abc"), making.image("debian:13", "a")],
    )

    assert decision.outcome is Outcome.FORBIDDEN
    assert all("some of its layers" not in event.message for event in decision.events)
    assert "imc-open" not in decision.images[0].reason


def test_what_another_namespace_has_is_built_again_only_with_secrets_of_ones_own() -> None:
    held = [making.cache("imc-a12", [("r.example.com/app:1", "ab")], namespaces=["team-a"])]
    stored = [making.image("r.example.com/app:1", "ab")]
    without = making.pod("r.example.com/app:1", namespace="team-b", annotated=NATIVE)
    having = making.pod(
        "r.example.com/app:1", namespace="team-b", annotated=NATIVE, secrets=["pull"]
    )

    assert making.decide(without, held, stored).auto_create is None
    wanted = making.decide(having, held, stored).auto_create
    assert wanted is not None
    assert wanted.request.namespaces == ["team-b"]
    naming = making.pod(
        "r.example.com/app:1",
        namespace="team-b",
        annotated={**NATIVE, "k8s.aliyun.com/acr-instance-id": "cri-1"},
    )
    opened = making.decide(naming, held, stored).auto_create
    assert opened is not None
    assert opened.request.namespaces == ["team-b"]


def test_a_public_build_of_a_tag_does_not_open_a_later_private_one() -> None:
    """The record of a tag is of its newest build; only who may use that gets it."""
    decision = making.decide(
        making.pod("app:1", namespace="team-b", annotated=NATIVE),
        [
            making.cache("imc-old", [("app:1", "ab")]),
            making.cache("imc-new", [("app:1", "ac")], namespaces=["team-a"]),
        ],
        [making.image("app:1", "ac")],
    )

    assert decision.outcome is Outcome.PARTIAL
    assert decision.reported == "imc-old"
    assert decision.registrable == ()


# Pins.


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("uimgacc.io/image-cache", [("Warning", "ImageCacheNotReady")]),
        ("k8s.aliyun.com/eci-image-snapshot-id", [("Warning", "ImageCacheNotFound")]),
        ("k8s.aliyun.com/eci-imc-id", [("Warning", "ImageCacheNotFound")]),
        ("eks.tke.cloud.tencent.com/use-image-cache", [("Warning", "ImageCacheNotReady")]),
    ],
)
def test_a_pin_that_does_not_exist_warns_and_pulls(
    key: str, expected: list[tuple[str, str]]
) -> None:
    decision = making.decide(
        making.pod("nginx", annotated={key: "imc-none"}),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.NOT_READY
    assert events(decision) == expected
    assert "imc-none" in decision.events[0].message
    assert decision.registrable == ()
    assert decision.auto_create is None


def test_a_named_cache_that_is_being_built_has_an_event() -> None:
    decision = making.decide(
        making.pod("nginx", annotated={"k8s.aliyun.com/eci-imc-id": "imc-a12"}),
        [],
        [],
        unfinished=["imc-a12"],
    )

    (event,) = decision.events
    assert (event.type, event.reason, event.message) == (
        "Normal",
        "ImageCacheNotComplete",
        "The production for specified image cache imc-a12 is not yet complete.",
    )


def test_a_pin_decides_even_where_another_cache_is_better() -> None:
    decision = making.decide(
        making.pod(
            "nginx",
            "redis",
            annotated={**ALIBABA, "k8s.aliyun.com/eci-image-snapshot-id": "imc-a12"},
        ),
        [
            making.cache("imc-a12", [("nginx", "ab")]),
            making.cache("imc-b12", [("nginx", "ab"), ("redis", "z")]),
        ],
        [making.image("nginx", "ab"), making.image("redis", "z")],
    )

    assert decision.reported == "imc-a12"
    assert [image.outcome for image in decision.images] == [Outcome.HIT, Outcome.MISS]
    assert registered(decision) == ["nginx"]
    # As at Alibaba, where a part is a hit; that the named cache lacks one is for us to say.
    assert events(decision) == [
        ("Normal", "SuccessfulHitImageCache"),
        ("Warning", "ImageCachePartial"),
    ]
    assert decision.events[0].message == "Successfully hit image cache imc-a12."
    assert "redis" in decision.events[1].message


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("uimgacc.io/image-cache", "ImageCacheMissed"),
        ("k8s.aliyun.com/eci-image-snapshot-id", "ImageCacheMissed"),
        ("eks.tke.cloud.tencent.com/use-image-cache", "ImageCacheMissed"),
    ],
)
def test_a_pin_without_the_image_warns_and_pulls(key: str, reason: str) -> None:
    decision = making.decide(
        making.pod("nginx", annotated={key: "imc-a12"}),
        [making.cache("imc-a12", [("redis", "z")]), making.cache("imc-b12", [("nginx", "ab")])],
        [making.image("nginx", "ab")],
    )

    assert decision.outcome is Outcome.MISS
    assert events(decision) == [("Warning", reason)]
    assert "imc-a12 does not have it" in decision.events[0].message
    assert decision.registrable == ()
    assert len(decision.layers) == 2


def test_our_own_annotation_takes_the_name_of_a_cache_too() -> None:
    decision = making.decide(
        making.pod("nginx", annotated={"uimgacc.io/image-cache": "web"}),
        [making.cache("imc-a12", [("nginx", "ab")], name="web")],
        [making.image("nginx", "ab")],
    )

    assert decision.reported == "imc-a12"
    assert decision.outcome is Outcome.HIT


def test_of_two_caches_with_the_pinned_name_every_node_takes_the_same() -> None:
    """Each dialect has names of its own, so one name may be there twice."""
    named = [making.cache(each, [("nginx", "ab")], name="web") for each in ("imc-a12", "imc-b12")]
    reported = {
        making.decide(
            making.pod("nginx", annotated={"uimgacc.io/image-cache": "web"}),
            order,
            [making.image("nginx", "ab")],
        ).reported
        for order in itertools.permutations(named)
    }

    assert reported == {"imc-a12"}


# What Alibaba's users may demand.


def perfect_or_count(annotation: dict[str, str]) -> decisions.Decision:
    return making.decide(
        making.pod("nginx", "redis", "mysql", annotated={**ALIBABA, **annotation}),
        [
            making.cache("imc-a12", [("nginx", "ab"), ("redis", "z")]),
            making.cache("imc-b12", [("mysql", "m")]),
        ],
        [making.image("nginx", "ab"), making.image("redis", "z"), making.image("mysql", "m")],
    )


def test_perfect_match_wants_all_images_in_one_cache() -> None:
    decision = perfect_or_count({"k8s.aliyun.com/imc-perfect-match": "true"})

    assert decision.outcome is Outcome.MISS
    assert decision.registrable == ()
    assert [candidate.rank for candidate in decision.candidates] == [None, None]
    assert decision.auto_create is not None


def test_a_count_wants_so_many_images_in_one_cache() -> None:
    decision = perfect_or_count({"k8s.aliyun.com/imc-match-count-request": "2"})

    assert decision.reported == "imc-a12"
    assert registered(decision) == ["nginx", "redis"]


def test_a_perfect_match_beats_a_count() -> None:
    decision = perfect_or_count(
        {
            "k8s.aliyun.com/imc-match-count-request": "1",
            "k8s.aliyun.com/imc-perfect-match": "true",
        }
    )

    assert decision.outcome is Outcome.MISS


# Platforms, damage, odd input.


def test_an_image_for_another_platform_is_not_used() -> None:
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE),
        [making.cache("imc-a12", [("nginx", "ab")])],
        [making.image("nginx", "ab", platform="linux/arm64")],
    )

    assert decision.outcome is Outcome.MISS
    assert "linux/arm64" in decision.images[0].reason
    assert decision.registrable == ()


def test_a_cache_whose_image_record_is_lost_is_a_part() -> None:
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE), [making.cache("imc-a12", [("nginx", "ab")])], []
    )

    assert decision.outcome is Outcome.PARTIAL
    assert decision.registrable == ()


def test_a_record_that_no_cache_holds_is_not_registered() -> None:
    """Its cache was deleted: nothing says any more which namespaces it may serve."""
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE), [], [making.image("nginx", "ab")]
    )

    assert decision.outcome is Outcome.MISS
    assert (decision.registrable, decision.layers) == ((), ())


def test_layers_above_a_missing_one_do_not_count() -> None:
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE),
        [making.cache("imc-a12", [("base", "ac")])],
        [making.image("nginx", "abc")],
    )

    (image,) = decision.images
    assert image.outcome is Outcome.PARTIAL
    assert image.layers == (making.digest("layer a"),)
    assert image.coverage is not None
    assert image.coverage.held_size == making.layer_size("a")


@pytest.mark.parametrize("image", ["{{inputs.parameters.image}}", "UPPER", "a@sha256:1"])
def test_an_image_that_is_none_is_a_miss_that_says_why(image: str) -> None:
    decision = making.decide(making.pod(image, annotated=NATIVE), [], [])

    assert decision.outcome is Outcome.MISS
    assert "not an image reference" in decision.images[0].reason
    assert decision.auto_create is None


def test_events_fit_into_what_the_api_server_takes() -> None:
    """1024 bytes, and never half a character."""
    decision = making.decide(
        making.pod("é" * 400, annotated={"uimgacc.io/image-cache": "imc-a12"}),
        [making.cache("imc-a12", [("redis", "z")], name="é" * 200)],
        [],
    )

    (event,) = decision.events
    assert 1000 < len(event.message.encode()) <= 1024


def test_a_record_with_more_layers_than_its_cache_is_no_hit() -> None:
    damaged = dataclasses.replace(
        making.cache("imc-a12", [("nginx", "ab")]), layers=frozenset({making.digest("layer a")})
    )
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE), [damaged], [making.image("nginx", "ab")]
    )

    assert decision.outcome is Outcome.PARTIAL
    assert decision.registrable == ()
    assert "not all layers" in decision.images[0].reason


# Creating on demand.


def auto_id(
    *wanted: str,
    secrets: tuple[str, ...] = (),
    namespace: str = "default",
    annotated: dict[str, str] | None = None,
) -> str:
    asked = {**NATIVE, **(annotated or {})}
    asking = making.pod(*wanted, annotated=asked, secrets=secrets, namespace=namespace)
    created = making.decide(asking, [], []).auto_create
    assert created is not None
    assert created.cache_id == created.request.cache_id
    assert records.is_cache_id(created.cache_id)
    return created.cache_id


def test_every_node_would_create_the_same_cache() -> None:
    assert auto_id("nginx", "redis") == auto_id("docker.io/library/redis", "nginx:latest")


def test_pods_with_secrets_get_a_cache_of_their_namespace() -> None:
    ids = {
        auto_id("nginx"),
        auto_id("nginx", secrets=("pull",)),
        auto_id("nginx", secrets=("pull",), namespace="other"),
    }

    assert len(ids) == 3


def test_pods_with_instances_of_a_registry_get_a_cache_of_their_namespace() -> None:
    """In the words of Alibaba's own example: the singular, with a region."""
    one = {"k8s.aliyun.com/acr-instance-id": "cn-hangzhou:cri-f34lmbk2rxqx41u8"}
    two = {"k8s.aliyun.com/acr-instance-ids": "cri-1, cn-hangzhou:cri-f34lmbk2rxqx41u8"}
    ids = {
        auto_id("nginx"),
        auto_id("nginx", annotated=one),
        auto_id("nginx", annotated=one, namespace="other"),
        auto_id("nginx", annotated=two),
        auto_id("nginx", annotated=one, secrets=("pull",)),
    }

    assert len(ids) == 5


def test_a_cache_that_is_being_built_is_not_created_again() -> None:
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE), [], [], unfinished=[auto_id("nginx")]
    )

    assert decision.auto_create is None


def test_layers_in_common_alone_do_not_keep_a_cache_from_being_created() -> None:
    """Half of all images stand on the same distribution."""
    for asked in (NATIVE, ALIBABA):
        decision = making.decide(
            making.pod("nginx", annotated=asked),
            [making.cache("imc-a12", [("debian", "a")])],
            [making.image("nginx", "ab")],
        )

        assert decision.auto_create is not None
        assert decision.layers == (making.digest("layer a"),)


def test_more_images_than_a_cache_takes_create_none() -> None:
    many = [f"app{number}" for number in range(caches.MAX_IMAGES + 1)]

    assert making.decide(making.pod(*many, annotated=NATIVE), [], []).auto_create is None


@pytest.mark.parametrize(
    ("served", "is_private"),
    [([["team-a"]], True), ([["team-a"], None], False), ([None], False)],
)
def test_an_image_is_private_unless_a_cache_for_all_has_it(served, is_private) -> None:
    """Registered in containerd, pods of every namespace on the node can start it."""
    decision = making.decide(
        making.pod("r.example.com/app:1", namespace="team-a", annotated=NATIVE),
        [
            making.cache(f"imc-a1{number}", [("r.example.com/app:1", "ab")], namespaces=namespaces)
            for number, namespaces in enumerate(served)
        ],
        [making.image("r.example.com/app:1", "ab")],
    )

    assert decision.outcome is Outcome.HIT
    assert [image.is_private for image in decision.images] == [is_private]


def test_the_same_layers_in_a_cache_for_all_do_not_make_an_image_public() -> None:
    """It is the image of that repository that a registry has given to all, or has not."""
    decision = making.decide(
        making.pod("r.example.com/app:1", namespace="team-a", annotated=NATIVE),
        [
            making.cache("imc-a12", [("r.example.com/app:1", "ab")], namespaces=["team-a"]),
            making.cache("imc-c12", [("r.example.com/other:1", "ab")]),
        ],
        [making.image("r.example.com/app:1", "ab")],
    )

    assert decision.images[0].is_private


@pytest.mark.parametrize(
    ("of_pod", "of_caches", "local"),
    [
        (None, ("", ""), None),
        (None, ("off", ""), "off"),
        (None, ("after-start", "before-start"), "before-start"),
        (None, ("off", "of a later version"), "off"),
        ("off", ("before-start", ""), "off"),
        ("sometimes", ("after-start", ""), "after-start"),
    ],
)
def test_a_pod_decides_on_local_copies_before_its_caches(
    of_pod: str | None, of_caches: tuple[str, str], local: str | None
) -> None:
    """Where neither says anything it is the node's setting: None."""
    decision = making.decide(
        making.pod("nginx", annotated=NATIVE | ({"uimgacc.io/local": of_pod} if of_pod else {})),
        [
            making.cache(f"imc-a1{at}", [("nginx", "ab")], local=each)
            for at, each in enumerate(of_caches)
        ],
        [making.image("nginx", "ab")],
    )

    assert [image.local for image in decision.images] == [local]
    assert decision.outcome is Outcome.HIT


@pytest.mark.parametrize("asked", [{}, NATIVE, ALIBABA], ids=["nothing", "native", "alibaba"])
def test_a_misspelt_annotation_is_a_warning_and_no_failure(asked: dict[str, str]) -> None:
    stored = [making.cache("imc-a12", [("nginx", "ab")])], [making.image("nginx", "ab")]
    wrong = asked | {"uimgacc.io/local": "yes"}

    decision = making.decide(making.pod("nginx", annotated=wrong), *stored)
    without = making.decide(making.pod("nginx", annotated=asked), *stored)

    (warning,) = set(decision.events) - set(without.events)
    assert (warning.type, warning.reason) == ("Warning", "InvalidAnnotation")
    assert "off, after-start or before-start" in warning.message
    assert decision.outcome is without.outcome


def test_a_pod_that_asks_for_no_cache_decides_on_local_copies() -> None:
    asking = making.pod("nginx", annotated={"uimgacc.io/local": "before-start"})

    assert [image.local for image in making.decide(asking, [], []).images] == ["before-start"]


def moved(
    ref: str = "docker.io/library/nginx:1", *, policy: str = "never", withheld: bool = True
) -> records.MovedTag:
    return records.MovedTag(
        ref=ref,
        target=making.digest("newer"),
        noticed="2026-07-01T12:31:00Z",
        confirmed="2026-07-01T12:21:00Z",
        policy=policy,
        withheld=withheld,
    )


@pytest.mark.parametrize("asked", ALL_AUTO)
def test_a_tag_that_is_withheld_is_left_to_the_pull_and_its_layers_are_served(
    asked: dict[str, str],
) -> None:
    decision = making.decide(
        making.pod("nginx:1", annotated=asked),
        [making.cache("imc-a12", [("nginx:1", "ab")], moved=[moved()])],
        [making.image("nginx:1", "ab")],
    )
    (image,) = decision.images

    assert (decision.outcome, registered(decision)) == (Outcome.PARTIAL, [])
    assert image.withheld
    assert len(decision.layers) == 2
    assert decision.auto_create is None
    event = decision.events[-1]
    assert event.reason == "ImageCacheStale"
    assert "last confirmed at 2026-07-01T12:21:00Z" in event.message
    assert "pulled as usual (serve-stale: never)" in event.message


def test_a_tag_that_is_served_although_it_has_moved_is_a_hit_and_says_so() -> None:
    stale = moved(policy="until-rebuilt", withheld=False)
    cache = making.cache("imc-a12", [("nginx:1", "ab")], moved=[stale])
    stored = [making.image("nginx:1", "ab")]
    decision = making.decide(making.pod("nginx:1", annotated=NATIVE), [cache], stored)

    assert (decision.outcome, registered(decision)) == (Outcome.HIT, ["nginx:1"])
    assert [event.reason for event in decision.events] == ["ImageCacheHit", "ImageCacheStale"]
    assert "the cached one is run (serve-stale: until-rebuilt)" in decision.events[1].message


def test_a_cache_that_is_to_stay_as_it_is_says_nothing() -> None:
    kept = moved(policy="always", withheld=False)
    cache = making.cache("imc-a12", [("nginx:1", "ab")], moved=[kept])
    stored = [making.image("nginx:1", "ab")]
    decision = making.decide(making.pod("nginx:1", annotated=ALIBABA), [cache], stored)

    assert [event.reason for event in decision.events] == ["SuccessfulHitImageCache"]


def test_an_image_that_is_always_pulled_has_no_event_about_its_tag() -> None:
    stale = moved("docker.io/library/nginx:latest", policy="until-rebuilt", withheld=False)
    cache = making.cache("imc-a12", [("nginx", "ab")], moved=[stale])
    stored = [making.image("nginx", "ab")]
    decision = making.decide(making.pod("nginx", annotated=NATIVE), [cache], stored)

    assert [event.reason for event in decision.events] == ["ImageCacheHit"]


def test_a_digest_is_served_whatever_becomes_of_the_tag() -> None:
    by_digest = f"nginx@{making.target('nginx:1', 'ab')}"
    cache = making.cache("imc-a12", [("nginx:1", "ab")], moved=[moved()])
    stored = [making.image("nginx:1", "ab")]
    decision = making.decide(making.pod(by_digest, annotated=NATIVE), [cache], stored)

    assert (decision.outcome, registered(decision)) == (Outcome.HIT, [by_digest])


def test_another_cache_that_has_the_new_image_serves_it() -> None:
    old = making.cache("imc-old", [("nginx:1", "ab")], moved=[moved()])
    new = making.cache("imc-new", [("nginx:1", "abc")])
    stored = [making.image("nginx:1", "abc")]
    decision = making.decide(making.pod("nginx:1", annotated=NATIVE), [old, new], stored)
    (image,) = decision.images

    assert (decision.outcome, image.cache_id, image.withheld) == (Outcome.HIT, "imc-new", False)
