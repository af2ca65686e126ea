"""What the controller reads of other people's Secrets and pods: used, or refused in a sentence."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clients.kube import refusals, rest_client
from agent.control.caches import cache_object
from agent.control.reconcile import cluster
from agent.model import cache_manifest, caches, keys
from tests.fakes import api as fakes

DAY = "2026-11-21T00:00:0"
NAME = caches.SecretName("team", "pull")
DENIED = refusals.Denied(fakes.refusal(403, "Forbidden"))
GOOD = base64.b64encode(json.dumps({"auths": {}}).encode()).decode()


class Api:
    """Answers every request with one object, or an error."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def get(self, *_: object, **__: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def pages(self, *_: object, **__: object) -> AsyncIterator[rest_client.Page]:
        yield rest_client.Page(
            raw=[msgspec.Raw(msgspec.json.encode(each)) for each in self.answer], version="1"
        )


def asked(answer: Any) -> cluster.Cluster:
    api: Any = Api(answer)
    return cluster.Cluster(api, namespace="system")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusals.NotFound(fakes.refusal(404, "NotFound")), "team/pull does not exist"),
        (DENIED, "team/pull may not be read"),
        ({"type": "Opaque", "data": {"password": GOOD}}, "is of type Opaque"),
        ({}, "is of type Opaque"),
        ({"data": {".dockerconfigjson": "e30"}}, "has no docker config in .dockerconfigjson"),
        ({"data": {".dockerconfigjson": "WzFd"}}, "has no docker config in .dockerconfigjson"),
        ({"data": {".dockercfg": "/w=="}}, "has no docker config in .dockercfg"),
    ],
)
async def test_a_secret_that_cannot_be_used_is_named_with_the_reason(answer, said: str) -> None:
    with pytest.raises(cluster.SecretUnusable, match=said):
        await asked(answer).pull_secrets([NAME])


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode()))
async def test_any_content_is_a_docker_config_or_none(content: bytes) -> None:
    encoded = base64.b64encode(content).decode()
    said = ""
    try:
        (found,) = await asked({"data": {".dockerconfigjson": encoded}}).pull_secrets([NAME])
    except cluster.SecretUnusable as error:
        said = str(error)
    else:
        assert (found, type(json.loads(content))) == (encoded, dict)
    # Of what is in it, which may be secret, nothing is repeated.
    assert said in ("", "the Secret team/pull has no docker config in .dockerconfigjson")


def cache(pod: str = "app") -> cache_object.CacheObject:
    annotations = {
        keys.CREATED_FOR: f"team/{pod}",
        keys.CREATED_FOR_UID: "u",
        keys.CREATED_ON: "n",
    }
    spec = {"images": ["nginx:1"], "imagePullSecrets": [str(NAME)]}
    made = {"apiVersion": "uimgacc.io/v1", "kind": "ImageCache", "spec": spec}
    request = cache_manifest.read({**made, "metadata": {"name": "x"}})
    name = caches.name_of_auto_cache(
        caches.id_of_images(request.images, pull_secrets=request.pull_secrets)
    )
    meta = {"name": name, "uid": "c", "resourceVersion": "1", "annotations": annotations}
    return cache_object.parse({**made, "metadata": {**meta, "labels": {keys.AUTO_CREATED: "true"}}})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusals.NotFound(fakes.refusal(404, "NotFound")), "is gone"),
        (DENIED, "the pod team/app cannot be read: test: 403 Forbidden"),
        ({"kind": "Secret"}, "the pod team/app cannot be read"),
        ({"metadata": {"name": "app"}, "spec": {}}, "the pod team/app cannot be read"),
    ],
)
async def test_a_pod_that_cannot_be_read_entitles_to_nothing(answer, said: str) -> None:
    assert said in await asked(answer).origin_problem(cache())


async def test_nothing_but_a_pod_can_be_named() -> None:
    """`..` would be another path of the API."""
    for name in ("..", "../secrets/pull", "a/b", "", "a?b"):
        assert "name the pod" in await asked(AssertionError()).origin_problem(cache(name))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ("metadata", "spec", "status", "containers", "imagePullSecrets", "annotations", "name")


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.dictionaries(st.sampled_from(FIELDS), JSON))
)
async def test_any_answer_is_a_pod_or_a_reason(answer: dict[str, Any]) -> None:
    assert await asked(answer).origin_problem(cache())


def builder(second: int, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "j", "creationTimestamp": f"{DAY}{second}Z"}, "status": status}


async def test_the_last_pod_of_a_job_says_why_it_failed() -> None:
    """Names of pods have no order; those before it were evicted from other nodes."""
    ended = {"state": {"terminated": {"exitCode": 1, "message": "no such image"}}}
    failed = builder(2, phase="Failed", containerStatuses=[ended])
    evicted = builder(1, phase="Failed", reason="Evicted", message="disk")

    for order in ([failed, evicted], [evicted, failed]):
        assert await asked(order).reason_of("j") == "no such image"
    assert "evicted: disk" in await asked([evicted]).reason_of("j")
