"""What a person and a program are told of a match."""

import io
import json

import pytest
import rich.console

from agent.cli.pods import explanation
from agent.matching import decisions
from agent.model import caches, records
from tests.unit.matching import making

NATIVE = {"uimgacc.io/image-cache": "auto"}


def shown(decision: decisions.Decision) -> str:
    written = io.StringIO()
    explanation.explain(rich.console.Console(width=160, file=written), decision, {})
    return written.getvalue()


@pytest.fixture
def partial() -> decisions.Decision:
    return making.decide(
        making.pod("nginx:1", "redis:7", annotated=NATIVE),
        [
            making.cache("imc-best", [("nginx:1", "ab")], name="web"),
            making.cache("imc-worse", [("nginx:2", "a")]),
            making.cache("imc-theirs", [("redis:7", "d")], namespaces=["team-a"]),
        ],
        [making.image("nginx:1", "ab"), making.image("redis:7", "d")],
    )


def test_images_caches_and_events_are_told(partial: decisions.Decision) -> None:
    text = shown(partial)

    for expected in (
        "default/pod: partial",
        "Asked by uimgacc.io/image-cache (native, automatic).",
        "runtime class uimgacc",
        "3.0 MiB of 3.0 MiB",
        "registered before the kubelet asks",
        "imc-theirs has it, but does not serve this namespace",
        "the best match",
        "behind imc-best: covers fewer bytes",
        "it serves other namespaces only",
        "ImageCachePartial",
    ):
        assert expected in text


def test_a_miss_says_what_would_be_created() -> None:
    text = shown(making.decide(making.pod("nginx", annotated=NATIVE), [], []))

    assert f"would be created: {caches.id_of_images([making.reference('nginx')])}" in text


def test_what_a_user_wrote_is_no_markup() -> None:
    text = shown(making.decide(making.pod("[bold]x[/bold]", annotated={"a": "[red]"}), [], []))

    assert "[bold]x[/bold]" in text


def test_the_json_is_complete_and_json(partial: decisions.Decision) -> None:
    told = json.loads(json.dumps(explanation.to_json(partial, {})))

    assert told["outcome"] == "partial"
    assert told["cacheId"] == "imc-best"
    assert told["acceleratedRuntime"] is False
    assert [image["outcome"] for image in told["images"]] == ["hit", "forbidden"]
    assert [image["registeredAhead"] for image in told["images"]] == [True, False]
    assert told["images"][0]["bytes"] == told["images"][0]["bytesInStore"]
    assert [candidate["cacheId"] for candidate in told["candidates"]] == [
        "imc-best",
        "imc-worse",
        "imc-theirs",
    ]
    assert told["events"][0]["reason"] == "ImageCachePartial"
    assert told["autoCreate"] is None


def test_the_json_of_a_miss_names_the_cache_to_create() -> None:
    decision = making.decide(making.pod("nginx", annotated=NATIVE), [], [])
    told = json.loads(json.dumps(explanation.to_json(decision, {})))

    assert told["autoCreate"]["images"] == ["docker.io/library/nginx:latest"]
    assert told["cacheId"] is None


def test_a_pod_that_asks_for_nothing_is_told_so() -> None:
    text = shown(making.decide(making.pod("nginx"), [], []))

    assert "not asked" in text
    assert "runtime class" not in text


def test_it_says_which_image_is_a_volume() -> None:
    asking = making.pod("nginx", annotated=NATIVE, volume="models/llama:1")
    decision = making.decide(asking, [], [])

    assert "models/llama:1 (volume)" in shown(decision)
    assert "nodes with the label uimgacc.io/image-volumes=true only" in shown(decision)
    told = json.loads(json.dumps(explanation.to_json(decision, {})))
    assert [image["volume"] for image in told["images"]] == [False, True]
    assert "docker.io/models/llama:1" in told["autoCreate"]["images"]


def test_it_says_when_a_tag_was_last_confirmed_and_that_it_has_moved() -> None:
    moved = records.MovedTag(
        ref="docker.io/library/redis:7",
        target=making.digest("newer"),
        noticed="2026-07-01T12:31:00Z",
        confirmed="2026-07-01T12:21:00Z",
        policy="never",
        withheld=True,
    )
    asking = making.pod("nginx:1", "redis:7", annotated=NATIVE)
    held = [("nginx:1", "ab"), ("redis:7", "d")]
    stored = [making.image("nginx:1", "ab"), making.image("redis:7", "d")]
    decision = making.decide(asking, [making.cache("imc-one", held, moved=[moved])], stored)
    confirmed = {"imc-one": "2026-07-01T12:30:00Z"}
    written = io.StringIO()
    console = rich.console.Console(width=250, file=written)
    explanation.explain(console, decision, confirmed)
    nginx, redis = explanation.to_json(decision, confirmed)["images"]

    assert "its tag was last confirmed at 2026-07-01T12:30:00Z" in written.getvalue()
    assert "as it was before the registry moved the tag" in written.getvalue()
    assert (nginx["tagConfirmed"], nginx["tagMoved"]) == ("2026-07-01T12:30:00Z", None)
    assert redis["tagConfirmed"] == "2026-07-01T12:21:00Z"
    assert redis["tagMoved"]["withheld"] is True
