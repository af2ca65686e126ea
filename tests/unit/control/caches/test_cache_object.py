"""Objects as the controller reads them: whose word counts for what."""

from typing import Any

import pytest

from agent.control.caches import cache_object
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
