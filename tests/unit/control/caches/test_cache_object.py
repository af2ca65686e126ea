"""Objects as the controller reads them: whose word counts for what."""

from typing import Any

import pytest

from agent.control.caches import cache_object, schedules
from agent.model import caches, images, keys


def automatic(*, generation: int, **spec: Any) -> dict[str, Any]:
    """An automatic cache with a pull secret, as an agent makes it, or as it was edited since."""
    secret = caches.SecretName("team", "pull")
    cache_id = caches.id_of_images([images.parse_reference("r.io/a:1")], pull_secrets=[secret])
    return {
        "apiVersion": "uimgacc.io/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": caches.name_of_auto_cache(cache_id),
            "uid": "u",
            "resourceVersion": "1",
            "generation": generation,
            "labels": {keys.AUTO_CREATED: "true"},
        },
        "spec": {"images": ["r.io/a:1"], "imagePullSecrets": [str(secret)], **spec},
    }


@pytest.mark.parametrize(("generation", "served"), [(1, ["team"]), (2, None)])
def test_an_agent_gives_nobody_what_a_secret_has_opened(generation: int, served: Any) -> None:
    """Only a person does, who has edited the object: where admission policies are not enforced."""
    found = cache_object.parse(automatic(generation=generation, namespaces=["*"]))

    assert found.auto
    assert found.request is not None
    assert found.request.namespaces == served


def test_who_is_served_is_a_part_of_what_is_built_only_where_it_is_said() -> None:
    """Else all caches would be built again by the first controller that knows the field."""
    bodies = [
        automatic(generation=2),
        automatic(generation=2, namespaces=["b", "a"]),
        automatic(generation=2, namespaces=["a", "b"]),
        automatic(generation=2, namespaces=["*"]),
    ]

    said, one, same, every = (cache_object.parse(body).spec_hash for body in bodies)

    assert said == "f780eb790e52"
    assert one == same
    assert len({said, one, every}) == 3


@pytest.mark.parametrize(
    ("group", "labels", "annotations", "of_cloud"),
    [
        ("uimgacc.io", {}, {}, False),
        ("uimgacc.io", {}, {keys.DIALECT: "alibaba"}, False),
        ("uimgacc.io", {keys.UCLOUD_LABEL: "true"}, {}, True),
        ("uimgacc.io", {keys.AUTO_CREATED: "true"}, {keys.DIALECT: "native"}, False),
        ("uimgacc.io", {keys.AUTO_CREATED: "true"}, {keys.DIALECT: "tencent"}, True),
        ("eci.alibabacloud.com", {}, {}, True),
    ],
)
def test_whose_words_a_cache_was_asked_for_in(
    group: str, labels: dict[str, str], annotations: dict[str, str], of_cloud: bool
) -> None:
    body = automatic(generation=1)
    body["metadata"] |= {"labels": labels, "annotations": annotations}

    assert cache_object.parse(body | {"apiVersion": f"{group}/v1"}).of_cloud is of_cloud


def test_an_agent_does_not_say_what_becomes_of_tags() -> None:
    body = automatic(generation=1)
    body["metadata"]["annotations"] = {keys.SERVE_STALE: "always"}
    found = cache_object.parse(body)
    body["metadata"]["generation"] = 2
    edited = cache_object.parse(body)

    assert found.request is not None
    assert edited.request is not None
    assert found.request.stale is None
    assert edited.request.stale == caches.serve_stale("always")


def test_a_schedule_that_is_none_is_remarked_on() -> None:
    body = automatic(generation=2)
    body["metadata"]["annotations"] = {keys.REFRESH_SCHEDULE: "0 3 * * *", keys.REFRESH_ZONE: "UTC"}
    good = cache_object.parse(body)
    body["metadata"]["annotations"][keys.REFRESH_ZONE] = "Shanghai"
    bad = cache_object.parse(body)

    assert good.request is not None
    assert bad.request is not None
    assert (good.schedule, good.request.warnings) == (schedules.Schedule("0 3 * * *"), ())
    assert bad.schedule is None
    assert "time zone such as" in bad.request.warnings[0]
