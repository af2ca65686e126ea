"""Which images are worth a cache, what it would spare, and the objects for it."""

from typing import Any

import pytest

from agent.control.caches import cache_object
from agent.control.pulls import advice, image_costs
from agent.model import cache_manifest, times

GIB = 1 << 30
NONE = advice.Cached(())
DIGEST = "sha256:" + "a" * 64


def cost(image: str = "r.io/app:1", **more: Any) -> image_costs.ImageCost:
    fields: dict[str, Any] = {
        "pulls": 10,
        "downloads": 8,
        "seconds": 200.0,
        "typical": 21.0,
        "size": GIB,
        "downloaded": 8 * GIB,
        "nodes": 8,
        "pods": {"team": "p"},
    }
    return image_costs.ImageCost(image=image, **fields | more)


def costs(*images: image_costs.ImageCost) -> image_costs.Costs:
    return image_costs.Costs(since=times.EPOCH, images=images)


def cached(*images: str, **status: Any) -> advice.Cached:
    body = {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": "c",
            "uid": "u",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-20T13:00:00Z",
        },
        "spec": {"images": list(images)},
        "status": status,
    }
    return advice.Cached([cache_object.parse(body)])


def verdict(each: image_costs.ImageCost, known: advice.Cached = NONE) -> advice.Verdict:
    return advice.advise(costs(each), known, most=10).images[0].verdict


def test_a_cache_spares_each_download_but_the_second_that_it_takes_itself() -> None:
    (best,) = advice.advise(costs(cost()), NONE, most=10).next

    assert best.seconds == 8 * (21.0 - advice.READY)
    assert best.size == 8 * GIB


def test_never_more_than_all_pulls_took() -> None:
    """The median is of the last downloads, which may have been slower than those of the span."""
    (best,) = advice.advise(costs(cost(seconds=50.0, downloads=3)), NONE, most=10).next

    assert best.seconds == 50.0


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, advice.Verdict.WORTH),
        ({"typical": 2.9}, advice.Verdict.QUICK),
        ({"downloads": 1}, advice.Verdict.ONCE),
        ({"downloads": 0, "typical": 0.0}, advice.Verdict.QUICK),
        ({"pods": {"kube-system": "p", "uimgacc-system": "q"}}, advice.Verdict.SYSTEM),
        ({"pods": {"kube-system": "p", "team": "q"}}, advice.Verdict.WORTH),
    ],
)
def test_what_is_not_worth_a_cache(more: dict[str, Any], expected: advice.Verdict) -> None:
    assert verdict(cost(**more)) is expected


def test_what_caches_have_already() -> None:
    built = {"image": "r.io/app:1", "digest": DIGEST, "size": 1}
    ready = cached("r.io/app:1", phase="Ready", images=[built])

    assert verdict(cost("r.io/app:1"), ready) is advice.Verdict.CACHED
    assert verdict(cost(f"r.io/app@{DIGEST}"), ready) is advice.Verdict.CACHED
    assert verdict(cost(f"r.io/app:2@{DIGEST}"), ready) is advice.Verdict.CACHED
    assert verdict(cost("r.io/app:2"), ready) is advice.Verdict.WORTH
    assert verdict(cost("r.io/app:1"), cached("r.io/app:1")) is advice.Verdict.BUILDING
    failed = cached("r.io/app:1", phase="Failed")
    assert verdict(cost("r.io/app:1"), failed) is advice.Verdict.FAILED


def test_the_best_come_first_whatever_they_cost_without_gain() -> None:
    checks = cost("r.io/checks:1", seconds=9000.0, downloads=2, typical=4.0)
    slow = cost("r.io/slow:1", downloads=5, typical=61.0, seconds=305.0)

    made = advice.advise(costs(checks, slow, cost()), NONE, most=2)

    assert [each.cost.image for each in made.next] == ["r.io/slow:1", "r.io/app:1"]
    assert len(made.images) == 3


def drafts(**users: dict[str, frozenset[str] | None]) -> list[cache_manifest.Draft]:
    """Of images r.io/NAME:1."""
    chosen = [cost(f"r.io/{name}:1") for name in users]
    made = advice.advise(costs(*chosen), NONE, most=20)
    return advice.drafts(made.next, {f"r.io/{name}:1": each for name, each in users.items()})


def test_images_without_secrets_are_together_by_namespace() -> None:
    public: frozenset[str] = frozenset()
    made = drafts(
        a={"team": public},
        b={"team": public},
        c={"team": public, "web": public},
        d={},
        e={"x": None},
    )

    assert [(list(each.images), list(each.pull_secrets)) for each in made] == [
        (["r.io/c:1", "r.io/d:1"], []),
        (["r.io/a:1", "r.io/b:1"], []),
        (["r.io/e:1"], []),
    ]
    assert [each.name.rpartition("-")[0] for each in made] == [
        "advised-shared",
        "advised-team",
        "advised-x",
    ]


def test_images_with_secrets_are_apart_for_each_namespace() -> None:
    made = drafts(
        a={"team": frozenset({"s1"}), "web": frozenset({"s2"}), "gone": None},
        b={"team": frozenset({"s3"})},
        c={"team": frozenset()},
    )

    assert [(list(each.images), list(each.pull_secrets)) for each in made] == [
        (["r.io/c:1"], []),
        (["r.io/a:1", "r.io/b:1"], ["team/s1", "team/s3"]),
        (["r.io/a:1"], ["web/s2"]),
    ]


def test_what_one_namespace_pulls_without_a_secret_needs_none() -> None:
    """A service account may have its pull secret on all of its pods."""
    (draft,) = drafts(a={"team": frozenset({"s1"}), "web": frozenset()})

    assert (list(draft.pull_secrets), draft.name.rpartition("-")[0]) == ([], "advised-shared")


def test_a_draft_is_a_valid_manifest_and_is_named_after_what_is_in_it() -> None:
    namespace = "n" * 63
    (first,) = drafts(a={namespace: frozenset({"s"})})
    (again,) = drafts(a={namespace: frozenset({"s"})})
    (other,) = drafts(b={namespace: frozenset({"s"})})

    request = cache_manifest.read(cache_manifest.write(first))

    assert (first.name, first.name != other.name) == (again.name, True)
    assert request.namespaces == [namespace]
    assert request.size_gib == 20


def test_the_size_limit_is_three_times_what_the_images_have_compressed() -> None:
    chosen = advice.advise(costs(cost(size=9 * GIB)), NONE, most=10).next

    assert advice.drafts(chosen, {})[0].size_gib == 27


def test_more_than_twenty_images_make_two_caches() -> None:
    made = advice.advise(costs(*(cost(f"r.io/app{n}:1") for n in range(25))), NONE, most=30)

    assert [len(each.images) for each in advice.drafts(made.next, {})] == [20, 5]
