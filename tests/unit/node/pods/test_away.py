"""Pods while the store does not answer: served by what the node has itself, and told the truth."""

import dataclasses

import pytest

from agent import errors
from agent.matching import decisions
from agent.model import pods
from agent.node.pods import decide
from tests.unit.node import conftest
from tests.unit.node.pods import test_prepare


class Away(test_prepare.Catalog):
    """A store that fails when it is asked, and counts how often."""

    def __init__(self, image: conftest.Image) -> None:
        super().__init__(image)
        self.asked = 0
        self.problem = "hangs"

    async def caches(self):
        self.asked += 1
        if self.problem:
            self.is_silent = True
            raise errors.TemporaryError(self.problem)
        self.is_silent = False
        return await super().caches()


class Setting(test_prepare.Setting):
    """A node whose store is away, and which has the image itself."""

    def __init__(self, image: conftest.Image) -> None:
        super().__init__(image)
        self.store, self.near = Away(image), test_prepare.Catalog(image)
        self.preparer._decider = decide.Decider(
            self.store, decide.Node(platform=conftest.PLATFORM), self.near
        )

    def add(self, image: str, **changes: object) -> pods.Pod:
        more = (*self.pod.containers, pods.Container(name="more", image=image))
        return dataclasses.replace(self.pod, containers=more, **changes)


@pytest.fixture
def given(image) -> Setting:
    return Setting(image)


async def test_what_is_here_is_registered_and_the_event_says_from_where(given, image) -> None:
    result = await given.serve()

    assert result.registered == (str(image.reference),)
    (event,) = result.decision.events
    assert (event.reason, event.type) == ("ImageCacheHit", "Normal")
    assert "served locally" in event.message
    assert result.retry is None


async def test_a_silent_store_is_not_waited_for_again(given) -> None:
    await given.serve()
    await given.serve()

    assert given.store.asked == 1


async def test_what_is_not_here_is_said_and_asked_for_again(given) -> None:
    given.near.images.clear()
    result = await given.serve()

    (event,) = result.decision.events
    assert (event.reason, event.type) == ("ImageCacheUnavailable", "Warning")
    assert "no complete copy on this node" in event.message
    assert "pulled from its registry" in event.message
    assert result.registered == ()
    assert result.retry is not None
    assert given.others.wished == []


async def test_of_two_images_the_one_that_is_here_is_served(given, image) -> None:
    other = "registry.example/other:1"
    result = await given.preparer.serve(given.add(other))

    assert result.registered == (str(image.reference),)
    assert list(result.failed) == [other]
    (event,) = result.decision.events
    assert other in event.message.partition("Served locally")[0]
    assert str(image.reference) in event.message.partition("Served locally")[2]


async def test_the_event_stays_small(given) -> None:
    given.near.images.clear()
    containers = tuple(
        pods.Container(name=f"c{number}", image=f"registry.example/{'x' * 190}:{number}")
        for number in range(9)
    )
    result = await given.serve(containers=containers)

    (event,) = result.decision.events
    assert len(event.message.encode()) <= 1024


async def test_clouds_events_of_a_hit_stay(given) -> None:
    result = await given.serve(annotations={"k8s.aliyun.com/eci-image-cache": "true"})

    (event,) = result.decision.events
    assert event.reason == "SuccessfulHitImageCache"
    assert event.message.startswith("Successfully hit image cache imc-one. ")


async def test_who_asked_for_nothing_gets_no_warning(given) -> None:
    given.near.images.clear()
    result = await given.serve(annotations={})

    assert result.decision.events == ()


async def test_a_cache_that_is_not_for_the_namespace_is_not_here_either(given) -> None:
    test_prepare.keep_private(given, "team")
    given.near.cache = given.catalog.cache
    result = await given.serve()

    assert result.registered == ()
    assert given.registrar.ahead == []


async def test_a_node_with_nothing_of_its_own_waits_for_the_store(given) -> None:
    given.near.ready = False
    with pytest.raises(errors.TemporaryError):
        await given.serve()


async def test_a_node_whose_own_records_may_not_be_used_too(given, monkeypatch) -> None:
    async def foreign():
        raise errors.PermanentError("it belongs to another cluster")

    monkeypatch.setattr(given.near, "caches", foreign)
    with pytest.raises(errors.TemporaryError):
        await given.serve()


async def test_a_store_that_answers_is_asked(given) -> None:
    given.store.problem = ""
    result = await given.serve()

    assert result.decision.outcome is decisions.Outcome.HIT
    assert "served locally" not in result.decision.events[0].message


async def test_a_pod_of_another_runtime_is_no_matter_of_the_store(given) -> None:
    await given.serve(runtime_class="runc")

    assert given.store.asked == 0
